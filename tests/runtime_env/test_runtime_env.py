"""Variables, files and packages that tasks and actors run with."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.exceptions import RuntimeEnvSetupError, WorkerCrashedError
from nbray.runtime_env import RuntimeEnv, RuntimeEnvConfig, packaging
from nbray.runtime_env.folders import PackageError
from nbray.runtime_env.setup import EnvError, EnvManager
from nbray.runtime_env.spec import from_text, merge, to_text
from nbray.testing import wait_until

# --- whatever goes wrong is said --------------------


def test_an_error_that_nobody_foresaw_is_an_answer_and_is_not_kept(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def fetch(uri: bytes) -> int:
        asked.append(uri)
        raise RuntimeError("the wire is on fire")

    async def twice() -> None:
        manager = EnvManager(tmp_path, fetch)
        for _ in range(2):
            with pytest.raises(EnvError, match="the wire is on fire"):
                await manager.prepare(to_text({"py_modules": ["gcs://_nbray_pkg_x.zip"]}))

    asyncio.run(twice())
    assert len(asked) == 2


# --- what may be said --------------------


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"env_vars": {"a": 1}}, TypeError, "but the value 1 is of type <class 'int'>"),
        ({"env_vars": {1: "a"}}, TypeError, "but the key 1 is of type <class 'int'>"),
        ({"working_dir": 3}, TypeError, "`working_dir` must be a string, got <class 'int'>."),
        ({"working_dir": "/nonexistent"}, ValueError, "/nonexistent is not a valid path."),
        ({"py_modules": "x"}, TypeError, "`py_modules` must be a list of strings"),
        ({"py_modules": [1]}, TypeError, "`py_module` must be a string, got <class 'int'>."),
        ({"pip": 1}, TypeError, r"runtime_env\['pip'\] must be of type str or List\[str\]"),
        ({"pip": [1]}, TypeError, r"runtime_env\['pip'\] must be of type str or List\[str\]"),
        ({"pip": {"a": 1}}, ValueError, "can only have these fields: packages, pip_check"),
        ({"pip": "missing.txt"}, ValueError, "missing.txt is not a valid file"),
        ({"uv": {"x": 1}}, ValueError, "packages, uv_check, uv_version and uv_pip_install_options"),
        ({"uv": ["a"], "pip": ["b"]}, ValueError, "cannot be specified at the same time"),
        ({"py_executable": 3}, TypeError, r"runtime_env\['py_executable'\] must be of type str"),
        ({"worker_process_setup_hook": 3}, TypeError, "setup_hook must be a function, got <class"),
        ({"worker_process_setup_hook": "f"}, ValueError, "as 'module.function'; got 'f'"),
        ({"working_dir": "file:///nonexistent"}, ValueError, "/nonexistent is not a valid path."),
        ({"config": {"setup_timeout_seconds": "x"}}, TypeError, "must be of type int, got: <class"),
        ({"excludes": "x"}, TypeError, r"runtime_env\['excludes'\] must be of type List\[str\]"),
        ({"config": 3}, TypeError, r"runtime_env\['config'\] must be of type dict"),
        ({"config": {"x": 1}}, ValueError, r"Unknown fields of runtime_env\['config'\]: \['x'\]"),
        ({"config": {"eager_install": 3}}, TypeError, "eager_install must be a boolean"),
        ({"config": {"setup_timeout_seconds": True}}, TypeError, "must be of type int"),
        ({"env_vars": {"": "a"}}, ValueError, "the name of an environment variable"),
        ({"env_vars": {"A=B": "a"}}, ValueError, "the name of an environment variable"),
        ({"env_vars": {"A": "\0"}}, ValueError, "the name of an environment variable"),
        (
            {"pip": {"packages": ["a"], "pip_install_options": "-q"}},
            TypeError,
            r"pip_install_options'\] must be of type List\[str\]",
        ),
        ({"pip": {"packages": ["a"], "pip_version": 22}}, TypeError, "must be of type str"),
        ({"pips": ["a"]}, ValueError, "Unknown fields of a runtime environment"),
    ],
)
def test_a_wrong_field_is_said_at_once(
    fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        RuntimeEnv(**fields)
    with pytest.raises(error, match=text):
        nbray.remote(runtime_env=fields)(os.getpid)


def test_requirements_have_one_full_form(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# comment\na==1\n\nb\n")
    full = {"pip": {"packages": ["a==1", "b"], "pip_check": False}}
    assert RuntimeEnv(pip=str(file)) == RuntimeEnv(pip=["a==1", "b"]) == full
    assert RuntimeEnv(pip=[], env_vars={}) == {}
    env = RuntimeEnv(env_vars={"A": "1"}, config={"setup_timeout_seconds": -1})
    assert env.env_vars() == {"A": "1"} and env.working_dir() is env.py_modules() is None
    assert env.to_dict() == {"env_vars": {"A": "1"}, "config": {"setup_timeout_seconds": -1}}
    with pytest.raises(ValueError, match="setup_timeout_seconds must be greater than zero"):
        RuntimeEnv(config={"setup_timeout_seconds": 0})


names = st.dictionaries(st.sampled_from("ABC"), st.text(max_size=3))


@given(names, names, st.booleans(), st.booleans())
def test_a_child_inherits_what_it_does_not_set(
    parent: dict[str, str], child: dict[str, str], parent_dir: bool, child_dir: bool
) -> None:
    above = {"env_vars": parent, **({"working_dir": "gcs://p"} if parent_dir else {})}
    below = {"env_vars": child, **({"working_dir": "gcs://c"} if child_dir else {})}
    merged = merge(above, below)
    assert merged.get("env_vars", {}) == {**parent, **child}
    expected = "gcs://c" if child_dir else "gcs://p" if parent_dir else None
    assert merged.get("working_dir") == expected
    assert from_text(to_text(merged)) == merged


# --- packages --------------------


def unpacked(data: bytes, folder: Path) -> int:
    """Unpack a package; its size."""
    package = folder.with_name("package.zip")
    package.write_bytes(data)
    return asyncio.run(packaging.unpack(package, folder))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "helper.py").write_text("WHO = 'the project'\n")
    (folder / "data" / "deep" / "number.txt").write_text("42")
    (folder / "data" / "big.bin").write_bytes(b"x" * 1000)
    (folder / "data" / ".gitignore").write_text("*.bin\n!deep/\n")
    (folder / ".gitignore").write_text("secret/\n*.log\n")
    (folder / "secret").mkdir()
    (folder / "secret" / "key").write_text("no")
    (folder / "run.log").write_text("no")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    return folder


def test_a_package_has_the_files_that_git_would_have(project: Path, tmp_path: Path) -> None:
    uri, data = packaging.pack(project, ["tool.*"], keep_name=False)
    target = tmp_path / "unpacked"
    unpacked(data, target)
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == [".gitignore", "data/.gitignore", "data/deep/number.txt", "helper.py"]
    assert packaging.pack(project, ["tool.*"], keep_name=False)[0] == uri
    (project / "helper.py").write_text("WHO = 'changed'\n")
    assert packaging.pack(project, ["tool.*"], keep_name=False)[0] != uri


def test_a_program_in_a_package_can_be_run(project: Path, tmp_path: Path) -> None:
    unpacked(packaging.pack(project, [], keep_name=True)[1], tmp_path / "unpacked")
    assert os.access(tmp_path / "unpacked" / "project" / "tool.sh", os.X_OK)


def test_a_package_that_is_too_large_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "MAX_BYTES", 10)
    with pytest.raises(PackageError, match="exceeds the limit"):
        packaging.pack(project, [], keep_name=False)


def test_a_package_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    import zipfile

    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(PackageError, match="outside of itself"):
        unpacked(evil.read_bytes(), tmp_path / "folder")
    assert not (tmp_path / "outside").exists()


# --- real clusters --------------------


@nbray.remote
def variables(*wanted: str) -> list[str | None]:
    return [os.environ.get(name) for name in wanted]


@nbray.remote
def pid() -> int:
    return os.getpid()


def test_variables_of_the_job_the_parent_and_the_task_are_merged(session_root: Path) -> None:
    nbray.init(
        num_cpus=2, object_store_memory=50 << 20,
        runtime_env={"env_vars": {"FROM_JOB": "job", "BOTH": "job"}},
    )  # fmt: skip
    assert nbray.get(variables.remote("FROM_JOB", "BOTH"), timeout=30) == ["job", "job"]
    own = {"env_vars": {"BOTH": "task", "PATHS": "/first:${HOME}${NOT_SET}:${FROM_JOB}"}}

    @nbray.remote(runtime_env=own)
    def parent() -> list[list[str | None]]:
        again = {"env_vars": {"OWN": "child"}}
        wanted = ("FROM_JOB", "BOTH", "PATHS", "OWN")
        assert nbray.get_runtime_context().runtime_env["env_vars"]["BOTH"] == "task"
        return nbray.get(
            [variables.remote(*wanted), variables.options(runtime_env=again).remote(*wanted)]
        )

    paths = f"/first:{os.environ['HOME']}:job"
    assert nbray.get(parent.remote(), timeout=60) == [
        ["job", "task", paths, None],
        ["job", "task", paths, "child"],
    ]
    assert "FROM_JOB" not in os.environ


def test_workers_are_kept_by_environment(cluster: Path) -> None:
    one = pid.options(runtime_env={"env_vars": {"A": "1"}})
    two = pid.options(runtime_env={"env_vars": {"A": "2"}})
    first = nbray.get([one.remote() for _ in range(5)], timeout=60)
    assert set(nbray.get([one.remote() for _ in range(5)], timeout=60)) & set(first)
    second = nbray.get([two.remote() for _ in range(5)], timeout=60)
    plain = nbray.get([pid.remote() for _ in range(5)], timeout=60)
    assert not set(first) & set(second) and not (set(first) | set(second)) & set(plain)
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "all CPUs to be free")


def test_tasks_and_actors_run_in_a_copy_of_the_working_dir(cluster: Path, project: Path) -> None:
    env = {"working_dir": str(project), "excludes": ["tool.sh"]}

    @nbray.remote(runtime_env=env)
    def look() -> tuple[str, str, bool, str]:
        import helper

        here = Path.cwd()
        number = Path("data/deep/number.txt").read_text()
        return helper.WHO, number, Path("tool.sh").exists(), str(here)

    @nbray.remote(runtime_env=env)
    class Actor:
        def look(self) -> str:
            return Path("data/deep/number.txt").read_text()

    who, number, excluded, here = nbray.get(look.remote(), timeout=60)
    assert (who, number, excluded) == ("the project", "42", False)
    assert here != str(project) and here.startswith(str(cluster))
    assert nbray.get(Actor.remote().look.remote(), timeout=60) == "42"


def test_modules_can_be_imported_by_name(cluster: Path, project: Path, tmp_path: Path) -> None:
    package = tmp_path / "grown_here"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 7\n")

    @nbray.remote(runtime_env={"py_modules": [str(package), str(project / "helper.py")]})
    def use() -> tuple[int, str]:
        import grown_here
        import helper

        return grown_here.VALUE, helper.WHO

    assert nbray.get(use.remote(), timeout=60) == (7, "the project")


BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "only_in_the_venv-1.5"
    info = name + ".dist-info/"
    with zipfile.ZipFile(f"{folder}/{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("only_in_the_venv.py", "VERSION = '1.5'")
        metadata = ("Metadata-Version: 2.1", "Name: only-in-the-venv", "Version: 1.5", "")
        wheel.writestr(info + "METADATA", "\\n".join(metadata))
        about = ("Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any", "")
        wheel.writestr(info + "WHEEL", "\\n".join(about))
        wheel.writestr(info + "RECORD", "")
    return f"{name}-py3-none-any.whl"
"""


