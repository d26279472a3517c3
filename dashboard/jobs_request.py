"""What a request to run a job may say; read without I/O, bounded, and refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from nbray.runtime_env.spec import validate
from nbray.state.submissions import Submission

_LONGEST_ENTRYPOINT = 100_000
_LONGEST_ID = 200
_LONGEST_TEXTS = 64 << 10
_LONGEST_CONFIG = 120_000  # the kernel takes 128 KiB as one variable


class BadRequest(ValueError):
    """The request cannot be; the text names the field."""


class _Request(msgspec.Struct):
    """Ray's ``JobSubmitRequest``; fields that are null are as if they were left out."""

    entrypoint: str
    submission_id: str | None = None
    job_id: str | None = None
    runtime_env: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: dict[str, float] | None = None
    entrypoint_label_selector: dict[str, str] | None = None


def read_request(body: bytes) -> Submission:
    """A job out of a request; its id is empty if the request has none.

    Raises:
        BadRequest: it is not JSON, or a field cannot be what it is.
    """
    try:
        found = msgspec.json.decode(body, type=_Request, strict=True)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"The request is no description of a job: {error}") from None
    _check(found)
    amounts = dict(found.entrypoint_resources or {})
    for name, given in (
        ("CPU", found.entrypoint_num_cpus),
        ("GPU", found.entrypoint_num_gpus),
        ("memory", found.entrypoint_memory),
    ):
        if name in amounts:
            raise BadRequest(
                f"entrypoint_resources has {name!r}, for which there is a field of its own."
            )
        if given:
            amounts[name] = float(given)
    return Submission(
        found.submission_id or found.job_id or "", found.entrypoint, found.metadata or {},
        _encoded(_environment(found.runtime_env or {}), found.metadata or {}), amounts,
        found.entrypoint_label_selector or {},
    )  # fmt: skip


def _check(found: _Request) -> None:
    if not found.entrypoint.strip():
        raise BadRequest("entrypoint is empty: there is nothing to run.")
    if "\0" in found.entrypoint or len(found.entrypoint.encode()) > _LONGEST_ENTRYPOINT:
        raise BadRequest(
            f"entrypoint is a shell command of at most {_LONGEST_ENTRYPOINT:,} bytes, without zero "
            "bytes. Put a longer one into a file of the working_dir."
        )
    for name in (found.submission_id, found.job_id):
        if name is not None:
            _check_id(name)
    texts = {**(found.metadata or {}), **(found.entrypoint_label_selector or {})}
    if sum(len(key) + len(value) for key, value in texts.items()) > _LONGEST_TEXTS:
        raise BadRequest(f"metadata may have {_LONGEST_TEXTS:,} characters together.")
    if any("\0" in key + value for key, value in texts.items()):
        raise BadRequest("metadata has a zero byte, which no environment can hold.")
    amounts = {
        "entrypoint_num_cpus": found.entrypoint_num_cpus or 0,
        "entrypoint_num_gpus": found.entrypoint_num_gpus or 0,
        "entrypoint_memory": found.entrypoint_memory or 0,
        **{f"entrypoint_resources[{name!r}]": amount
           for name, amount in (found.entrypoint_resources or {}).items()},
    }  # fmt: skip
    for name, amount in amounts.items():
        if amount < 0 or not math.isfinite(amount) or amount > 1e15:
            raise BadRequest(f"{name} cannot be {amount}.")


def _check_id(name: str) -> None:
    """It is a part of URLs and the name of a file."""
    if not name or len(name) > _LONGEST_ID or not name.isprintable() or "/" in name:
        raise BadRequest(
            f"submission_id {name[:80]!r} cannot be: it has 1 to {_LONGEST_ID} printable "
            "characters, without '/'."
        )
    if name in (".", "..") or len(quote(name, safe="")) > _LONGEST_ID:  # as its log is called
        raise BadRequest(f"submission_id {name[:80]!r} cannot be: it is no name of a file.")


def _environment(env: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime environment, whose files have been sent: no path of the submitter is read here.

    Fields of Ray's own bookkeeping, which begin with an underscore, say nothing.
    """
    env = {name: value for name, value in env.items() if value and not name.startswith("_")}
    env.pop("excludes", None)
    modules = env.get("py_modules") or []
    paths = [env.get("working_dir"), *(modules if isinstance(modules, list) else [modules])]
    for path in paths:
        if path is not None and not (isinstance(path, str) and path.startswith("gcs://")):
            raise BadRequest(
                f"runtime_env names {str(path)[:200]!r}, which is no package that was sent: a "
                "client sends folders before it submits, as gcs://NAME.zip."
            )
    for tool, field in (("pip", "packages"), ("uv", "packages")):
        named = env.get(tool)
        if isinstance(named, str) or (
            isinstance(named, Mapping) and isinstance(named.get(field), str)
        ):
            raise BadRequest(f"runtime_env[{tool!r}] is a list of requirements here, not a file.")
    try:
        checked = validate(env)
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from None
    return checked


def _encoded(env: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The environment as JSON, which its entrypoint is told with the metadata as one variable."""
    text = json.dumps(env)
    size = len(text) + len(json.dumps(metadata))
    if size > _LONGEST_CONFIG:
        raise BadRequest(
            f"runtime_env and metadata may have {_LONGEST_CONFIG:,} bytes together as JSON, and "
            f"have {size:,}: the entrypoint has them as one variable. Keep data in files of the "
            "working_dir."
        )
    return text
