"""Marks that libraries for Ray put on their API: they note how stable it is, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any

__all__ = ["AnnotationType", "Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]


class AnnotationType(Enum):
    """How stable something is said to be.

    Examples:
        >>> from nbray.util.annotations import AnnotationType
        >>> AnnotationType.PUBLIC_API.value
        'PublicAPI'
    """

    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


class RayDeprecationWarning(DeprecationWarning):
    """What was marked by ``Deprecated(warning=True)`` is used.

    Examples:
        >>> from nbray.util.annotations import RayDeprecationWarning
        >>> issubclass(RayDeprecationWarning, DeprecationWarning)
        True
    """


def _mark(target: Any, kind: AnnotationType) -> Any:
    target._annotated, target._annotated_type = target.__name__, kind
    return target


def PublicAPI(*targets: Any, stability: str = "stable", api_group: str = "Others") -> Any:
    """Mark a class or function as public: ``@PublicAPI`` or ``@PublicAPI(stability="beta")``.

    Args:
        targets: it, when there are no parentheses.
        stability: "stable", "beta" or "alpha".
        api_group: the chapter of a reference that it belongs to.

    Returns:
        The same class or function; with options, a decorator.

    Raises:
        ValueError: there is no such stability.

    Examples:
        >>> from nbray.util.annotations import PublicAPI
        >>> @PublicAPI(stability="beta")
        ... def offered(): ...
        >>> offered._annotated_type.value
        'PublicAPI'
    """
    if stability not in ("stable", "beta", "alpha"):
        raise ValueError(f"stability is 'stable', 'beta' or 'alpha', not {stability!r}.")

    def mark(target: Any) -> Any:
        target._annotated_api_group = api_group
        return _mark(target, AnnotationType.PUBLIC_API)

    return mark(targets[0]) if targets else mark


def DeveloperAPI(*targets: Any) -> Any:
    """Mark a class or function as one for developers of libraries.

    Args:
        targets: it, when there are no parentheses.

    Returns:
        The same class or function, or a decorator.

    Examples:
        >>> from nbray.util.annotations import DeveloperAPI
        >>> @DeveloperAPI
        ... class Backend: ...
        >>> Backend._annotated
        'Backend'
    """
    if targets:
        return _mark(targets[0], AnnotationType.DEVELOPER_API)
    return lambda target: _mark(target, AnnotationType.DEVELOPER_API)


def Deprecated(*targets: Any, message: str = "", warning: bool = False) -> Any:
    """Mark a class or function as one that will go.

    Args:
        targets: it, when there are no parentheses.
        message: what to use instead.
        warning: warn of each use by a `RayDeprecationWarning`.

    Returns:
        The same class or function, or one that warns; with options, a decorator.

    Examples:
        >>> import warnings
        >>> from nbray.util.annotations import Deprecated
        >>> @Deprecated(message="Use `new`.", warning=True)
        ... def old(): ...
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     old()
        >>> str(told[0].message)
        'old is deprecated and will be removed. Use `new`.'
    """

    def warned(function: Callable[..., Any], text: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(text, RayDeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return call

    def mark(target: Any) -> Any:
        if warning:
            text = f"{target.__name__} is deprecated and will be removed. {message}".strip()
            if isinstance(target, type):
                target.__init__ = warned(target.__init__, text)  # type: ignore[misc]
            else:
                target = warned(target, text)
        return _mark(target, AnnotationType.DEPRECATED)

    return mark(targets[0]) if targets else mark
