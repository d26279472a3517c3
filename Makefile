# Which Python the environments are made with: `make clean`, then `make test PYTHON=python3.13`.
PYTHON ?= python3
# Here nbray is the checkout, and an edit is in force at once; there it is what users install.
BIN := .venv/bin
INSTALLED := .venv-wheel/bin
SOURCES := pyproject.toml README.md LICENSE \
    $(shell find nbray jupyter_ext dashboard -name __pycache__ -prune -o -print)
PYTEST := $(INSTALLED)/pytest --installed
RAY_PYTHON ?= .venv-ray/bin/python
OTHERS_PYTHON ?= .venv-others/bin/python
OTHERS_READY := $(if $(filter .venv-others/%,$(OTHERS_PYTHON)),.venv-others/ready)
RAY_READY := $(if $(filter .venv-ray/%,$(RAY_PYTHON)),.venv-ray/ready)

.PHONY: demo lab test test-browser test-slow chaos fuzz soak bench lint format docs clean help
# Each test has a cluster of its own and waits much: three run at a time, on two cores.
TEST_JOBS ?= 3
SLOW_JOBS ?= 2
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 30

define make_environment
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; set PYTHON=..."'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade pip 'setuptools>=77'
endef

.venv/ready: pyproject.toml ## For development: .venv/bin/python -m pytest tests/wire/test_x.py
	$(call make_environment,.venv)
	$(BIN)/python -m pip install --quiet -e '.[notebook,dev]'
	# An editable install leaves out data files, as is the one that names our extension to the server.
	install -D -m 644 jupyter_ext/config/nbray.json .venv/etc/jupyter/jupyter_server_config.d/nbray.json
	touch $@

.venv-wheel/dependencies: pyproject.toml
	$(call make_environment,.venv-wheel)
	$(INSTALLED)/python -m pip install --quiet '.[notebook,dev,browser]'
	touch $@

# What is installed is built anew when a source is newer, or is gone: that makes its folder newer.
.venv-wheel/ready: .venv-wheel/dependencies $(SOURCES)
	rm -rf build .venv-wheel/dist
	$(INSTALLED)/python -m pip wheel --quiet --no-deps --no-build-isolation -w .venv-wheel/dist .
	$(INSTALLED)/python -m pip install --quiet --no-deps --force-reinstall .venv-wheel/dist/nbray-*.whl
	rm -rf build
	touch $@

demo: .venv-wheel/ready ## The tour notebook, run headless on a real cluster
	$(INSTALLED)/python notebooks/run_tour.py

lab: .venv/ready ## The tour in JupyterLab
	$(BIN)/jupyter lab notebooks/tour.ipynb

test: .venv-wheel/ready ## The tests, on an installed wheel
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal

test-browser: .venv-wheel/ready ## JupyterLab in Chromium; NBRAY_SCREENSHOTS=FOLDER keeps pictures
	$(PYTEST) -m slow tests/jupyter_ext/test_jupyterlab.py

test-slow: .venv-wheel/ready .venv-third-party/ready .venv-ray-notebook/ready ## The tests that the default run leaves out: chaos, fuzz, tutorials, storms, ten kernels, the browser
	THIRD_PARTY_PYTHON=$(CURDIR)/.venv-third-party/bin/python \
	    $(PYTEST) -m "slow and not alone" -n $(SLOW_JOBS) --dist loadfile
	RAY_NOTEBOOK_PYTHON=$(CURDIR)/.venv-ray-notebook/bin/python $(PYTEST) -m "slow and alone"

# Libraries for Ray: Modin wants an older pandas than the suite has.
.venv-third-party/dependencies: pyproject.toml
	$(call make_environment,.venv-third-party)
	.venv-third-party/bin/python -m pip install --quiet '.[third-party]'
	touch $@

.venv-third-party/ready: .venv-third-party/dependencies .venv-wheel/ready
	.venv-third-party/bin/python -m pip install --quiet --no-deps --force-reinstall .venv-wheel/dist/nbray-*.whl
	touch $@

# A kernel on Ray has both. JupyterLab is left out: a library of its makes Ray start slowly.
.venv-ray-notebook/dependencies: pyproject.toml
	$(call make_environment,.venv-ray-notebook)
	.venv-ray-notebook/bin/python -m pip install --quiet '.[ray]' matplotlib
	touch $@

.venv-ray-notebook/ready: .venv-ray-notebook/dependencies .venv-wheel/ready
	.venv-ray-notebook/bin/python -m pip install --quiet --no-deps --force-reinstall .venv-wheel/dist/nbray-*.whl
	touch $@

bench: .venv/ready $(RAY_READY) $(OTHERS_READY) ## nbray beside Ray and others; BENCH='--rows pattern --rounds 3 --quick'
	# What pip installed is compiled, as that of the others is; a checkout may never be.
	$(BIN)/python -m compileall -q nbray jupyter_ext dashboard
	RAY_PYTHON=$(RAY_PYTHON) OTHERS_PYTHON=$(OTHERS_PYTHON) $(BIN)/python -m benchmarks $(BENCH)

.venv-others/ready: benchmarks/requirements-others.txt
	$(PYTHON) -m venv .venv-others
	.venv-others/bin/python -m pip install --quiet --upgrade pip
	.venv-others/bin/python -m pip install --quiet -r $<
	touch $@

.venv-ray/ready: benchmarks/requirements-ray.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --upgrade pip
	.venv-ray/bin/python -m pip install --quiet -r $<
	touch $@

chaos: .venv/ready ## Ten minutes of chaos, from a random seed that it prints
	PYTHONPATH=tests $(BIN)/python tests/scenarios/chaos.py --seconds 60 --runs 10

fuzz: .venv/ready ## Every listener under random and mutated input; FUZZ_SECONDS=600
	$(BIN)/python tests/wire/fuzz.py --seconds $(FUZZ_SECONDS)

soak: .venv/ready ## Mixed work on two nodes, and whether everything levels off; SOAK_MINUTES=30
	$(BIN)/python tests/scenarios/soak.py --minutes $(SOAK_MINUTES)

lint: .venv/ready ## ruff, mypy (strict) and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv-docs/ready ## The site of the documents, strictly, in the folder site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# What the pages are generated from is the checkout's.
.venv-docs/ready: pyproject.toml
	$(call make_environment,.venv-docs)
	.venv-docs/bin/python -m pip install --quiet -e '.[docs]'
	touch $@

format: .venv/ready ## Format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environments and what was built
	rm -rf .venv .venv-wheel .venv-ray .venv-others .venv-third-party .venv-ray-notebook \
	    .venv-docs build site *.egg-info

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r target said; do printf '  %-13s %s\n' "$$target" "$$said"; done
