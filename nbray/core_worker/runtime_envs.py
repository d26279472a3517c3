"""The submitter's side of runtime environments: inheritance, and the upload of local files."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from nbray import cloudpickle
from nbray.common import ray_name
from nbray.common.text import one_line
from nbray.core_worker.identity import Identity
from nbray.core_worker.ports import RayletRequests
from nbray.core_worker.run.job_logging import Runs, enter_job_logging
from nbray.core_worker.values.serialization import dump
from nbray.exceptions import RuntimeEnvSetupError
from nbray.runtime_env import packaging
from nbray.runtime_env.folders import Look, PackageError
from nbray.runtime_env.spec import URI_PREFIX, from_text, merge, to_text
from nbray.wire.gcs_messages import PACKAGES, KvCount, KvKey, KvPut, KvValue, UsePackage
from nbray.wire.records import JobConfig

logger = logging.getLogger(__name__)

_MANY_TIMES = 20
_HOOK = "worker_process_setup_hook"


class _Known(NamedTuple):
    """An environment that was sent, and what was seen of its folders then."""

    text: str
    looks: list[Look]
    times: int


class RuntimeEnvs:
    """The environment of this process, and those of what it submits. From any thread."""

    def __init__(self, me: Identity, process: Runs, requests: RayletRequests) -> None:
        self._me = me
        self._process = process
        self._requests = requests
        self._own: dict[str, Any] = {}
        self.text = ""
        self._known: dict[str, _Known] = {}
        self._working_dir = ""
        self.sys_path: Sequence[str] = ()
        self._hook = ""

    def enter(self, text: str, working_dir: str = "", sys_path: Sequence[str] = ()) -> None:
        """This process runs in that environment, whose files are here."""
        self._own = from_text(text)
        self.text = text
        self._working_dir = working_dir
        self.sys_path = sys_path
        self._hook = self._own.get(_HOOK, "")

    def run_setup_hook(self) -> None:
        """Run what is to run first in a worker, once; a worker in which that fails leaves."""
        hook, self._hook = self._hook, ""
        if not hook:
            return
        try:
            if hook.startswith(URI_PREFIX):
                key = msgspec.msgpack.encode(KvKey(PACKAGES, hook.encode()))
                reply = self._requests.gcs_call("KvGet", key)
                found = msgspec.msgpack.decode(reply, type=KvValue).value
                function = cloudpickle.loads(found or b"")
            else:
                module, _, name = hook.rpartition(".")
                function = getattr(importlib.import_module(module), name)
            function()
        except BaseException:  # the user's code, of which the tasks' owners are to hear
            print(f"The worker_process_setup_hook of pid {os.getpid()} failed.", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def set_own(self, env: Mapping[str, Any]) -> None:
        """The environment of a driver, which only its tasks and actors run in."""
        self.text = self.text_for(env)
        self._own = from_text(self.text)
        self._known.clear()

    def enter_job(self, job: JobConfig) -> None:
        """Make the driver's modules importable, and the driver's folder or our own the current."""
        for entry in reversed(job.sys_path):
            if entry not in sys.path:
                sys.path.insert(0, entry)
        for entry in reversed(self.sys_path):  # the environment's files come first
            sys.path.insert(0, entry)
        if job.logging:
            enter_job_logging(job.logging, self._process)
        if job.ray_name:
            ray_name.install()
        folder = self._working_dir or job.working_dir
        if os.path.isdir(folder):
            os.chdir(folder)

    def text_for(self, env: Mapping[str, Any] | None) -> str:
        """The environment of a task or actor that sets ``env`` itself; "" for none.

        Raises:
            RuntimeEnvSetupError: a folder or the hook is too large, or could not be sent.
        """
        if not env:
            return self.text
        if callable(env.get(_HOOK)):
            env = {**env, _HOOK: self._sent_hook(env[_HOOK])}
        given = to_text(env)
        known = self._known.get(given)
        if known is None or any(look.has_changed() for look in known.looks):
            looks: list[Look] = []
            merged = merge(self._own, self._uploaded(env, looks))
            merged.pop("excludes", None)
            known = self._known[given] = _Known(
                to_text(merged), looks, 0 if known is None else known.times + 1
            )
            if known.times == _MANY_TIMES:
                logger.warning(
                    "The files of the runtime environment %s have changed %d times; each time they "
                    "are sent anew, for workers of their own. Exclude what your program writes, "
                    "as logs, by the field 'excludes'.", one_line(given), known.times,
                )  # fmt: skip
        return known.text

    def _sent_hook(self, function: Callable[[], object]) -> str:
        data, _captured = dump(function)
        if len(data) > packaging.MOST_HOOK_BYTES:
            raise RuntimeEnvSetupError(
                f"The worker_process_setup_hook has {len(data):,} bytes with what it refers to; at "
                f"most {packaging.MOST_HOOK_BYTES:,} can be sent. Let it read files instead."
            )
        uri = f"{URI_PREFIX}hook-{hashlib.sha256(data).hexdigest()}"
        if not self._use(uri, len(data)):
            self._count("KvPut", KvPut(PACKAGES, uri.encode(), data))
        return uri

    def _uploaded(self, env: Mapping[str, Any], looks: list[Look]) -> dict[str, Any]:
        sent = dict(env)
        excludes = env.get("excludes", [])
        try:
            if "working_dir" in env:
                sent["working_dir"] = self._upload(env["working_dir"], excludes, False, looks)
            if "py_modules" in env:
                sent["py_modules"] = [
                    self._upload(path, excludes, True, looks) for path in env["py_modules"]
                ]
        except (PackageError, OSError) as error:
            raise RuntimeEnvSetupError(str(error)) from error
        return sent

    def _upload(self, path: str, excludes: list[str], keep_name: bool, looks: list[Look]) -> str:
        if path.startswith(URI_PREFIX):
            self._use(path, 0)
            return path
        look = Look()
        looks.append(look)
        with tempfile.SpooledTemporaryFile(packaging.PART_BYTES) as package:
            uri = packaging.write_package(Path(path), excludes, keep_name, package, look)
            size = package.seek(0, os.SEEK_END)
            if not self._use(uri, size):
                self._send(uri, package)
        return uri

    def _send(self, uri: str, package: IO[bytes]) -> None:
        package.seek(0)
        number = 0
        while part := package.read(packaging.PART_BYTES):
            self._count("KvPut", KvPut(PACKAGES, packaging.part_key(uri, number), part))
            number += 1
        # Last: a package with it is complete.
        self._count("KvPut", KvPut(PACKAGES, uri.encode(), str(number).encode()))

    def _use(self, uri: str, size: int) -> bool:
        """Have a package stay for this job; whether it is there already."""
        request = UsePackage(uri.encode(), self._me.job.job_id, size)
        return bool(self._count("UsePackage", request))

    def _count(self, method: str, request: UsePackage | KvPut) -> int:
        reply = self._requests.gcs_call(method, msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(reply, type=KvCount).count


_UNSET = re.compile(r"\$\{\w+\}", re.ASCII)
"""What `os.path.expandvars` leaves of a variable that is not set."""


def enter_variables(env_vars: Mapping[str, str]) -> None:
    """Set the variables of an environment in a worker, before it runs anything.

    One after the other: ``${NAME}`` in a value is what ``NAME`` is by then, and nothing if it is
    not set, so that ``${PATH}:/more`` may be said of any variable.
    """
    for name, value in env_vars.items():
        os.environ[name] = _UNSET.sub("", os.path.expandvars(value))
    entries = os.environ["PYTHONPATH"] if "PYTHONPATH" in env_vars else ""
    for entry in reversed(entries.split(os.pathsep)):
        if entry and entry not in sys.path:
            sys.path.insert(0, entry)
