"""What is replayed of the invariants is believed by every fault test: here it must see faults."""

from __future__ import annotations

from typing import Any

from .oracle import Copy, Sent
from .replay import Event, committed_too_far, went_back

FIRST = Sent("r/k/0", "k", 0, ("orders", 0, 10))
SECOND = Sent("r/k/1", "k", 1, ("orders", 0, 12))  # 11 is a marker
WALL = 1000.0  # seconds that the wall clock is ahead


def settled(sent: Sent, at: float, handler: str = "h", event: str = "settled") -> Event:
    return {"event": event, "pid": 1, "at": at, "handler": handler, "place": list(sent.place)}


def committed(offset: int, at: float, topic: str = "orders", pid: int = 1) -> Event:
    return {"event": "committed", "pid": pid, "at": at, "offsets": [[topic, 0, offset]]}


def moved(event: str, at: float, pid: int = 1) -> Event:
    return {"event": event, "pid": pid, "at": at, "partitions": [["orders", 0]]}


def copy(
    topic: str, at: float, *, hop: int = 1, offset: int = 0, disposition: str | None = None
) -> Copy:
    place, original = (topic, 0, offset), FIRST.place
    return Copy(place, "h", original, "r/k/0", hop, 1, 0, disposition, WALL + at)


def too_far(*events: Event, copies: tuple[Copy, ...] = (), **more: Any) -> list[str]:
    return committed_too_far(
        events, [FIRST, SECOND], copies, more.get("handlers", ["h"]), wall=WALL
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


def test_a_commit_below_an_earlier_one_of_the_same_ownership_has_gone_back() -> None:
    assert len(went_back([moved("assigned", 1), committed(11, 2), committed(10, 3)])) == 1


def test_a_new_ownership_may_begin_below() -> None:
    told = [moved("assigned", 1), committed(11, 2), moved("revoked", 3), moved("assigned", 4)]

    assert went_back([*told, committed(10, 5)]) == []


def test_an_answer_that_comes_after_the_partition_has_gone_is_nobodys_fault() -> None:
    told = [moved("assigned", 1), committed(11, 2), moved("revoked", 3)]

    assert went_back([*told, committed(10, 4)]) == []


def test_what_another_worker_committed_is_not_held_against_this_one() -> None:
    told = [moved("assigned", 1), moved("assigned", 1, pid=2), committed(11, 2)]

    assert went_back([*told, committed(10, 3, pid=2)]) == []
