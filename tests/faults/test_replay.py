"""What is replayed of the invariants is believed by every fault test: here it must see faults."""

from __future__ import annotations

from typing import Any

from .oracle import Commit, Copy, Sent
from .replay import Event, committed_too_far, read_commit, went_back

FIRST = Sent("r/k/0", "k", 0, ("orders", 0, 10))
SECOND = Sent("r/k/1", "k", 1, ("orders", 0, 12))  # 11 is a marker
WALL = 1000.0  # seconds that the wall clock is ahead


def settled(sent: Sent, at: float, handler: str = "h", event: str = "settled") -> Event:
    return {"event": event, "pid": 1, "at": at, "handler": handler, "place": list(sent.place)}


def committed(offset: int, at: float, topic: str = "orders") -> Commit:
    return Commit(topic, 0, offset, at, WALL + at)


def copy(
    topic: str, at: float, *, hop: int = 1, offset: int = 0, disposition: str | None = None
) -> Copy:
    place, original = (topic, 0, offset), FIRST.place
    return Copy(place, "h", original, "r/k/0", hop, 1, 0, disposition, WALL + at)


def too_far(*told: Event | Commit, copies: tuple[Copy, ...] = (), **more: Any) -> list[str]:
    commits = [one for one in told if isinstance(one, Commit)]
    events = [one for one in told if not isinstance(one, Commit)]
    handlers = more.get("handlers", ["h"])
    begun: Event = {"event": "assigned", "pid": 1, "at": 0.0}
    return committed_too_far(
        commits, [begun, *events], [FIRST, SECOND], copies, handlers, wall=WALL
    )


def test_a_commit_up_to_what_is_settled_is_no_fault() -> None:
    told = [settled(FIRST, 1), committed(11, 2), committed(12, 2), settled(SECOND, 3)]

    assert too_far(*told, committed(13, 4)) == []


def test_a_commit_before_its_message_is_settled_is_too_far_although_it_is_settled_later() -> None:
    [fault] = too_far(settled(FIRST, 1), committed(13, 2), settled(SECOND, 3))

    assert "committed at 13" in fault


def test_a_commit_past_a_message_that_one_of_two_handlers_has_not_settled_is_too_far() -> None:
    told = [settled(FIRST, 1, "h"), committed(11, 2)]

    assert len(too_far(*told, handlers=["h", "other"])) == 1


def test_a_message_is_finished_by_its_copy_and_a_copy_by_the_next_one() -> None:
    copies = (copy("g.retry.1s", 1), copy("g.dlq", 3, hop=2, disposition="rejected"))

    assert too_far(committed(11, 2), committed(1, 4, "g.retry.1s"), copies=copies) == []
    assert len(too_far(committed(1, 2, "g.retry.1s"), copies=copies)) == 1


def test_a_duplicate_and_a_dead_letter_are_finished_when_they_are_told() -> None:
    told = [settled(FIRST, 1, event="skipped"), settled(SECOND, 1, event="dead_lettered")]

    assert too_far(*told, committed(13, 2)) == []


def test_a_commit_below_an_earlier_one_has_gone_back() -> None:
    assert went_back([committed(10, 1), committed(11, 2), committed(11, 3)]) == []
    assert len(went_back([committed(11, 2), committed(10, 3), committed(12, 4)])) == 1


def test_a_commit_is_read_from_kafkas_own_log() -> None:
    key = b"\0\1" + b"\0\4shop" + b"\0\6orders" + b"\0\0\0\3"
    value = b"\0\3" + (77).to_bytes(8, "big") + b"\0\0\0\5" + b"\0\2kw"
    value += (1_700_000_000_123).to_bytes(8, "big")

    commit = read_commit(key, value, "shop")

    assert commit == Commit("orders", 3, 77, 0.0, 1_700_000_000.123)
    compact = b"\0\4" + value[2:14] + b"\3kw" + value[18:] + b"\0"
    assert read_commit(key, compact, "shop") == commit
    assert read_commit(key, value, "mail") is None
    assert read_commit(key, None, "shop") is None
    assert read_commit(b"\0\2" + b"\0\4shop", value, "shop") is None
