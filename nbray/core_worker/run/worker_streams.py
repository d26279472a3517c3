"""``sys.stdout`` and ``sys.stderr`` of user code in a worker, as files would be."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, SupportsIndex

from nbray.core_worker.run.log_file import LogFile


class Output(Protocol):
    """Where text that was printed goes on to (`run.output`)."""

    forked: bool

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while text is written."""

    def written(self, stream: str, text: str) -> None:
        """Text was printed, and is in the log; with the lock held."""

    def flush(self, stream: str) -> None:
        """A line may be unfinished, and is to be seen."""


_NUMBERS = {"stdout": 1, "stderr": 2}
_ENCODING, _ERRORS = "utf-8", "replace"
_PIECE = 1 << 20


class _Bytes(io.BufferedIOBase):
    """The ``buffer`` of a stream: bytes reach log and driver at once, in order with text."""

    def __init__(self, output: Output, stream: str, log: LogFile) -> None:
        self.name = f"<{stream}>"
        self.mode = "wb"
        self._output = output
        self._stream = stream
        self._log = log
        self._decoder = codecs.getincrementaldecoder(_ENCODING)(_ERRORS)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        raw = view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
        if self._output.forked:
            write_all(self.fileno(), raw)
            return len(raw)
        with self._output.lock:
            for start in range(0, len(raw), _PIECE):  # no copy of all of it
                piece = raw[start : start + _PIECE]
                self._log.append(piece)
                self._output.written(self._stream, self._decoder.decode(piece))
        return len(raw)

    def flush(self) -> None:
        if not self._output.forked:
            self._output.flush(self._stream)

    def fileno(self) -> int:
        return _NUMBERS[self._stream]

    @property
    def raw(self) -> io.RawIOBase:
        """The log itself."""
        return io.FileIO(self.fileno(), "wb", closefd=False)

    def close(self) -> None:
        """Whoever wraps this closes it when the wrapper goes, and tasks after it print on."""
        self.flush()


class WorkerStream(io.TextIOWrapper):
    """``sys.stdout`` or ``sys.stderr``: text need not become bytes and text again."""

    mode = "w"

    def __init__(self, output: Output, stream: str, log: LogFile) -> None:
        buffer: Any = _Bytes(output, stream, log)
        super().__init__(
            buffer, _ENCODING, _ERRORS, newline="\n", line_buffering=True, write_through=True
        )
        self._output = output
        self._stream = stream
        self._log = log
        self._as_text = True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._as_text:
            self.buffer.write(text.encode(self.encoding, self.errors or "strict"))
        elif self._output.forked:
            write_all(self.fileno(), text.encode(_ENCODING, _ERRORS))
        else:
            with self._output.lock:
                self._log.write(text)
                self._output.written(self._stream, text)
        return len(text)

    def flush(self) -> None:
        if not self._output.forked:
            self._output.flush(self._stream)

    def reconfigure(self, **options: Any) -> None:
        """As of any text file; each write leaves at once all the same."""
        super().reconfigure(**options)
        self._as_text = (codecs.lookup(self.encoding).name, self.errors) == (_ENCODING, _ERRORS)

    def detach(self) -> Any:
        """The buffer; this stream goes on, since tasks after this one print to it."""
        self.flush()
        return self.buffer

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return standard_stream, (self._stream,)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Callable[[str], Any], tuple[str]]:
        return self.__reduce__()  # Python 3.13 refuses files before it asks the class


class LogOnly(io.TextIOBase):
    """A stream whose text goes to a log and nowhere else."""

    def __init__(self, log: LogFile, is_forked: Callable[[], bool]) -> None:
        self._log = log
        self._is_forked = is_forked

    def write(self, text: str) -> int:
        if self._is_forked():
            write_all(_NUMBERS["stderr"], text.encode(_ENCODING, _ERRORS))
        else:
            self._log.write(text)
        return len(text)


def standard_stream(name: str) -> Any:
    """What a worker's stream is where it is sent to: the stream of that process."""
    return getattr(sys, name)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it to a descriptor."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
