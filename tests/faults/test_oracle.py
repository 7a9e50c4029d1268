"""The oracle is believed by every fault test, so it is shown here to see what it must see."""

from __future__ import annotations

from pathlib import Path

import pytest

from .oracle import Commit, Copy, Effect, Kill, Place, Sent, calls, judge, read_effects

ALICE, BOB = 100, 200  # two processes
FIRST = Sent("r/k/0", "k", 0, ("orders", 0, 10))
SECOND = Sent("r/k/1", "k", 1, ("orders", 0, 11))


def call(
    sent: Sent,
    start: float,
    end: float | None,
    *,
    pid: int = ALICE,
    attempt: int = 1,
    phase: str = "end",
    place: Place | None = None,
    replay: int = 0,
) -> list[Effect]:
    def effect(phase: str, at: float) -> Effect:
        where = place or sent.place
        return Effect("h", sent.id, sent.key, sent.seq, phase, attempt, replay, pid, where, at)

    return [effect("start", start), *([] if end is None else [effect(phase, end)])]


def copy(sent: Sent, topic: str = "g.dlq", *, hop: int = 1, offset: int = 0, at: float = 0) -> Copy:
    disposition = "retries_exhausted" if topic == "g.dlq" else None
    return Copy((topic, 0, offset), "h", sent.place, sent.id, hop, 1, 0, disposition, at)


def test_messages_handled_once_in_order_are_no_problem() -> None:
    verdict = judge([FIRST, SECOND], [*call(FIRST, 1, 2), *call(SECOND, 2, 3)], handlers=["h"])

    assert verdict.problems == []
    assert (verdict.acked, verdict.handled, verdict.repeated) == (2, 2, [])


def test_an_acknowledged_message_that_never_ended_is_lost() -> None:
    verdict = judge([FIRST], call(FIRST, 1, None), handlers=["h"])

    assert len(verdict.lost) == 1


def test_a_failed_message_is_lost_unless_it_is_in_the_dead_letter_topic() -> None:
    failed = call(FIRST, 1, 2, phase="fail")

    without = judge([FIRST], failed, handlers=["h"])
    buried = judge([FIRST], failed, dead_letters=[copy(FIRST)], handlers=["h"])

    assert len(without.lost) == 1
    assert buried.problems == []


def test_a_message_that_one_of_two_handlers_settled_is_lost_for_the_other() -> None:
    verdict = judge([FIRST], call(FIRST, 1, 2), handlers=["h", "other"])

    assert [story.rpartition(" ")[2] for story in verdict.lost] == ["other"]


def test_a_second_call_without_a_kill_has_no_excuse() -> None:
    verdict = judge([FIRST], [*call(FIRST, 1, 2), *call(FIRST, 3, 4, pid=BOB)], handlers=["h"])

    assert len(verdict.unexcused) == 1


@pytest.mark.parametrize(
    ("end", "excused"), [(None, True), (4.9, True), (4.0, False)],
    ids=["unfinished", "just-ended", "ended-long-before"],
)  # fmt: skip
def test_a_repeat_is_excused_by_a_kill_that_found_the_call_unrecorded(
    end: float | None, excused: bool
) -> None:
    again = call(FIRST, 8, 9, pid=BOB)

    verdict = judge(
        [FIRST], [*call(FIRST, 3, end), *again], kills=[Kill(ALICE, 5.0)], handlers=["h"], turn=0.25
    )

    assert [repeat.excused for repeat in verdict.repeated] == [excused]


def test_the_kill_of_another_process_excuses_nothing() -> None:
    effects = [*call(FIRST, 3, None), *call(FIRST, 8, 9, pid=BOB)]

    verdict = judge([FIRST], effects, kills=[Kill(BOB, 5.0)], handlers=["h"])

    assert len(verdict.unexcused) == 1


def test_a_further_attempt_after_a_failure_is_no_repeat() -> None:
    effects = [
        *call(FIRST, 1, 2, phase="fail"),
        *call(FIRST, 3, 4, attempt=2, phase="fail"),
        *call(FIRST, 5, 6, attempt=3, place=("g.retry.1s", 0, 0)),
    ]

    verdict = judge([FIRST], effects, retries=[copy(FIRST, "g.retry.1s")], handlers=["h"])

    assert verdict.repeated == []
    assert verdict.problems == []


