"""The sockets of a driver or worker, driven by whichever thread waits.

Theory. One thread hop costs more than a whole round trip on a Unix socket, so a thread that
waits for a result reads the sockets itself. Exactly one thread at a time holds the *baton*;
it alone touches the sockets and the state that message handlers change, so none of that needs
a lock. A thread that waits takes the baton if it is free and drives until its `Waiter` is
done; otherwise it sleeps on the waiter and is woken when it is done, or when the baton is
free for it to take over. A background thread drives when nobody waits.

The background thread never contends with a busy foreground: after a foreground use it naps
for `TICK_S` and takes the baton only if there was no use since; while a foreground thread
drives for long it sleeps until that one leaves. A thread that only submits puts work into
`inbox` and calls `notify`; the next holder of the baton runs it.

An interrupt (SIGINT) must not tear a half-handled message apart, so while the main thread
drives, the signal is only noted, and raised after the baton is given back.
"""

from __future__ import annotations

import _signal
import errno
import heapq
import itertools
import logging
import os
import select
import signal
import socket
import threading
import time
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import Any

from nbray.common.config import Config
from nbray.wire.frames import FrameDecoder, FrameError, encode_frame
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.messages import Message

logger = logging.getLogger(__name__)

TICK_S = 0.002
NUDGE_S = 0.02
SPIN_S = 0.0002
_SIGINT = int(signal.SIGINT)
Poll = Callable[[float], list[tuple[int, int]]]
_READ_BYTES = 1 << 18