@pytest.fixture
def requirement(tmp_path: Path) -> Path:
    """A package of our own with its own way to be built: no package index is asked for it."""
    folder = tmp_path / "installable"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (folder / "backend.py").write_text(BACKEND)
    return folder


def test_requirements_are_installed_once_for_fresh_interpreters(
    cluster: Path, requirement: Path
) -> None:
    env = {
        "pip": {
            "packages": [str(requirement)],
            "pip_install_options": ["--no-index"],
        },
        "env_vars": {"BESIDE": "it"},
    }

    @nbray.remote(runtime_env=env)
    def use() -> tuple[str, str, str, int]:
        import numpy
        import only_in_the_venv

        assert numpy.ones(1).sum() == 1, "what the node has is there too"
        return only_in_the_venv.VERSION, sys.executable, os.environ["BESIDE"], os.getppid()

    @nbray.remote(runtime_env=env)
    class Actor:
        def version(self) -> str:
            import only_in_the_venv

            return only_in_the_venv.VERSION

    version, python, beside, template = nbray.get(use.remote(), timeout=100)
    assert (version, beside) == ("1.5", "it")
    assert python.startswith(str(cluster)) and python != sys.executable
    assert nbray.get(Actor.remote().version.remote(), timeout=60) == "1.5"
    assert nbray.get(use.remote(), timeout=60)[3] == template
    with pytest.raises(ModuleNotFoundError):
        nbray.get(nbray.remote(lambda: __import__("only_in_the_venv")).remote(), timeout=60)


