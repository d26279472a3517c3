# Which Python .venv is made with: `make clean`, then `make test PYTHON=python3.13`.
PYTHON ?= python3
BIN := .venv/bin
RAY_PYTHON ?= .venv-ray/bin/python
RAY_READY := $(if $(filter .venv-ray/%,$(RAY_PYTHON)),.venv-ray/ready)

.PHONY: demo lab test test-browser test-slow chaos fuzz soak bench lint format clean
# Each test has a cluster of its own and waits much: three run at a time, on two cores.
TEST_JOBS ?= 3
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 30

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; set PYTHON=..."'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[notebook,dev]'
	# An editable install leaves out data files; this one enables the Jupyter Server extension.
	install -D -m 644 jupyter_ext/config/nbray.json .venv/etc/jupyter/jupyter_server_config.d/nbray.json
	touch $@

demo: .venv/ready ## The tour notebook, run headless on a real cluster
	$(BIN)/python notebooks/run_tour.py

lab: .venv/ready ## The tour in JupyterLab
	$(BIN)/jupyter lab notebooks/tour.ipynb

test: .venv/ready
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

test-browser: .venv/ready ## JupyterLab in Chromium; NBRAY_SCREENSHOTS=FOLDER keeps pictures
	$(BIN)/python -m pip install --quiet -e '.[notebook,dev,browser]'
	$(BIN)/python -m pytest -m slow tests/test_jupyterlab.py

test-slow: .venv/ready .venv-third-party/ready ## The tests that the default run leaves out: chaos, fuzz, tutorials, storms, ten kernels, the browser
	$(BIN)/python -m pip install --quiet -e '.[notebook,dev,browser]'
	THIRD_PARTY_PYTHON=$(CURDIR)/.venv-third-party/bin/python $(BIN)/python -m pytest -m slow

# Libraries for Ray: Modin wants an older pandas than the suite has.
.venv-third-party/ready: pyproject.toml
	$(PYTHON) -m venv .venv-third-party
	.venv-third-party/bin/python -m pip install --quiet -e '.[third-party]'
	touch $@

bench: .venv/ready $(RAY_READY) ## nbray beside Ray; BENCH='--rows pattern --rounds 3 --quick'
	RAY_PYTHON=$(RAY_PYTHON) $(BIN)/python -m benchmarks $(BENCH)

.venv-ray/ready: benchmarks/requirements-ray.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --upgrade pip
	.venv-ray/bin/python -m pip install --quiet -r $<
	touch $@

chaos: .venv/ready ## Ten minutes of chaos, from a random seed that it prints
	$(BIN)/python tests/chaos.py --seconds 60 --runs 10

fuzz: .venv/ready ## Every listener under random and mutated input; FUZZ_SECONDS=600
	$(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS)

soak: .venv/ready ## Mixed work on two nodes, and whether everything levels off; SOAK_MINUTES=30
	$(BIN)/python tests/soak.py --minutes $(SOAK_MINUTES)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-ray .venv-third-party build *.egg-info
