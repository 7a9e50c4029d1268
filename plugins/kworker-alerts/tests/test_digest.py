"""What is said and when, on a clock of the test's own."""

from __future__ import annotations

from kworker_alerts.digest import Digest, Notice


def digest() -> Digest:
    return Digest("shop on host", every=600.0, pause=30.0)


def said(one: Notice | None) -> str:
    return "nothing" if one is None else f"{one.kind} | {one.title} | {one.body}"


def test_the_first_of_something_is_said_after_a_moment_with_all_that_came_meanwhile() -> None:
    told = digest()

    for _ in range(100):
        told.happened("a", "charge fails", 0.0, "failure")

    assert told.notice(1.0) is None
    assert said(told.notice(2.0)) == (
        "failure | shop on host: charge fails | charge fails\n100 times"
    )
    assert told.notice(60.0) is None


def test_what_goes_on_is_said_again_now_and_then_with_the_count() -> None:
    told = digest()
    told.happened("a", "charge fails", 0.0, "failure")
    told.notice(2.0)

    notices = []
    for second in range(3, 1300):
        told.happened("a", "charge fails", float(second), "failure")
        notices.append(told.notice(float(second)))

    found = [one for one in notices if one is not None]
    assert [one.body.partition("\n")[2] for one in found] == [
        "600 more times, 601 in all", "600 more times, 1201 in all"
    ]  # fmt: skip


def test_many_things_are_one_notice_and_there_is_a_pause_between_two() -> None:
    told = digest()
    for number in range(30):
        told.happened(f"a{number}", f"trouble {number}", 0.0, "warning")
    first = told.notice(2.0)
    told.happened("b", "one more", 3.0, "failure")
    early, later = told.notice(20.0), told.notice(32.0)

    assert first is not None
    assert first.title == "shop on host: trouble 0 (and 29 more)"
    assert first.body.endswith("… and 10 more")
    assert early is None
    assert said(later) == "failure | shop on host: one more | one more"


def test_what_ends_is_said_to_be_over_and_begins_anew_afterwards() -> None:
    told = digest()
    told.happened("a", "the bank is down", 0.0, "failure", ends=True)
    told.notice(2.0)
    told.over("a", 300.0)

    over = told.notice(300.0)
    told.happened("a", "the bank is down", 400.0, "failure", ends=True)

    assert said(over) == (
        "over | shop on host: Over: the bank is down | Over: the bank is down\nonce within 5 min"
    )
    assert said(told.notice(402.0)).startswith("failure")


def test_what_cannot_say_that_it_ends_is_over_when_it_has_been_quiet() -> None:
    told = digest()
    told.happened("a", "charge fails", 0.0, "failure")
    told.notice(2.0)

    assert told.notice(599.0) is None
    assert said(told.notice(600.0)).endswith("Over: charge fails\nonce within 0 s")
    assert told.patience(601.0) is None


def test_what_begins_and_ends_at_once_is_said_in_one_notice() -> None:
    told = digest()
    told.happened("a", "stuck", 0.0, "failure", ends=True)
    told.over("a", 0.5)

    assert said(told.notice(1.0)) == (
        "failure | shop on host: stuck (and 1 more) | stuck\n\nOver: stuck\nonce within 0 s"
    )


def test_at_the_end_everything_is_said() -> None:
    told = digest()
    told.happened("a", "charge fails", 0.0, "failure")
    told.notice(2.0)
    told.happened("a", "charge fails", 3.0, "failure")

    assert said(told.notice(3.5, at_once=True)).endswith("1 more times, 2 in all")
    assert told.notice(3.6, at_once=True) is None