def test_one_hop_handled_twice_is_a_repeat_although_its_topic_may_hold_it_twice() -> None:
    effects = [
        *call(FIRST, 1, 2, phase="fail"),
        *call(FIRST, 5, 6, attempt=2, place=("g.retry.1s", 0, 0)),
        *call(FIRST, 7, 8, attempt=2, place=("g.retry.1s", 0, 1)),
    ]
    held = [copy(FIRST, "g.retry.1s", offset=0), copy(FIRST, "g.retry.1s", offset=1)]

    verdict = judge([FIRST], effects, retries=held, handlers=["h"])

    assert (verdict.retries, verdict.retry_copies) == (1, 2)
    assert len(verdict.unexcused) == 1


def test_a_copy_in_a_retry_topic_that_nobody_handled_is_found() -> None:
    verdict = judge(
        [FIRST],
        call(FIRST, 1, 2, phase="fail"),
        retries=[copy(FIRST, "g.retry.1s")],
        dead_letters=[copy(FIRST, hop=2)],
        handlers=["h"],
    )

    assert len(verdict.unhandled_hops) == 1


def test_a_message_both_handled_and_dead_lettered_is_found() -> None:
    verdict = judge([FIRST], call(FIRST, 1, 2), dead_letters=[copy(FIRST)], handlers=["h"])

    assert len(verdict.twice_settled) == 1


def test_a_success_that_a_kill_left_unrecorded_may_be_followed_by_a_dead_letter() -> None:
    effects = [*call(FIRST, 1, 2), *call(FIRST, 5, 6, pid=BOB, phase="fail")]

    killed = judge(
        [FIRST], effects, kills=[Kill(ALICE, 2.1)], dead_letters=[copy(FIRST)], handlers=["h"]
    )
    later = judge(
        [FIRST], effects, kills=[Kill(ALICE, 4.0)], dead_letters=[copy(FIRST)], handlers=["h"]
    )

    assert killed.twice_settled == []
    assert len(later.twice_settled) == 1


def test_a_replay_is_neither_a_repeat_nor_settled_twice() -> None:
    effects = [
        *call(FIRST, 1, 2, phase="fail"),
        *call(FIRST, 5, 6, replay=1, place=("g.replay", 0, 0)),
    ]

    verdict = judge([FIRST], effects, dead_letters=[copy(FIRST)], handlers=["h"])

    assert verdict.problems == []


def test_a_later_message_that_starts_first_is_out_of_order() -> None:
    verdict = judge([FIRST, SECOND], [*call(SECOND, 1, 2), *call(FIRST, 3, 4)], handlers=["h"])

    assert len(verdict.out_of_order) == 1


def test_a_later_message_that_starts_before_the_earlier_ended_overlaps() -> None:
    verdict = judge([FIRST, SECOND], [*call(FIRST, 1, 3), *call(SECOND, 2, 4)], handlers=["h"])

    assert verdict.out_of_order == []
    assert len(verdict.overlapping) == 1


def test_order_is_judged_on_first_effects_so_a_repeat_after_a_kill_does_not_break_it() -> None:
    effects = [
        *call(FIRST, 1, 2),
        *call(SECOND, 2, None),
        *call(FIRST, 5, 6, pid=BOB),
        *call(SECOND, 6, 7, pid=BOB),
    ]

    verdict = judge([FIRST, SECOND], effects, kills=[Kill(ALICE, 2.1)], handlers=["h"])

    assert verdict.problems == []
    assert (len(verdict.repeated), verdict.bound) == (2, 2)


def test_a_commit_past_an_unfinished_message_is_found() -> None:
    effects = [*call(FIRST, 1, 9), *call(SECOND, 1, 2)]
    commit = Commit("orders", 0, 12, at=5.0, wall=1005.0)

    verdict = judge([FIRST, SECOND], effects, commits=[commit], handlers=["h"], ordered=False)

    assert verdict.early_commits == ["r/k/0 at orders/0/10 for h"]


def test_a_commit_past_a_message_whose_copy_was_written_is_fine() -> None:
    commit = Commit("orders", 0, 11, at=5.0, wall=1005.0)
    failed = call(FIRST, 1, 2, phase="fail")

    verdict = judge(
        [FIRST], failed, dead_letters=[copy(FIRST, at=1003)], commits=[commit], handlers=["h"]
    )

    assert verdict.problems == []


def test_an_effects_log_cut_within_its_last_line_is_read_up_to_there(tmp_path: Path) -> None:
    log = tmp_path / "effects.log"
    whole = (
        b'{"handler": "h", "id": "r/k/0", "key": "k", "seq": 0, "phase": "start", "attempt": 1,'
        b' "replay": 0, "pid": 100, "place": ["orders", 0, 10], "at": 1.0}\n'
    )
    log.write_bytes(whole + whole[:20])

    assert [(one.start.id, one.ended) for one in calls(read_effects(log))] == [("r/k/0", None)]
