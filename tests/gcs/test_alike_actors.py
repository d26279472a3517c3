"""Actors of a class have in memory once what they have in common."""

from __future__ import annotations

import msgspec

from nbray.gcs.actors.actor import Alike
from nbray.wire.gcs_messages import CreateActorRequest
from nbray.wire.records import ActorOptions, ActorSpec, Address, JobConfig, MethodOptions


def registered(number: int, pickle: bytes = b"a class" * 100) -> CreateActorRequest:
    """As it comes over a wire: nothing of it is shared with another."""
    driver = Address(b"d" * 28, b"n" * 28, "host", "/a/socket", 0)
    spec = ActorSpec(
        bytes([number]) * 16, b"job0", "Counter", pickle, bytes([number]), (), (),
        {"count": MethodOptions()}, ActorOptions({}), driver,
    )  # fmt: skip
    request = CreateActorRequest(spec, JobConfig(b"job0", "", driver, ["/a", "/b"], "/a"))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=CreateActorRequest)


def test_what_is_equal_is_shared_and_the_rest_is_its_own() -> None:
    alike = Alike()
    first, second = (alike.share(registered(number)) for number in (1, 2))
    assert second == registered(2)
    assert second.job is first.job
    assert second.spec.class_pickle is first.spec.class_pickle
    assert second.spec.methods is first.spec.methods
    assert second.spec.args == b"\2"


def test_a_class_that_was_changed_is_another() -> None:
    alike = Alike()
    first = alike.share(registered(1))
    second = alike.share(registered(2, b"the class, changed"))
    assert second.spec.class_pickle == b"the class, changed"
    assert second.job is first.job
    third = alike.share(registered(3, b"the class, changed"))
    assert third.spec.class_pickle is second.spec.class_pickle
