"""A switch between test hosts with weather: delay, jitter, loss, rate and cuts.

It is a process of its own, ``python weather.py PREFIX COUNT``, for kernels that have no netem. Each
host is a network namespace PREFIX0, PREFIX1, ... with a TAP device ``eth0``, whose other end is
here. Each frame is copied once into this process and once out, so that it carries about 1 Gbit/s at
an MTU of 9000. A line of JSON on its standard input changes the weather, a line on its standard
output says that it is changed. It ends, and removes the hosts, when its input does.
`support.net_hosts` starts it.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import heapq
import json
import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

NET = "10.77.8"
MTU = 9000
_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFO = 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_FRAMES_AT_ONCE = 64
_LONGEST_QUEUE_S = 0.2
"""The queue of a router is finite."""

_libc = ctypes.CDLL(None, use_errno=True)


def address(number: int) -> str:
    """That of a host."""
    return f"{NET}.{10 + number}"


@dataclass(frozen=True)
class Weather:
    """What becomes of a frame on its way from one host to another.

    ``rate`` is in Mbit/s, ``loss`` in per cent; a link without a rate has no limit. ``uplink`` is a
    rate, too, which all links from a host share.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    uplink: float = 0.0
    cut: bool = False


CLEAR = Weather()


def _attached(namespace: str, number: int) -> int:
    """The file of a TAP device that is ``eth0`` in a namespace."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if _libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "a namespace cannot be entered")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", b"eth0", _TAP | _NO_PACKET_INFO))
    finally:
        if _libc.setns(own, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "the own namespace cannot be entered again")
        os.close(own)
        os.close(there)
    for words in (
        f"addr add {address(number)}/24 dev eth0", f"link set eth0 mtu {MTU} up", "link set lo up",
    ):  # fmt: skip
        subprocess.run(["ip", "-n", namespace, *words.split()], check=True)
    return tap


class Switch:
    """Passes frames on, as the weather between their hosts is."""

    def __init__(self, taps: list[int]) -> None:
        self._taps = taps
        self._port_of: dict[bytes, int] = {}
        self._weather: dict[tuple[int, int], Weather] = {}
        self._free_at: dict[tuple[int, int], float] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        for port, tap in enumerate(taps):
            self._loop.add_reader(tap, self._read, port, tap)

    def change(self, sources: list[int], targets: list[int], weather: Weather) -> None:
        """The weather from some hosts to others, in that direction only."""
        for source in sources:
            for target in targets:
                if weather == CLEAR:
                    self._weather.pop((source, target), None)
                else:
                    self._weather[source, target] = weather

    def _read(self, port: int, tap: int) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = os.read(tap, 65536)
            except BlockingIOError:
                return
            self._port_of[frame[6:12]] = port
            target = self._port_of.get(frame[:6])
            for other in range(len(self._taps)) if target is None else (target,):
                if other != port:
                    self._pass_on(port, other, frame)

    def _pass_on(self, port: int, other: int, frame: bytes) -> None:
        weather = self._weather.get((port, other))
        if weather is None:
            self._write(other, frame)
            return
        if weather.cut or random.random() * 100 < weather.loss:
            return
        now = time.monotonic()
        due = now + (weather.delay_ms + random.random() * weather.jitter_ms) / 1000
        for rate, link in ((weather.rate, (port, other)), (weather.uplink, (port, port))):
            if rate:
                start = max(now, self._free_at.get(link, 0.0))
                if start - now > _LONGEST_QUEUE_S:
                    return
                self._free_at[link] = start + len(frame) * 8 / rate / 1e6
                due += self._free_at[link] - now
        self._count += 1
        heapq.heappush(self._waiting, (due, self._count, other, frame))
        if self._waiting[0][1] == self._count:
            self._plan()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._waiting:
            wait = max(0.0, self._waiting[0][0] - time.monotonic())
            self._timer = self._loop.call_later(wait, self._deliver)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, other, frame = heapq.heappop(self._waiting)
            self._write(other, frame)
        self._plan()

    def _write(self, other: int, frame: bytes) -> None:
        try:
            os.write(self._taps[other], frame)
        except BlockingIOError:
            return  # its queue is full: a frame is lost


async def serve(prefix: str, count: int) -> None:
    """Be the switch of so many hosts until standard input ends."""
    switch = Switch([_attached(f"{prefix}{number}", number) for number in range(count)])
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    while line := await lines.readline():
        sources, targets, weather = json.loads(line)
        switch.change(sources, targets, Weather(**weather))
        print("changed", flush=True)


def main() -> None:
    prefix, count = sys.argv[1], int(sys.argv[2])
    names = [f"{prefix}{number}" for number in range(count)]
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        asyncio.run(serve(prefix, count))
    finally:
        for name in made:
            listed = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    main()
