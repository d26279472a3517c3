"""Remote functions that tell the engine what they submit.

Ray's public API does not say which tasks a process has submitted, nor whose child a task is. So
the engine puts its own `ray.remote` in the place of Ray's, in the kernel and in its workers: what
that returns is Ray's own `RemoteFunction`, whose two public attributes ``remote`` and ``options``
are these. They pickle as what they are, so that a function tells in the worker, too, that it
has arrived in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Teller = Callable[[Any, str], None]
_teller: Teller | None = None


def tell(teller: Teller | None) -> None:
    """Call ``teller`` with what each call returns, and with its task's name; None ends that."""
    global _teller
    _teller = teller


class Epoch:
    """The cell that runs: what a function reads may be another thing in the next one."""

    number = 0


class Call:
    """``remote`` of a remote function.

    Ray pickles a function once. One that was made in this process is made again before its first
    call in each cell, so that it is pickled with the helpers that it has now.
    """

    def __init__(
        self, call: Callable[..., Any], name: str, again: Callable[[], Any] | None = None
    ) -> None:
        """``again`` makes the remote function once more."""
        functools.update_wrapper(self, call)
        self._call = call
        self._name = name
        self._again = again
        self._epoch = Epoch.number

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self.refresh()
        made = self._call(*args, **kwargs)
        if _teller is not None:
            _teller(made, self._name)
        return made

    def refresh(self) -> None:
        """Make the function again if this is another cell."""
        if self._again is not None and self._epoch != Epoch.number:
            self._epoch = Epoch.number
            self._call = self._again().remote

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self._call, self._name)


class Options:
    """``options`` of a remote function."""

    def __init__(
        self, options: Callable[..., Any], name: str, again: Callable[[], Any] | None = None
    ) -> None:
        """``again`` makes the remote function once more."""
        self._options = options
        self._name = name
        self._again = again
        self._epoch = Epoch.number

    def __call__(self, **options: Any) -> _WithOptions:
        if self._again is not None and self._epoch != Epoch.number:
            self._epoch = Epoch.number
            self._options = self._again().options
        return _WithOptions(self._options(**options), options.get("name") or self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Options, (self._options, self._name)


class _WithOptions:
    """What ``options`` returns: it is called by ``remote``."""

    def __init__(self, wrapped: Any, name: str) -> None:
        self._wrapped = wrapped
        self.remote = Call(wrapped.remote, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_wrapped":
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _WithOptions, (self._wrapped, self.remote._name)


def told(made: Any, again: Callable[[], Any] | None = None) -> Any:
    """A remote function that tells from now on; an actor class stays as it is.

    Args:
        made: what Ray's ``remote`` returned.
        again: makes it once more.
    """
    from ray.remote_function import RemoteFunction

    if isinstance(made, RemoteFunction) and not isinstance(made.remote, Call):
        name = made.remote.__name__
        made.options = Options(made.options, name, again)
        made.remote = Call(made.remote, name, again)
    return made


class Remote:
    """Stands in the place of ``ray.remote``.

    Attributes:
        original: Ray's own.
    """

    def __init__(self, original: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self.original = original

    def __call__(self, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and not options and callable(args[0]):
            return self._made(self.original, args[0])
        make = self.original(*args, **options)
        return lambda target: self._made(make, target)

    @staticmethod
    def _made(make: Callable[[Any], Any], target: Any) -> Any:
        return told(make(target), functools.partial(make, target))


def install() -> None:
    """Put it there, once."""
    import ray

    if not isinstance(ray.remote, Remote):
        ray.remote = Remote(ray.remote)


def uninstall() -> None:
    """Ray's own is there again."""
    import ray

    if isinstance(ray.remote, Remote):
        ray.remote = ray.remote.original
