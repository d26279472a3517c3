"""``/api/packages/gcs/NAME``: packages of runtime environments, which clients send before a job.

A package passes through in parts and is never in memory as a whole. Its parts stand under a name of
this one upload; the last step gives them the package's name, if nobody else was first. So an upload
that breaks off, or two at the same time, leave no mixture.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from tornado.web import HTTPError, stream_request_body

from nbray.runtime_env.packaging import MAX_BYTES, PART_BYTES, part_key
from nbray.runtime_env.spec import check_package
from nbray.state.client import RpcError

from .jobs import JobsHandler, JobsPort, finished

LARGEST_PACKAGE = MAX_BYTES
_KEEP_S = 5.0


@stream_request_body
class Package(JobsHandler):
    """Whether a package is there, and a new one."""

    def initialize(self, jobs: JobsPort) -> None:
        """Begin with nothing."""
        super().initialize(jobs)
        self._part = bytearray()
        self._parts = 0
        self._size = 0
        self._digest = hashlib.sha256()
        self._told = 0.0
        self._refused: Exception | None = None
        self._is_whole = False

    def prepare(self) -> None:
        """Judge the request before its body is read."""
        protocol, name = self.path_args
        if protocol != "gcs":
            raise HTTPError(400, "Packages are kept as gcs://NAME, and nowhere else")
        try:
            check_package(f"gcs://{name}")
        except ValueError as error:
            raise HTTPError(400, "%s", str(error)) from error
        super().prepare()
        self._uri = f"gcs://{name}"
        self._upload = f"{self._uri}#{secrets.token_hex(8)}"
        length = int(self.request.headers.get("Content-Length", "0"))
        if length > LARGEST_PACKAGE:
            raise HTTPError(413, self._too_large())

    def _too_large(self) -> str:
        return f"A package may have {LARGEST_PACKAGE:,} bytes"

    async def data_received(self, chunk: bytes) -> None:
        """A piece of the body; the next is read when this one is kept."""
        if self._refused is not None:
            return  # the answer comes when the body has ended
        self._digest.update(chunk)
        self._part += chunk
        self._size += len(chunk)
        try:
            if self._size > LARGEST_PACKAGE:
                raise HTTPError(413, self._too_large())
            while len(self._part) >= PART_BYTES:
                await self._keep(bytes(self._part[:PART_BYTES]))
                del self._part[:PART_BYTES]
        except (HTTPError, RpcError) as error:
            self._refused = error
            self._part.clear()

    async def _keep(self, part: bytes) -> None:
        submissions = self.jobs.submissions
        if time.monotonic() - self._told > _KEEP_S:
            await submissions.use_package(self._uri, self._size)
            self._told = time.monotonic()
        await submissions.put(part_key(self._upload, self._parts).decode(), part)
        self._parts += 1

    async def get(self, _protocol: str, name: str) -> None:
        """An empty answer if it is there; it stays for a while then."""
        if not await self.jobs.submissions.use_package(f"gcs://{name}", 0):
            raise HTTPError(404, f"Package gcs://{name} does not exist")

    async def put(self, _protocol: str, name: str) -> None:
        """The body is here: make a package of it."""
        if self._refused is not None:
            self._drop()
            raise self._refused
        if not self._size:
            raise HTTPError(400, "The package is empty")
        if self._part:
            await self._keep(bytes(self._part))
        self._is_whole = True
        await finished(self._complete(name))

    async def _complete(self, name: str) -> None:
        submissions = self.jobs.submissions
        await submissions.use_package(self._uri, self._size)
        digest = self._digest.hexdigest()
        row = f"{self._parts} {self._upload} {digest}".encode()
        if await submissions.put(self._uri, row, overwrite=False):
            return
        await submissions.drop(self._upload)
        known = (await submissions.package(self._uri) or b"").decode().split()
        if len(known) < 3:  # sent by a driver, whose names are hashes of what is in them
            return
        if known[2] != digest:
            raise HTTPError(
                409,
                f"There is another package {name} already, whose contents differ (SHA-256 "
                f"{known[2][:16]}..., this one {digest[:16]}...): give this one another name",
            )

    def on_connection_close(self) -> None:
        """Whoever sent it has gone: what came is dropped, unless it is whole."""
        if not self._is_whole:
            self._drop()

    def _drop(self) -> None:
        if self._parts:
            self.jobs.background.start(self.jobs.submissions.drop(self._upload))
