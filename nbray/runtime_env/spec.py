"""What a runtime environment may say, how one inherits from another, and its text form.

Names, types and messages follow Ray's. A child inherits all fields of its parent that it does
not set itself; ``env_vars`` are merged, variable by variable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ("env_vars", "working_dir", "py_modules", "pip", "excludes", "config")
_CONFIG_FIELDS = ("setup_timeout_seconds", "eager_install", "log_files")
_PIP_FIELDS = ("packages", "pip_check", "pip_install_options", "pip_version")
URI_PREFIX = "gcs://"


class RuntimeEnv(dict[str, Any]):
    """A checked runtime environment.

    Args:
        env_vars: environment variables, by name; ``${NAME}`` in a value is the old value.
        working_dir: a folder or .zip file, in a copy of which the workers run.
        py_modules: folders, .py or .whl files that can be imported.
        pip: requirements as a list, the path of a requirements file, or a dict with "packages",
            "pip_check" (False) and "pip_install_options".
        excludes: patterns as in .gitignore; what they match is not copied.
        config: "setup_timeout_seconds" (600; -1 for no limit) and "eager_install", which has no
            effect here.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is unknown, or names a path that does not exist.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(validate(fields))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self)

    def env_vars(self) -> dict[str, str]:
        """The environment variables, by name."""
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str | None:
        """The folder in a copy of which the workers run."""
        return self.get("working_dir")

    def py_modules(self) -> list[str] | None:
        """What can be imported besides."""
        return self.get("py_modules")


def validate(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something, in their full form; see `RuntimeEnv`."""
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise ValueError(
            f"Unknown fields of a runtime environment: {unknown}. Known ones are {list(FIELDS)}."
        )
    checks = {
        "env_vars": _env_vars, "working_dir": _working_dir, "py_modules": _py_modules,
        "pip": _pip, "excludes": _excludes, "config": _config,
    }  # fmt: skip
    checked = {name: checks[name](value) for name, value in given.items() if value}
    return {name: value for name, value in checked.items() if value}


def _env_vars(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"runtime_env['env_vars'] must be of type Dict[str, str], got {type(value)}"
        )
    for key, text in value.items():
        for what, item in (("key", key), ("value", text)):
            if not isinstance(item, str):
                raise TypeError(
                    "runtime_env['env_vars'] must be of type Dict[str, str], but the "
                    f"{what} {item} is of type {type(item)}"
                )
        if not key or "=" in key or "\0" in key + text:
            raise ValueError(
                f"runtime_env['env_vars'] has {key!r}: the name of an environment variable is not "
                "empty and has no '=', and neither it nor its value has a zero byte."
            )
    return dict(value)


def _working_dir(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError(f"`working_dir` must be a string, got {type(value)}.")
    return _path(str(value))


def _path(text: str) -> str:
    if text.startswith(URI_PREFIX):
        return text
    if "://" in text:
        raise ValueError(f"Only local paths can be used here; got {text}.")
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(f"{text} is not a valid path.")
    return str(path.resolve())


def _py_modules(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"`py_modules` must be a list of strings, got {type(value)}.")
    paths = []
    for item in value:
        item = getattr(item, "__path__", [item])[0]  # a module stands for its folder
        if not isinstance(item, str | Path):
            raise TypeError(f"`py_module` must be a string, got {type(item)}.")
        paths.append(_path(str(item)))
    return paths


def _pip(value: Any) -> dict[str, Any]:
    if isinstance(value, str | list | tuple):
        value = {"packages": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['pip'] must be of type str or List[str], got {type(value)}")
    unknown = sorted(set(value) - set(_PIP_FIELDS))
    if unknown:
        raise ValueError(
            "runtime_env['pip'] can only have these fields: packages, pip_check, "
            f"pip_install_options and pip_version, but got: {sorted(value)}"
        )
    packages = value.get("packages", [])
    if isinstance(packages, str):
        if not Path(packages).is_file():
            raise ValueError(f"{packages} is not a valid file")
        packages = [line.strip() for line in Path(packages).read_text().splitlines()]
        packages = [line for line in packages if line and not line.startswith("#")]
    if not isinstance(packages, list | tuple) or not all(isinstance(p, str) for p in packages):
        raise TypeError(
            f"runtime_env['pip'] must be of type str or List[str], got {type(packages)}"
        )
    check = value.get("pip_check", False)
    if not isinstance(check, bool):
        raise TypeError(f"runtime_env['pip']['pip_check'] must be of type bool, got {type(check)}")
    if not packages:
        return {}
    full: dict[str, Any] = {"packages": list(packages), "pip_check": check}
    if options := value.get("pip_install_options"):
        if not isinstance(options, list | tuple) or not all(isinstance(o, str) for o in options):
            raise TypeError(
                "runtime_env['pip']['pip_install_options'] must be of type List[str], "
                f"got {type(options)}"
            )
        full["pip_install_options"] = list(options)
    if version := value.get("pip_version"):
        if not isinstance(version, str):
            raise TypeError(
                f"runtime_env['pip']['pip_version'] must be of type str, got {type(version)}"
            )
        full["pip_version"] = version
    return full


def _excludes(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(p, str) for p in value):
        raise TypeError(f"runtime_env['excludes'] must be of type List[str], got {type(value)}")
    return list(value)


def _config(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"runtime_env['config'] must be of type dict or RuntimeEnvConfig, got: {type(value)}"
        )
    unknown = sorted(set(value) - set(_CONFIG_FIELDS))
    if unknown:
        raise ValueError(
            f"Unknown fields of runtime_env['config']: {unknown}. Known ones are "
            f"{list(_CONFIG_FIELDS)}."
        )
    eager = value.get("eager_install", True)
    if not isinstance(eager, bool):
        raise TypeError(f"eager_install must be a boolean. got {type(eager)}")
    limit = value.get("setup_timeout_seconds", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or (limit <= 0 and limit != -1):
        raise ValueError(
            f"setup_timeout_seconds must be greater than zero or equals to -1, got: {limit}"
        )
    return dict(value)


def merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The child's environment with what it inherits."""
    merged = {**parent, **child}
    variables = {**parent.get("env_vars", {}), **child.get("env_vars", {})}
    if variables:
        merged["env_vars"] = variables
    return merged


def to_text(env: Mapping[str, Any]) -> str:
    """The same text for equal environments; empty for none."""
    return json.dumps(env, sort_keys=True) if env else ""


def from_text(text: str) -> dict[str, Any]:
    """The environment of a text."""
    env = json.loads(text) if text else {}
    if not isinstance(env, dict):
        raise ValueError(f"a runtime environment is a mapping, not {text[:100]!r}")
    return env
