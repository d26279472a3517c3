"""``/api/jobs/ID/logs/tail``: the log of a job as it grows, over a WebSocket.

It is closed with 1000 when the job has ended and everything was sent, and for no other reason: who
sees another code asks again with ``?from=BYTES``, the bytes that it has, and misses nothing; with
``as=bytes`` the log comes as it is, else as text for Ray's clients. A
client that does not read holds up its own log only, within the bytes of one part.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbray.state.client import RpcError
from nbray.state.submissions import LIVE

from .jobs import JobsPort, LogReader

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_LONGEST_LOOK_S = 1.0
_PING_S = 20
_AWAY = 1011


class JobTail(WebSocketHandler):
    """Follows one log."""

    def initialize(self, jobs: JobsPort) -> None:
        """Take what it needs."""
        self._jobs = jobs
        self._following: asyncio.Task[None] | None = None

    @property
    def ping_interval(self) -> float | None:
        """A client that has vanished is noticed."""
        return _PING_S

    def check_origin(self, origin: str) -> bool:
        """The gate has judged the origin."""
        return True

    async def prepare(self) -> None:
        """Refuse before the upgrade what cannot be followed."""
        place = self.get_query_argument("from", "0")
        if not place.isdecimal() or len(place) > 18:
            raise HTTPError(400, "from is a number of bytes")
        self._row = await self._jobs.submission(self.path_args[0], "tail logs of")
        self._reader = LogReader(self._jobs.submissions, self._row, int(place))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was wrong in plain text."""
        _kind, error, _trace = kwargs.get("exc_info", (None, None, None))
        text = str(error)
        if isinstance(error, HTTPError):
            text = (error.log_message or self._reason) % error.args
        self.finish(text)

    def open(self, _job_id: str) -> None:
        """The client is there."""
        self._following = asyncio.ensure_future(self._follow())

    def on_close(self) -> None:
        """The client has gone."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        try:
            await self._send_all()
        except RpcError as error:
            logger.warning("The log of %s cannot be followed: %s", self._row.submission_id, error)
            self.close(_AWAY, "the log cannot be read at present; ask again from where it ended")
        except (WebSocketClosedError, StreamClosedError):
            return
        else:
            self.close(1000)

    async def _send_all(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        plain = self.get_query_argument("as", "text") == "bytes"
        pause = _LOOK_S
        while True:
            # The end is asked for before the log is read: what was written before is in it.
            row = await self._jobs.submissions.get(self._row.submission_id)
            ended = row is None or row.state not in LIVE
            if row is not None:
                self._reader.now(row)
            sent = False
            while data := await self._reader.part():
                sent = True
                if plain:
                    await self.write_message(data, binary=True)
                else:
                    await self._send(decoder.decode(data))
            if ended:
                await self._send(decoder.decode(b"", final=True))
                return
            pause = _LOOK_S if sent else min(_LONGEST_LOOK_S, pause * 1.2)
            await asyncio.sleep(pause)

    async def _send(self, text: str) -> None:
        if text:
            await self.write_message(text)
