"""Ray's name: what `import ray` gives under `nbray.compat`, here, in workers and in children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import told


def test_ray_is_nbray_in_the_program_its_workers_and_its_children(
    tmp_path: Path, session_root: Path
) -> None:
    (tmp_path / "shipped.py").write_text("import ray\ndef there():\n    return ray.__version__\n")
    assert told(
        tmp_path,
        """
import json, subprocess, sys
import ray
import shipped
from ray.util.queue import Queue

ray.init(num_cpus=1)

@ray.remote
def task():
    import ray
    from ray.exceptions import RayError
    import importlib.metadata
    child = subprocess.run(
        [sys.executable, "-c", "import ray.util; print(ray.__name__, ray.__version__)"],
        capture_output=True, text=True, check=True,
    )
    return [
        ray.__version__, shipped.there(), RayError.__module__, ray.get(ray.put(1)),
        importlib.metadata.version("ray"), child.stdout,
    ]

@ray.remote
class Actor:
    def name(self):
        import ray.util.state
        return ray.get_runtime_context().get_actor_id() is not None

print(json.dumps([
    ray.get(task.remote()), ray.get(Actor.remote().name.remote()), sys.argv[1:], __name__,
]))
""",
    ) == [
        ["2.60.0", "2.60.0", "nbray.exceptions", 1, "2.60.0", "ray 2.60.0\n"],
        True, ["an", "x"], "__main__",
    ]  # fmt: skip


def test_a_module_is_one_object_under_both_names(tmp_path: Path, session_root: Path) -> None:
    assert told(
        tmp_path,
        """
import json, pickle, sys
import nbray, nbray.util.queue
spec = nbray.util.queue.__spec__
import ray, ray.util.queue, ray.exceptions
from ray import ObjectRef, remote
import ray._private.services
print(json.dumps([
    ray.ObjectRef is nbray.ObjectRef is ObjectRef, ray.util.queue is nbray.util.queue,
    ray.util.queue.__spec__ is spec, sys.modules["ray.exceptions"] is nbray.exceptions,
    pickle.loads(pickle.dumps(ray)) is ray,
    pickle.loads(pickle.dumps(ray.ObjectID)) is ray.ObjectID,
    nbray.__version__ == ray.__version__, ray.get is nbray.get,
]))
""",
    ) == [True, True, True, True, True, True, False, True]


def test_who_imports_ray_lazily_has_it_at_first_use(tmp_path: Path, session_root: Path) -> None:
    assert told(
        tmp_path,
        """
import importlib.util, json, sys

def lazily(name):
    spec = importlib.util.find_spec(name)
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module

ray = lazily("ray")
before = ray.is_initialized()
queue = lazily("ray.util.queue")
ray.init(num_cpus=1)
import nbray.util.queue
spec = nbray.util.queue.__spec__
print(json.dumps([
    before, ray.get_runtime_context().worker.mode, ray.get(ray.put(1)), ray.__version__,
    ray is sys.modules["ray"], queue.Queue is nbray.util.queue.Queue, spec.name,
]))
""",
    ) == [False, 0, 1, "2.60.0", True, True, "nbray.util.queue"]  # fmt: skip


def test_what_is_missing_says_so_and_where_it_is_told(tmp_path: Path, session_root: Path) -> None:
    tries = [
        "import ray.tune", "from ray import tune", "ray.train", "import ray.util.collective",
        "from ray.tune import Tuner", "import ray.launcher",
    ]  # fmt: skip
    answers = told(
        tmp_path,
        f"""
import importlib.util, json
import ray
def attempt(text):
    try:
        exec(text)
    except (ImportError, AttributeError) as error:
        return [type(error).__name__, str(error)]
print(json.dumps([
    [attempt(text) for text in {tries!r}],
    [importlib.util.find_spec(name) is None for name in ("ray.tune", "ray.util", "ray")],
    hasattr(ray, "train"), getattr(ray, "util", None) is not None,
]))
""",
    )
    assert isinstance(answers, list)
    errors, *rest = answers
    assert [error[0] for error in errors] == [
        "ModuleNotFoundError", "ModuleNotFoundError", "AttributeError", "ModuleNotFoundError",
        "ModuleNotFoundError", "ModuleNotFoundError",
    ]  # fmt: skip
    assert all("docs/coming-from-ray.md" in error[1] for error in errors)
    assert rest == [[True, False, False], False, True]


def test_install_twice_is_once_and_comes_first(tmp_path: Path, session_root: Path) -> None:
    (tmp_path / "ray.py").write_text("")
    done = told(
        tmp_path,
        """
import json, sys, threading
import ray as strangers
from nbray import compat
def attempt():
    try:
        compat.install()
    except RuntimeError as error:
        return str(error)
first = attempt()
del sys.modules["ray"]
threads = [threading.Thread(target=compat.install) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
import ray
print(json.dumps([
    first, sum(type(f).__name__ == "RayFinder" for f in sys.meta_path), ray is not strangers,
    attempt(),
]))
""",
        under=False,
    )
    assert isinstance(done, list)
    assert "Ray itself has been imported already" in done[0]
    assert done[1:] == [1, True, None]


def test_install_after_init_says_what_to_do(cluster: Path) -> None:
    from nbray import compat

    with pytest.raises(RuntimeError, match=r"comes before nbray\.init"):
        compat.install()
    assert not compat.is_installed()


def test_it_runs_modules_and_code_and_refuses_the_rest(tmp_path: Path) -> None:
    def call(*args: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "nbray.compat", *args], capture_output=True, text=True,
            check=False, cwd=tmp_path,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__main__.py").write_text(
        "import sys, ray\nprint(__package__, ray.__name__, sys.argv[1:])\nsys.exit(3)\n"
    )
    assert call("-m", "pack", "-v") == (3, "pack ray ['-v']\n")
    assert call("-c", "import ray, sys; print(ray.__name__, sys.argv)", "y") == (
        0, "ray ['-c', 'y']\n",
    )  # fmt: skip
    for args, why in (
        ((), "a program is missing"), (("nothing.py",), "can't open 'nothing.py'"),
        (("-m", "nothing.at.all"), "No module named 'nothing'"), (("-q",), "no option -q"),
    ):  # fmt: skip
        status, text = call(*args)
        assert status == 1 and why in text and "Traceback" not in text
