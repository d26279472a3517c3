"""What a runtime environment may say, how one inherits from another, and its text form.

Names, types and messages follow Ray's. A child inherits all fields of its parent that it does
not set itself; ``env_vars`` are merged, variable by variable.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbray.common.folders import absolute

FIELDS = (
    "env_vars", "working_dir", "py_modules", "pip", "uv", "py_executable",
    "worker_process_setup_hook", "excludes", "config",
)  # fmt: skip
_CONFIG_FIELDS = ("setup_timeout_seconds", "eager_install", "log_files")
_INSTALLERS = {
    "pip": ("packages", "pip_check", "pip_install_options", "pip_version"),
    "uv": ("packages", "uv_check", "uv_version", "uv_pip_install_options"),
}
"""The fields of what installs packages."""
URI_PREFIX = "gcs://"
ARCHIVES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar", ".zip", ".whl", ".jar")
"""How the names of packages may end."""
_URI = re.compile(r"gcs://[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
MOST_BYTES = 256 << 10
_LONGEST_SETUP_S = 1_000_000
_FILE_PREFIX = "file://"


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up.

    Args:
        setup_timeout_seconds: how long that may take; -1: without limit.
        eager_install: taken for Ray's sake: environments are set up when they are needed.
        log_files: taken for Ray's sake, where nothing reads it either.

    Raises:
        TypeError, ValueError: an argument cannot be.

    Examples:
        >>> from nbray.runtime_env import RuntimeEnv, RuntimeEnvConfig
        >>> env = RuntimeEnv(
        ...     env_vars={"A": "1"}, config=RuntimeEnvConfig(setup_timeout_seconds=60)
        ... )
        >>> env["config"]["setup_timeout_seconds"]
        60
    """

    def __init__(
        self,
        setup_timeout_seconds: int = 600,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        super().__init__(
            _config(
                {
                    "setup_timeout_seconds": setup_timeout_seconds,
                    "eager_install": eager_install,
                    "log_files": log_files or [],
                }
            )
        )


class RuntimeEnv(dict[str, Any]):
    """A checked runtime environment.

    The fields, which are also those of ``nbray.init(runtime_env=...)``:

    - ``env_vars``: environment variables, by name; ``${NAME}`` in a value is what that variable
      is in the worker, or nothing.
    - ``working_dir``: a folder or .zip file, in a copy of which the workers run.
    - ``py_modules``: folders, .py or .whl files that can be imported.
    - ``pip``: requirements as a list, the path of a requirements file, or a dict with "packages",
      "pip_check" (False), "pip_install_options" and "pip_version".
    - ``uv``: the same, installed by uv: "uv_check", "uv_pip_install_options", "uv_version".
    - ``py_executable``: the command that runs the workers' Python; nbray must be importable there.
    - ``worker_process_setup_hook``: a function, or "module.function", that each worker runs first.
    - ``excludes``: patterns as in .gitignore; what they match is not copied.
    - ``config``: "setup_timeout_seconds" (600; -1 for no limit) and "eager_install", which has no
      effect here.

    Args:
        fields: any of these, by name.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is unknown, or names a path that does not exist.

    Examples:
        >>> from nbray.runtime_env import RuntimeEnv
        >>> env = RuntimeEnv(env_vars={"MODE": "fast"})
        >>> import os
        >>> nbray.get(nbray.remote(os.getenv).options(runtime_env=env).remote("MODE"))
        'fast'
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(validate(fields))

    def __setitem__(self, name: str, value: Any) -> None:
        fields = validate({**self, name: value})
        self.clear()
        super().update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # Item by item, it would be checked where its folders need not be.
        return _unchecked, (type(self), dict(self))

    def set(self, name: str, value: Any) -> None:
        """Change a field, checked together with the others.

        Args:
            name: the field's.
            value: what it says from now on.
        """
        self[name] = value

    def serialize(self) -> str:
        """The fields as JSON."""
        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """The runtime environment that `serialize` told of.

        Args:
            serialized_runtime_env: JSON.

        Returns:
            The runtime environment, checked.
        """
        return cls(**json.loads(serialized_runtime_env))

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


def _unchecked(kind: type[RuntimeEnv], fields: dict[str, Any]) -> RuntimeEnv:
    env = kind.__new__(kind)
    env.update(fields)
    return env


def validate(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something, in their full form; see `RuntimeEnv`."""
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise ValueError(
            f"Unknown fields of a runtime environment: {unknown}. Known ones are {list(FIELDS)}."
        )
    checks = {
        "env_vars": _env_vars, "working_dir": _working_dir, "py_modules": _py_modules,
        "pip": lambda value: _packages("pip", value), "uv": lambda value: _packages("uv", value),
        "py_executable": _py_executable, "worker_process_setup_hook": _setup_hook,
        "excludes": _excludes, "config": _config,
    }  # fmt: skip
    if sum(bool(given.get(name)) for name in (*_INSTALLERS, "py_executable")) > 1:
        raise ValueError(
            "The 'pip' field, 'uv' field, and 'py_executable' field of runtime_env cannot be "
            "specified at the same time: each gives the workers another Python."
        )
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
        try:
            os.fsencode(key + text)
        except UnicodeEncodeError as error:
            raise ValueError(
                f"runtime_env['env_vars'] has {key!r}, which no environment can hold: {error}."
            ) from None
    return dict(value)


def _working_dir(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError(f"`working_dir` must be a string, got {type(value)}.")
    return _path(str(value))


def is_package(uri: str) -> bool:
    """Whether that can be a package, whose name is one of a folder on each node as well."""
    return _URI.fullmatch(uri) is not None and uri.endswith(ARCHIVES)


def check_package(uri: str) -> str:
    """The same URI.

    Raises:
        ValueError: it is none of a package.
    """
    if not is_package(uri):
        raise ValueError(
            f"{uri[:200]!r} is no package: that is {URI_PREFIX}NAME, where NAME has letters, "
            "digits and ._+-, and ends as .zip, .whl, .tar.gz, .tgz or .tar.xz."
        )
    return uri


def _path(text: str) -> str:
    if text.startswith(URI_PREFIX):
        return check_package(text)
    text = text.removeprefix(_FILE_PREFIX)
    if "://" in text:
        raise ValueError(f"Only local paths can be used here; got {text}.")
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(f"{text} is not a valid path.")
    return str(Path(absolute(path, "The path")).resolve())


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


def _packages(tool: str, value: Any) -> dict[str, Any]:
    """The full form of ``pip`` or ``uv``, under the names that `_INSTALLERS` has for it."""
    where = f"runtime_env['{tool}']"
    packages_field, check_field, options_field, version_field = _fields_of(tool)
    if isinstance(value, str | list | tuple):
        value = {packages_field: value}
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} must be of type str or List[str], got {type(value)}")
    if set(value) - set(_INSTALLERS[tool]):
        *others, last = _INSTALLERS[tool]
        raise ValueError(
            f"{where} can only have these fields: {', '.join(others)} and {last}, "
            f"but got: {sorted(value)}"
        )
    packages = value.get(packages_field, [])
    if isinstance(packages, str):
        if not Path(packages).is_file():
            raise ValueError(f"{packages} is not a valid file")
        packages = [line.strip() for line in Path(packages).read_text().splitlines()]
        packages = [line for line in packages if line and not line.startswith("#")]
    if not isinstance(packages, list | tuple) or not all(isinstance(p, str) for p in packages):
        raise TypeError(f"{where} must be of type str or List[str], got {type(packages)}")
    check = value.get(check_field, False)
    if not isinstance(check, bool):
        raise TypeError(f"{where}['{check_field}'] must be of type bool, got {type(check)}")
    if not packages:
        return {}
    full: dict[str, Any] = {packages_field: list(packages), check_field: check}
    if options := value.get(options_field):
        if not isinstance(options, list | tuple) or not all(isinstance(o, str) for o in options):
            raise TypeError(
                f"{where}['{options_field}'] must be of type List[str], got {type(options)}"
            )
        full[options_field] = list(options)
    if version := value.get(version_field):
        if not isinstance(version, str):
            raise TypeError(f"{where}['{version_field}'] must be of type str, got {type(version)}")
        full[version_field] = version
    return full


def _fields_of(tool: str) -> tuple[str, str, str, str]:
    options = "pip_install_options" if tool == "pip" else "uv_pip_install_options"
    return "packages", f"{tool}_check", options, f"{tool}_version"


def _py_executable(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"runtime_env['py_executable'] must be of type str, got {type(value)}")
    try:
        words = shlex.split(value)
        os.fsencode(value)
    except ValueError as error:
        raise ValueError(f"runtime_env['py_executable'] is no command: {error}.") from None
    if not words or "\0" in value:
        raise ValueError(f"runtime_env['py_executable'] is no command: {value!r}.")
    return value


def _setup_hook(value: Any) -> Any:
    if isinstance(value, str):
        if "." not in value:
            raise ValueError(
                "runtime_env['worker_process_setup_hook'] is a function, or the name of one with "
                f"its module, as 'module.function'; got {value!r}"
            )
        return value
    if not callable(value):
        raise TypeError(f"worker_process_setup_hook must be a function, got {type(value)}.")
    return value


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
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"setup_timeout_seconds must be of type int, got: {type(limit)}")
    if limit <= 0 and limit != -1:
        raise ValueError(
            f"setup_timeout_seconds must be greater than zero or equals to -1, got: {limit}"
        )
    if limit > _LONGEST_SETUP_S:
        raise ValueError(f"setup_timeout_seconds is at most {_LONGEST_SETUP_S}; -1 is no limit.")
    return dict(value)


def merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The child's environment with what it inherits."""
    merged = {**parent, **child}
    variables = {**parent.get("env_vars", {}), **child.get("env_vars", {})}
    if variables:
        merged["env_vars"] = variables
    return merged


def to_text(env: Mapping[str, Any]) -> str:
    """The same text for equal environments; empty for none.

    Raises:
        ValueError: it is too large to go with every task.
    """
    text = json.dumps(env, sort_keys=True) if env else ""
    if len(text) > MOST_BYTES:
        raise ValueError(
            f"A runtime environment goes with every task, and so may have {MOST_BYTES:,} bytes as "
            f"JSON, not {len(text):,}. Keep data in files of its working_dir."
        )
    return text


def from_text(text: str) -> dict[str, Any]:
    """The environment of a text."""
    env = json.loads(text) if text else {}
    if not isinstance(env, dict):
        raise ValueError(f"a runtime environment is a mapping, not {text[:100]!r}")
    return env