def test_uv_installs_as_pip_does(cluster: Path, requirement: Path) -> None:
    env = {"uv": {"packages": [str(requirement)], "uv_pip_install_options": ["--no-index"]}}

    @nbray.remote(runtime_env=env)
    def version() -> str:
        import only_in_the_venv

        return only_in_the_venv.VERSION

    assert nbray.get(version.remote(), timeout=100) == "1.5"


def test_what_takes_too_long_to_set_up_is_said(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text("import time\ntime.sleep(60)\n")
    env = RuntimeEnv(
        pip={"packages": [str(tmp_path)], "pip_install_options": ["--no-index"]},
        config=RuntimeEnvConfig(setup_timeout_seconds=2),
    )
    with pytest.raises(RuntimeEnvSetupError, match="took longer than 2 s"):
        nbray.get(pid.options(runtime_env=env).remote(), timeout=60)


def hooked_by_name() -> None:
    """A set-up hook that is named by its module."""
    os.environ["HOOKED"] = "by name"


def test_a_hook_runs_first_in_each_worker(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def hook() -> None:
        assert "HOOKED" not in os.environ, "it runs once"
        os.environ["HOOKED"] = "by value"

    def bad() -> None:
        raise ValueError("this hook is bad")

    nbray.init(num_cpus=2, runtime_env={"worker_process_setup_hook": hook})

    @nbray.remote
    def hooked() -> tuple[str, str]:
        return os.environ.get("HOOKED", ""), sys.executable

    @nbray.remote
    class Actor:
        def __init__(self) -> None:
            self.hooked = os.environ["HOOKED"]

        def get(self) -> str:
            return self.hooked

    assert {one for one, _ in nbray.get([hooked.remote() for _ in range(20)])} == {"by value"}
    assert nbray.get(Actor.remote().get.remote(), timeout=60) == "by value"
    named = hooked.options(
        runtime_env={"worker_process_setup_hook": "test_runtime_env.hooked_by_name"}
    )
    assert nbray.get(named.remote(), timeout=60)[0] == "by name"
    failing = hooked.options(runtime_env={"worker_process_setup_hook": bad}, max_retries=0)
    with pytest.raises(WorkerCrashedError, match="this hook is bad"):
        nbray.get(failing.remote(), timeout=60)
    # Another command for the interpreter: here the same one, by another name.
    link = tmp_path / "python"
    link.write_text(f'#!/bin/sh\nRUN_BY=wrapper exec {sys.executable} "$@"\n')
    link.chmod(0o755)
    wrapped = nbray.remote(lambda: os.environ.get("RUN_BY")).options(
        runtime_env={"py_executable": f"{link} -X dev"}
    )
    assert nbray.get(wrapped.remote(), timeout=60) == "wrapper"


def test_requirements_that_cannot_be_installed_fail_with_what_pip_said(
    cluster: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (broken / "backend.py").write_text("raise SystemExit('this cannot be built')\n")
    env = {
        "pip": {
            "packages": [str(broken)],
            "pip_install_options": ["--no-index"],
        }
    }
    with pytest.raises(RuntimeEnvSetupError, match="Failed to set up runtime environment") as e:
        nbray.get(pid.options(runtime_env=env).remote(), timeout=60)
    assert "this cannot be built" in str(e.value)

    @nbray.remote(runtime_env=env)
    class Actor:
        def ping(self) -> None: ...

    with pytest.raises(RuntimeEnvSetupError, match="this cannot be built"):
        nbray.get(Actor.remote().ping.remote(), timeout=60)
    assert isinstance(nbray.get(pid.remote(), timeout=30), int)
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "all CPUs to be free")


def test_what_an_earlier_removal_has_left_stops_no_later_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("A = 1")
    uri, data = packaging.pack(source, [], False)
    text = to_text({"working_dir": uri})

    async def fetch(key: bytes) -> bytes:
        return b"1" if key == uri.encode() else data

    async def scenario() -> None:
        manager = EnvManager(tmp_path / "here", fetch)
        unpacked = Path((await manager.prepare(text)).working_dir)
        left = unpacked.with_name(f".{unpacked.name}.gone")
        left.mkdir()
        (left / "of a process that still wrote").touch()
        keeping = asyncio.create_task(manager.keep_bounds(set, 0.05, 1 << 30))
        async with asyncio.timeout(20):
            while unpacked.exists() and not keeping.done():
                await asyncio.sleep(0.02)
            assert not keeping.done(), keeping.exception()
            unpacked = Path((await manager.prepare(text)).working_dir)
            while unpacked.exists():
                await asyncio.sleep(0.02)
        keeping.cancel()

    asyncio.run(scenario())


def test_of_a_file_that_grows_while_it_is_packed_what_there_was_is_sent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (4 << 20))

    class Growing(io.BytesIO):
        def write(self, block: Any) -> int:
            with log.open("ab") as file:
                file.write(b"y" * (8 << 20))
            assert log.stat().st_size < 1 << 30, "it comes to an end"
            return super().write(block)

    target = Growing()
    packaging.write_package(tmp_path, [], False, target)
    with zipfile.ZipFile(target) as archive:
        assert archive.getinfo("log").file_size == 4 << 20


def test_a_very_deep_folder_is_packed(tmp_path: Path) -> None:
    inner = tmp_path
    for _ in range(600):
        inner /= "d"
        inner.mkdir()
    (inner / "a.py").touch()
    _, data = packaging.pack(tmp_path, [], False)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["d/" * 600 + "a.py"]


def test_a_field_that_is_set_later_is_checked_and_the_whole_can_be_told(tmp_path: Path) -> None:
    env = nbray.runtime_env.RuntimeEnv(env_vars={"A": "1"})
    env.set("working_dir", str(tmp_path))
    with pytest.raises(TypeError, match="env_vars"):
        env["env_vars"] = {"A": 1}
    with pytest.raises(ValueError, match="nope"):
        env.set("nope", 1)
    assert env.to_dict() == {"env_vars": {"A": "1"}, "working_dir": str(tmp_path)}
    assert nbray.runtime_env.RuntimeEnv.deserialize(env.serialize()) == env
    tmp_path.rmdir()
    assert pickle.loads(pickle.dumps(env)) == env, "its folder need not be where it is read"
