"""What `nbray up` is about to start, told to the autoscaler of the head before it begins.

Both start nodes on machines of one list, and neither waits for the other. So whoever is about to
says so first, and then looks whether the other one has: `nbray up` in a file of the head's record,
the autoscaler in its list of machines below the head's session. A machine that both have named is
left by both; the autoscaler asks again when `nbray up` is at its end.

The file is a lease. `nbray up` renews it while it works, so that nothing has to be cleared away
after one that was killed; the head's own clock tells when it is over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nbray.machines.scripts import note

LEASE = "starting"
LEASE_S = 20
RENEW_S = 5.0
POOL = "pool.json"
"""Below the session of a head: which machine of the pool is which instance, as JSON."""

_BEGUN = "nbray-begun="


class Assigned(msgspec.Struct):
    """Which machine an instance is."""

    host: str
    type: str


def announce(record: str, starting: Mapping[str, str]) -> str:
    """The text that has a head know which instances are started on which machines.

    It says which machines its autoscaler has begun to set up; see `begun`.
    """
    value = json.dumps(starting)
    until = f'"$(($(date +%s) + {LEASE_S}))"'
    return f"""{note(record, LEASE, value, before=until)}
p=$(readlink {record}/session)/{POOL}
if [ -f "$p" ]; then printf '%s%s\\n' {_BEGUN} "$(cat "$p")"; fi
"""


def withdraw(record: str) -> str:
    """The text that ends the lease."""
    return f"rm -f {record}/{LEASE}"


def begun(answer: str) -> set[str]:
    """The machines that an autoscaler has, by what `announce` said."""
    found = re.search(rf"^{_BEGUN}(.*)$", answer, re.MULTILINE)
    if found is None:
        return set()
    try:
        assigned = msgspec.json.decode(found[1], type=dict[str, Assigned])
    except msgspec.DecodeError:
        return set()
    return {one.host for one in assigned.values()}


def starting_in(record: Path, now: float) -> dict[str, str]:
    """The instance that `nbray up` starts on a machine, by its name; nothing after the lease.

    Args:
        record: of the head, whose process this is.
        now: seconds since the epoch.
    """
    try:
        until, _, value = (record / LEASE).read_text().partition(" ")
        # More than a lease away is a clock that was set back.
        if not 0 < int(until) - now <= 2 * LEASE_S:
            return {}
        return msgspec.json.decode(value, type=dict[str, str])
    except (OSError, ValueError, msgspec.DecodeError):
        return {}