class Waiter:
    """Something a thread waits for: done after ``remaining`` completions."""

    __slots__ = ("_lock", "remaining")

    def __init__(self, remaining: int = 1) -> None:
        self.remaining = remaining
        self._lock = allocate_lock()
        self._lock.acquire()

    def complete_one(self) -> None:
        """Count one completion and wake the thread at the last one."""
        self.remaining -= 1
        if self.remaining <= 0:
            self.wake()

    def wake(self) -> None:
        """Let the waiting thread look again."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                return  # another thread woke it at the same moment

    def sleep(self, timeout: float) -> None:
        """Sleep until woken; ``timeout`` in seconds, negative for no limit."""
        self._lock.acquire(timeout=timeout)


class Connection:
    """A frame connection; what is sent before the handshake is done waits for it.

    Only the holder of the baton may use it.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
        handshake: ClientHandshake | ServerHandshake,
    ) -> None:
        self.reactor = reactor
        self.sock = sock
        self.on_message = on_message
        self.on_closed = on_closed
        self.closed = False
        self.state: Any = None
        self.known_functions: set[bytes] = set()
        self._handshake: ClientHandshake | ServerHandshake | None = handshake
        self._accepted = isinstance(handshake, ServerHandshake)
        self._decoder = FrameDecoder(reactor.config.max_frame_bytes)
        self._queued: list[Message] = []
        self._unsent: deque[memoryview] = deque()
        self._writable_wanted = False

    @property
    def established(self) -> bool:
        """Whether the peer has proved that it belongs to the cluster."""
        return self._handshake is None

    @property
    def congested(self) -> bool:
        """Whether the peer has not yet read all that was sent."""
        return bool(self._unsent)

    def send(self, message: Message) -> None:
        """Queue ``message``; it leaves with the others at the end of this turn."""
        if not self._queued:
            self.reactor.dirty.append(self)
        self._queued.append(message)

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self.closed:
            self._queued.clear()
            return
        if self._queued and self._handshake is None:
            self._unsent.append(memoryview(encode_frame(self._queued)))
            self._queued = []
        try:
            while self._unsent:
                head = self._unsent[0]
                sent = self.sock.send(head)
                if sent < len(head):
                    self._unsent[0] = head[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass  # the poller says when there is room again
        except OSError as error:
            self.close(str(error))
            return
        if bool(self._unsent) != self._writable_wanted:
            self._writable_wanted = bool(self._unsent)
            mask = select.EPOLLIN | (select.EPOLLOUT if self._writable_wanted else 0)
            self.reactor.poller.modify(self.sock.fileno(), mask)

    def handle_events(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self.flush()
        if not self.closed and events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        try:
            size = self.sock.recv_into(self.reactor.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(str(error))
            return
        if not size:
            self.close("the peer closed the connection")
            return
        data: bytes | memoryview = self.reactor.buffer[:size]
        try:
            if self._handshake is not None:
                reply, rest = self._handshake.feed(bytes(data))
                if reply:
                    self._unsent.append(memoryview(reply))
                if rest is not None:
                    self._handshake = None
                self.flush()
                if not rest:
                    return
                data = rest
            messages = self._decoder.feed(data)
        except (HandshakeError, FrameError) as error:
            logger.warning("Closed a connection: %s.", error)
            self.close(str(error))
            return
        for message in messages:
            try:
                self.on_message(self, message)
            except Exception:
                # One message's failure must not lose those behind it.
                logger.exception("The handler of a %s failed.", type(message).__name__)

    def receive_handshake(self) -> None:
        """Take one part of the handshake, on a socket that blocks.

        Raises:
            OSError: the peer went. HandshakeError: it is not of this cluster.
        """
        assert self._handshake is not None
        data = self.sock.recv(_READ_BYTES)
        if not data:
            raise HandshakeError(
                "the peer closed the connection during the handshake: is the token the same?"
            )
        reply, rest = self._handshake.feed(data)
        self.sock.sendall(reply)
        if rest is not None:
            self._handshake = None

    def close(self, reason: str) -> None:
        """End the connection; its `on_closed` is called once."""
        if self.closed:
            return
        self.closed = True
        self.reactor.forget(self)
        self.sock.close()
        if self._handshake is None or not self._accepted:
            self.on_closed(self)

    def close_unless_authenticated(self) -> None:
        """Half-open connections end when their time for the handshake is over."""
        if self._handshake is not None and not self.closed:
            logger.warning("Closed a connection: no handshake in time.")
            self.close("no handshake in time")


class _DeferredInterrupt:
    """Notes SIGINT while the main thread holds the baton and raises it afterwards.

    `_signal` is what the module signal wraps: its wrappers make two enum members per call, which
    took a tenth of a synchronous actor call.
    """

    __slots__ = ("_previous", "_reactor", "_waiter", "noted")

    def __init__(self, reactor: Reactor, waiter: Waiter) -> None:
        self._reactor = reactor
        self._waiter = waiter
        self.noted = False
        self._previous: Any = None

    def __enter__(self) -> _DeferredInterrupt:
        if get_ident() == self._reactor.main_thread:
            previous = _signal.getsignal(_SIGINT)
            if callable(previous):
                self._previous = previous
                _signal.signal(_SIGINT, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.noted = True
        self._reactor.wake()
        self._waiter.wake()

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            _signal.signal(_SIGINT, self._previous)
            if self.noted:
                self._previous(_SIGINT, None)


class _Spinner:
    """Polls without sleeping for a moment, as long as that is worth it.

    To sleep in the kernel and be woken costs 30 us on each side of a wire, as much as all else
    in a small call. So a thread that waits first polls for up to `SPIN_S`, and yields its core
    to whoever wants it; waits that turn out longer use the credit for that up, and short ones
    restore it.
    """

    _MOST = 8

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._credit = 2

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Events within ``timeout`` seconds (-1: no limit)."""
        start = perf_counter()
        if self._credit > 0:
            until = start + SPIN_S
            while True:
                events = self._poll(0.0)
                if events:
                    if self._credit < self._MOST:
                        self._credit += 1
                    return events
                if perf_counter() > until:
                    break
                os.sched_yield()
            self._credit -= 1
            return self._poll(timeout)
        events = self._poll(timeout)
        if perf_counter() - start < SPIN_S:
            self._credit = 2
        return events


class Reactor:
    """All connections, timers and posted work of one process."""

    def __init__(self, token: bytes, config: Config) -> None:
        self.token = token
        self.config = config
        self.main_thread = threading.main_thread().ident
        self.poller = select.epoll()
        # One for all reads: a fresh buffer of this size is a mapping made and dropped each time.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self._spinner = _Spinner(self.poller.poll)
        self.dirty: list[Connection] = []
        self.inbox: deque[Callable[[], None]] = deque()
        self.on_turn: Callable[[], None] = lambda: None
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._baton = allocate_lock()
        self._waiting: deque[Waiter] = deque()
        self._uses = 0
        self._driving = False
        self._polling = False
        self._notified = False
        self._asleep = False
        self._nudged = False
        self._foreground_left = threading.Event()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self._stopped = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch(self._wake_fd, self._drain_wake)
        self._thread = threading.Thread(target=self._background, name="nbray-reactor", daemon=True)

    def start(self) -> None:
        """Start the background thread that drives when nobody waits."""
        self._thread.start()

    def stop(self) -> None:
        """Flush, close every connection and end the background thread."""
        self._stopped = True
        self._foreground_left.set()
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)
        if self._baton.acquire(timeout=5.0):
            self._turn(0.0, self.poller.poll)
            self._work()
            for fd in list(self._handlers):
                self.poller.unregister(fd)
            self._handlers.clear()
            self.poller.close()
            os.close(self._wake_fd)

    # --- sockets --------------------

    def _watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self.poller.register(fd, select.EPOLLIN)

    def forget(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        if self._handlers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def listen(
        self,
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        """Accept authenticated connections on the listening ``sock``."""
        sock.setblocking(False)

        def accept(_events: int) -> None:
            try:
                peer, _ = sock.accept()
            except OSError as error:
                logger.warning("A connection could not be accepted: %s.", error)
                return
            peer.setblocking(False)
            handshake = ServerHandshake(self.token)
            connection = Connection(self, peer, on_message, on_closed, handshake)
            self._watch(peer.fileno(), connection.handle_events)
            peer.send(handshake.hello)
            self.call_later(self.config.handshake_timeout_s, connection.close_unless_authenticated)

        self._watch(sock.fileno(), accept)

    def connect(
        self,
        unix_path: str,
        host: str,
        port: int,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
    ) -> Connection:
        """Connect by the Unix socket when ``unix_path`` is given, else by TCP; never waits.

        Two processes may connect to each other at the same moment, so neither may wait for the
        other's handshake. When nobody is there, the connection ends soon.
        """
        if unix_path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            failed = sock.connect_ex(unix_path)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failed = sock.connect_ex((host, port))
        connection = Connection(self, sock, on_message, on_closed, ClientHandshake(self.token))
        if failed in (0, errno.EINPROGRESS):
            self._watch(sock.fileno(), connection.handle_events)
            self.call_later(self.config.handshake_timeout_s, connection.close_unless_authenticated)
        else:
            reason = os.strerror(failed)
            self.inbox.append(lambda: connection.close(reason))
        return connection

    def connect_now(
        self,
        unix_path: str,
        on_message: Callable[[Connection, Message], None],
        on_closed: Callable[[Connection], None],
    ) -> Connection:
        """Connect to a server of this machine and wait for its handshake, before `start`.

        Raises:
            OSError: nobody listens there.
            HandshakeError: one side has a wrong token or version.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.config.handshake_timeout_s)
        handshake = ClientHandshake(self.token)
        connection = Connection(self, sock, on_message, on_closed, handshake)
        sock.connect(unix_path)
        while not connection.established:
            connection.receive_handshake()
        sock.setblocking(False)
        self._watch(sock.fileno(), connection.handle_events)
        return connection

    # --- timers and posted work --------------------

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` under the baton after ``seconds``."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_ids), action))

    def post(self, action: Callable[[], None]) -> None:
        """Run ``action`` under the baton soon; from any thread."""
        self.inbox.append(action)
        self.notify()

    def notify(self) -> None:
        """Tell that there is work in an inbox; cheap when somebody is about to look anyway."""
        self._notified = True
        if self._polling:
            self.wake()

    def nudge(self) -> None:
        """Tell that there is work which can wait for `NUDGE_S`; from any thread, any often.

        A reader that sleeps for long is woken once; then it looks again after `NUDGE_S`, so that
        a loop which drops a ref each time does not wake another thread each time.
        """
        self._nudged = True
        if self._asleep:
            self._asleep = False
            self.wake()

    def wake(self) -> None:
        """Interrupt whoever polls."""
        os.eventfd_write(self._wake_fd, 1)

    def _drain_wake(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # somebody else drained it

    # --- driving --------------------

    def _turn(self, timeout: float, poll: Poll) -> None:
        """One turn: posted work, writes, then reads."""
        self._work()
        self._read(timeout, poll)

    def _read(self, timeout: float, poll: Poll) -> None:
        """Wait for messages for at most ``timeout`` s (-1: any), and handle them."""
        if self._timers:
            until = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = until if timeout < 0 else min(timeout, until)
        self._polling = True
        self._asleep = timeout < 0 or timeout > NUDGE_S
        if self._nudged:  # looked at after `_asleep` is set, so that no nudge is lost between
            self._nudged = self._asleep = False
            timeout = NUDGE_S if timeout < 0 else min(timeout, NUDGE_S)
        if self.inbox or self._notified:  # after `_work` had looked, and before `_polling` was set
            timeout = 0.0
        events = poll(timeout)
        # Cleared before the next look at the inboxes and at who waits, never after it.
        self._asleep = self._polling = self._notified = False
        for fd, mask in events:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(mask)
        if self._timers:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()

    def _work(self) -> None:
        inbox = self.inbox
        while inbox:
            inbox.popleft()()
        self.on_turn()
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                connection.flush()

    def _leave(self) -> None:
        """Give the baton back and wake one waiting thread to take it."""
        self._driving = False
        self._uses += 1
        self._baton.release()
        if self._waiting:
            for waiter in list(self._waiting):
                if waiter.remaining > 0:
                    waiter.wake()
                    return
        if not self._foreground_left.is_set():
            self._foreground_left.set()

    def try_turn(self) -> None:
        """Do one turn without waiting, if no other thread holds the baton."""
        if self._baton.acquire(blocking=False):
            waiter = Waiter()
            with _DeferredInterrupt(self, waiter):
                try:
                    self._turn(0.0, self.poller.poll)
                    self._work()
                finally:
                    self._leave()

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Wait until ``waiter`` is done; False after ``timeout`` seconds (None: no limit).

        Raises:
            KeyboardInterrupt: the user interrupted; no state is torn.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with _DeferredInterrupt(self, waiter) as interrupt:
            while waiter.remaining > 0 and not interrupt.noted:
                left = -1.0 if deadline is None else deadline - time.monotonic()
                if deadline is not None and left <= 0:
                    break
                if self._baton.acquire(blocking=False):
                    self._drive(waiter, deadline, interrupt)
                    break
                self._waiting.append(waiter)
                try:
                    self.notify()
                    if self._baton.locked():
                        waiter.sleep(left)
                finally:
                    self._waiting.remove(waiter)
        return waiter.remaining <= 0

    def _drive(self, waiter: Waiter, deadline: float | None, interrupt: _DeferredInterrupt) -> None:
        """Make turns until ``waiter`` is done. What they leave is done by the next one.

        That is this thread's next wait, or the background thread's, a few ticks later.
        """
        self._driving = True
        self._notified = False  # `_work` looks after this
        left = -1.0
        try:
            while waiter.remaining > 0 and not interrupt.noted:
                self._work()
                # That may have been all: what it waits for can be there since before it asked.
                if waiter.remaining <= 0 or interrupt.noted:
                    break
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        break
                self._read(left, self._spinner.poll)
        finally:
            self._leave()

    def _background(self) -> None:
        while not self._stopped:
            seen = self._uses
            time.sleep(TICK_S)
            if self._driving:
                self._foreground_left.clear()
                if self._driving:
                    self._foreground_left.wait()
                continue
            if self._uses != seen or not self._baton.acquire(blocking=False):
                continue
            try:
                while not self._waiting and not self._stopped:
                    self._turn(-1.0, self.poller.poll)
            except Exception:
                logger.exception("A message handler failed; the process goes on.")
            finally:
                uses = self._uses
                self._leave()
                self._uses = uses
