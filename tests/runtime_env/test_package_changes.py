"""Folders of runtime environments: what has changed is sent anew, and links are followed."""

from __future__ import annotations

import importlib
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nbray
from nbray.exceptions import RuntimeEnvSetupError
from nbray.runtime_env import folders
from nbray.runtime_env.folders import Look, PackageError, files_of


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "inner").mkdir(parents=True)
    (tmp_path / "project" / "settings_of_it.py").write_text("VALUE = 1")
    return tmp_path / "project"


@nbray.remote
def value() -> Any:
    return importlib.import_module("settings_of_it").VALUE


@nbray.remote(num_cpus=0)
class Holder:
    def value(self) -> Any:
        return importlib.import_module("settings_of_it").VALUE


@nbray.remote
def has(name: str) -> bool:
    return os.path.exists(name)


def test_what_was_edited_runs_new_and_what_was_not_is_not_sent_again(
    cluster: Path, project: Path
) -> None:
    env = {"working_dir": str(project)}
    task, file = value.options(runtime_env=env), project / "settings_of_it.py"
    for number in (1, 2, 3):  # of one length, one right after the other
        file.write_text(f"VALUE = {number}")
        assert nbray.get(task.remote(), timeout=60) == number
    assert nbray.get(Holder.options(runtime_env=env).remote().value.remote(), timeout=60) == 3
    file.write_text("VALUE = 4")
    refs = [task.remote()]
    file.write_text("VALUE = 5")
    refs.append(task.remote())
    assert nbray.get(refs, timeout=60) == [4, 5]
    assert nbray.get(Holder.options(runtime_env=env).remote().value.remote(), timeout=60) == 5


def test_modules_and_new_files_are_looked_at_again(cluster: Path, project: Path) -> None:
    module = project / "settings_of_it.py"
    task = value.options(runtime_env={"py_modules": [str(module)]})
    assert nbray.get(task.remote(), timeout=60) == 1
    module.write_text("VALUE = 'edited'")
    assert nbray.get(task.remote(), timeout=60) == "edited"
    look = has.options(runtime_env={"working_dir": str(project)})
    assert not nbray.get(look.remote("inner/new"), timeout=60)
    (project / "inner" / "new").touch()
    assert nbray.get(look.remote("inner/new"), timeout=60)
    (project / "inner" / ".gitignore").write_text("new")
    assert not nbray.get(look.remote("inner/new"), timeout=60)


def test_links_are_followed_and_what_cannot_be_sent_is_said(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data.txt").write_text("data")
    (project / "data").symlink_to(outside)
    (project / "inner" / "back").symlink_to(project)
    (project / "again").symlink_to(project / "inner")
    (outside / "deep").symlink_to(outside)
    (project / "nowhere").symlink_to(tmp_path / "nothing")
    with caplog.at_level(logging.WARNING):
        names = [name for _, name in files_of(project, [], False, Look())]
    assert names == ["data/data.txt", "settings_of_it.py"]
    for left_out in ("inner/back", "again/back", "data/deep", "nowhere"):
        assert f"{project / left_out} is not sent" in caplog.text
    names = [name for _, name in files_of(project, ["data"], False, Look())]
    assert names == ["settings_of_it.py"]


def test_links_that_multiply_are_bounded(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MOST_FILES", 1000)
    for depth in range(20):
        folder = tmp_path / f"level{depth}"
        folder.mkdir()
        for side in ("a", "b"):
            (folder / side).symlink_to(tmp_path / f"level{depth + 1}")
    (tmp_path / "level20").mkdir()
    with pytest.raises(PackageError, match="more than 1,000 files and folders"):
        files_of(tmp_path / "level0", [], False, Look())


def test_a_link_to_what_is_too_large_is_refused(
    cluster: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbray.runtime_env.packaging.MAX_BYTES", 1000)
    (tmp_path / "large").write_bytes(bytes(2000))
    (project / "data").symlink_to(tmp_path / "large")
    with pytest.raises(RuntimeEnvSetupError, match="exceeds the limit"):
        value.options(runtime_env={"working_dir": str(project)}).remote()


def test_a_look_sees_every_kind_of_change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_TICK_NS", 60_000_000_000)  # this machine may be busy
    file = project / "settings_of_it.py"
    before = time.time() - 10
    changes = (
        lambda: file.write_text("VALUE = 2"),
        lambda: (project / "new.py").touch(),
        lambda: (project / "new.py").unlink(),
        lambda: file.chmod(0o755),
        lambda: os.replace(file, project / "inner" / "moved.py"),
    )
    for change in changes:
        look = Look()
        files_of(project, [], False, look)
        assert look.has_changed()  # it may be: the last change is no tick ago
        look._is_fresh = False
        assert not look.has_changed()
        os.utime(project, (before, before))
        look = Look()
        files_of(project, [], False, look)
        look._is_fresh = False
        change()
        assert look.has_changed()


def test_one_look_that_took_long_puts_no_other_off(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one took long whose process was not run meanwhile, an edit was not seen for longer."""
    looks = iter([0.0, 5.0, 5.1, 5.1, 6.0, 9.0, 9.1, 14.1, 14.2, 14.3])
    clocks = SimpleNamespace(perf_counter=lambda: next(looks), time_ns=time.time_ns)
    monkeypatch.setattr(folders, "time", clocks)
    look = Look()
    files_of(project, [], False, look)
    look._is_fresh = False
    assert not look.has_changed()  # it takes 5 s
    (project / "settings_of_it.py").write_text("VALUE = 22")
    assert look.has_changed()  # and this one none
    look = Look()
    files_of(project, [], False, look)
    look._is_fresh = False
    assert not look.has_changed()  # 3 s
    assert not look.has_changed()  # 5 s
    (project / "settings_of_it.py").write_text("VALUE = 333")
    assert not look.has_changed()  # it takes long each time, and is not done again so soon


def test_a_folder_that_changes_all_the_time_is_told(
    cluster: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = has.options(runtime_env={"working_dir": str(project)})
    with caplog.at_level(logging.WARNING):
        for number in range(25):
            (project / "log").write_text(str(number))
            task.options(num_cpus=2).remote("log")
    assert caplog.text.count("have changed 20 times") == 1
