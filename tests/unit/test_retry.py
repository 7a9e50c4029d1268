"""What becomes of a failed message: a table, and the promise that it ends."""

from __future__ import annotations

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from kworker.errors import HandlerError, Undecodable
from kworker.outcome import Decision, GiveUp, Reject, RetryLater, SendOn, TryAgain
from kworker.retry import Retry, decide

CHAIN = Retry(attempts=2, wait=tenacity.wait_fixed(0.5), delays=["5s", "1m", "10m"])
FAILED = OSError("down")


@pytest.mark.parametrize(
    ("error", "calls", "hop", "through", "expected"),
    [
        (FAILED, 1, 0, None, TryAgain(0.5)),
        (FAILED, 2, 0, None, SendOn(5, 5)),
        (FAILED, 3, 1, 5.0, SendOn(60, 60)),
        (FAILED, 4, 2, 60.0, SendOn(600, 600)),
        (FAILED, 5, 3, 600.0, GiveUp("retries_exhausted")),
        (FAILED, 3, 1, 30.0, SendOn(60, 60)),  # a delay that is no longer declared
        (FAILED, 3, 1, 3600.0, SendOn(600, 600)),  # calls are left, and no longer delay
        (Reject("no"), 1, 0, None, GiveUp("rejected")),
        (Undecodable("no"), 1, 0, None, GiveUp("undecodable")),
        (RetryLater("30s"), 1, 0, None, SendOn(60, 30)),
        (RetryLater("1h"), 1, 0, None, SendOn(600, 3600)),
        (RetryLater("1s"), 5, 3, 600.0, GiveUp("retries_exhausted")),
        (FAILED, 2, 1, 60.0, SendOn(600, 600)),  # after RetryLater it goes on as any copy
        (FAILED, 2, 1, 600.0, SendOn(600, 600)),  # until all its calls are spent
    ],
)
def test_a_failure_leads_to(
    error: Exception, calls: int, hop: int, through: float | None, expected: Decision
) -> None:
    decision = decide(error, calls=calls, hop=hop, arrived_through=through, policy=CHAIN)

    assert decision == expected


def test_what_is_not_retried_is_rejected_at_once() -> None:
    policy = Retry(on=[OSError], never=[FileNotFoundError])

    for error in (ValueError("x"), FileNotFoundError("x")):
        assert decide(error, calls=1, hop=0, arrived_through=None, policy=policy) == GiveUp(
            "rejected"
        )


def test_retry_later_without_retry_topics_goes_through_the_replay_topic() -> None:
    decision = decide(
        RetryLater("7s"), calls=1, hop=0, arrived_through=None, policy=Retry(attempts=3)
    )

    assert decision == SendOn(None, 7.0)


def test_after_retry_later_without_retry_topics_all_calls_are_spent_through_the_replay_topic() -> (
    None
):
    policy = Retry(attempts=3, wait=tenacity.wait_fixed(0.5))

    decisions = [
        decide(FAILED, calls=calls, hop=calls - 1, arrived_through=None, policy=policy)
        for calls in (2, 3)
    ]

    assert decisions == [SendOn(None, 0.5), GiveUp("retries_exhausted")]


@given(
    attempts=st.integers(1, 5),
    delays=st.lists(st.sampled_from([1.0, 5.0, 60.0, 600.0]), max_size=5),
    later=st.lists(st.one_of(st.none(), st.floats(0.1, 4000)), max_size=12),
)
def test_a_message_that_keeps_failing_is_dead_lettered_after_all_its_calls(
    attempts: int, delays: list[float], later: list[float | None]
) -> None:
    policy = Retry(attempts=attempts, wait=tenacity.wait_none(), delays=delays)
    calls, hop, through = 0, 0, None
    asks = iter(later)

    while True:
        calls += 1
        asked = next(asks, None)
        error = FAILED if asked is None else RetryLater(asked)
        decision = decide(error, calls=calls, hop=hop, arrived_through=through, policy=policy)
        if isinstance(decision, GiveUp):
            break
        if isinstance(decision, SendOn):
            hop, through = hop + 1, decision.through

    assert calls == attempts + len(delays)


@pytest.mark.parametrize(
    "arguments",
    [
        {"attempts": 0},
        {"attempts": "3"},
        {"delays": "5s"},
        {"delays": ["soon"]},
        {"delays": [0]},
        {"on": ["ValueError"]},
        {"wait": 3},
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_what_was_given(
    arguments: dict[str, object],
) -> None:
    with pytest.raises(HandlerError, match=rf"Retry\({next(iter(arguments))}="):
        Retry(**arguments)  # type: ignore[arg-type]


def test_retry_later_takes_no_longer_than_its_topic_keeps_a_message() -> None:
    assert RetryLater("7d").delay == 7 * 86_400

    with pytest.raises(ValueError, match="7 days"):
        RetryLater("169h")


def test_whatever_a_handler_raises_is_tried_again_unless_told_otherwise() -> None:
    policy = Retry(wait=tenacity.wait_fixed(0.5))

    decision = decide(SystemExit(3), calls=1, hop=0, arrived_through=None, policy=policy)

    assert decision == TryAgain(0.5)
