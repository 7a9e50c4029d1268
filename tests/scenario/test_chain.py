"""From the first failure to the dead letter and back: what stands on the wire, and when."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import until
from ..faults.oracle import Place
from .stage import Letter, Stage, letters, staged

THEIRS = [("trace", b"abc"), ("trace", b"\xff\x00"), ("empty", b""), ("none", None)]
SENT_AT = 1_700_000_000.123  # seconds since the epoch: long ago

ALWAYS = {
    "kworker-message-id", "kworker-handler", "kworker-hop", "kworker-attempt",
    "kworker-original-topic", "kworker-original-partition", "kworker-original-offset",
    "kworker-original-timestamp", "kworker-original-group", "kworker-first-failed-at",
    "kworker-error-type", "kworker-error-message", "kworker-error-fingerprint",
    "kworker-replay-count",
}  # fmt: skip
ON_RETRIES = ALWAYS | {"kworker-not-before"}
ON_DEAD_LETTERS = ALWAYS | {"kworker-disposition", "kworker-error-stacktrace"}


@dataclass(frozen=True, slots=True)
class Story:
    """One run of the app over one message of each kind, until all is settled."""

    stage: Stage
    topic: str
    places: dict[str, Place]

    def of(self, kind: str, handler: str = "first") -> list[dict[str, Any]]:
        """What the handler saw of that message, call by call."""
        return self.stage.told(handler=handler, original=list(self.places[kind]))

    def letter(self, kind: str, handler: str = "first") -> Letter:
        return self.stage.letter(self.places[kind], handler)

    def retries(self, kind: str, delay: str) -> list[Letter]:
        """The message's copies in the retry topic of that delay."""
        topic = f"{self.stage.group}.retry.{delay}"
        found = letters(self.stage.bootstrap, topic)
        return [copy for copy in found if copy.original == self.places[kind]]


@pytest.fixture(scope="module")
def story(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("chain")
    with staged(kafka.bootstrap_servers, folder) as stage:
        topic = stage.create_topic(f"{stage.group}.orders", partitions=2, retention_ms=-1)
        stage.env["TOPIC"] = topic
        kinds: dict[str, dict[str, Any]] = {
            "ok": {},
            "always": {},
            "always again": {"kind": "always"},
            "inside": {},
            "third time": {},
            "never retried": {},
            "reject": {},
            "skip": {},
            "later, soon": {"kind": "later", "delay": "1500ms"},
            "later, late": {"kind": "later", "delay": "3s"},
            "always later": {},
            "second later": {"kind": "ok", "second": "second later"},
        }
        places = {}
        for number, (name, order) in enumerate(kinds.items()):
            places[name] = stage.send(
                topic,
                {"kind": name, "id": number, **order},
                key=name.encode(),
                headers=[*THEIRS, ("kworker-message-id", f"order-{number}".encode())],
                timestamp=SENT_AT,
            )
        places["undecodable"] = stage.send(topic, b"\xff\x00 no JSON", headers=THEIRS)
        places["no id"] = stage.send(topic, {"kind": "third time"}, partition=1)
        ended = stage.run("chain:app", "--drain", "--concurrency", "8", timeout=60)
        assert ended.code == 0, ended.err
        yield Story(stage, topic, places)


def test_a_message_that_works_is_handled_once_by_each_handler_and_leaves_no_copy(
    story: Story,
) -> None:
    assert [call["attempt"] for call in story.of("ok")] == [1]
    assert [call["attempt"] for call in story.of("ok", "second")] == [1]
    assert story.retries("ok", "1s") == []
    assert not [one for one in story.stage.letters() if one.original == story.places["ok"]]


def test_a_message_that_always_fails_is_called_in_the_process_then_once_on_each_retry_topic(
    story: Story,
) -> None:
    group = story.stage.group

    calls = [(call["place"][0], call["attempt"]) for call in story.of("always")]

    assert calls == [
        (story.topic, 1), (story.topic, 2), (f"{group}.retry.1s", 3), (f"{group}.retry.2s", 4)
    ]  # fmt: skip


def test_a_handler_sees_the_same_message_on_every_hop(story: Story) -> None:
    calls = story.of("always")

    for name in ("raw", "key", "headers", "original", "timestamp", "id", "replay"):
        assert [call[name] for call in calls] == [calls[0][name]] * 4, name
    assert calls[0]["timestamp"] == pytest.approx(SENT_AT, abs=0.001)
    assert calls[0]["id"] == "order-1"


def test_a_retry_copy_carries_the_message_unchanged_and_each_of_our_headers_once(
    story: Story,
) -> None:
    [copy] = story.retries("always", "1s")
    topic, partition, offset = story.places["always"]

    assert copy.key == b"always"
    assert json.loads(copy.value or b"") == {"kind": "always", "id": 1}
    assert copy.theirs == THEIRS
    assert copy.ours.keys() == ON_RETRIES
    written = {**copy.ours}
    moments = (written.pop("kworker-not-before"), written.pop("kworker-first-failed-at"))
    assert all(moments)
    assert len(written.pop("kworker-error-fingerprint")) >= 8
    assert written == {
        "kworker-message-id": "order-1",
        "kworker-handler": "first",
        "kworker-hop": "1",
        "kworker-attempt": "2",
        "kworker-original-topic": topic,
        "kworker-original-partition": str(partition),
        "kworker-original-offset": str(offset),
        "kworker-original-timestamp": "1700000000123",
        "kworker-original-group": story.stage.group,
        "kworker-error-type": "chain.Broken",
        "kworker-error-message": "order 1 is beyond repair",
        "kworker-replay-count": "0",
    }


def test_hops_and_attempts_count_on_from_copy_to_copy(story: Story) -> None:
    copies = [
        *story.retries("always", "1s"), *story.retries("always", "2s"), story.letter("always")
    ]  # fmt: skip

    counted = [(copy.ours["kworker-hop"], copy.ours["kworker-attempt"]) for copy in copies]

    assert counted == [("1", "2"), ("2", "3"), ("3", "4")]


def test_a_dead_letter_says_why_and_how_it_failed(story: Story) -> None:
    letter = story.letter("always")

    assert letter.ours.keys() == ON_DEAD_LETTERS
    assert letter.ours["kworker-disposition"] == "retries_exhausted"
    assert letter.ours["kworker-error-type"] == "chain.Broken"
    assert letter.ours["kworker-error-message"] == "order 1 is beyond repair"
    stack = letter.ours["kworker-error-stacktrace"]
    assert 'chain.py", line ' in stack
    assert stack.rstrip().endswith("chain.Broken: order 1 is beyond repair")
    assert letter.key == b"always"
    assert letter.theirs == THEIRS
    [copy] = story.retries("always", "1s")
    assert letter.value == copy.value


def test_copies_are_stamped_with_the_time_of_copying(story: Story) -> None:
    first, second = story.retries("always", "1s") + story.retries("always", "2s")
    letter = story.letter("always")

    assert time.time() - 120 < first.timestamp < second.timestamp < letter.timestamp < time.time()
    assert letter.timestamp - first.timestamp >= 3


def test_the_time_of_the_first_failure_is_kept_in_iso_8601_and_utc(story: Story) -> None:
    first, second = story.retries("always", "1s") + story.retries("always", "2s")

    failed = datetime.fromisoformat(first.ours["kworker-first-failed-at"])

    assert failed.utcoffset() == timedelta(0)
    assert 0 <= first.timestamp - failed.timestamp() < 5
    for later in (second, story.letter("always")):
        assert later.ours["kworker-first-failed-at"] == first.ours["kworker-first-failed-at"]


@pytest.mark.parametrize(("delay", "seconds", "attempt"), [("1s", 1.0, 3), ("2s", 2.0, 4)])
def test_a_retry_comes_after_its_delay_and_not_before(
    story: Story, delay: str, seconds: float, attempt: int
) -> None:
    [copy] = story.retries("always", delay)
    due = int(copy.ours["kworker-not-before"]) / 1000

    [call] = [call for call in story.of("always") if call["attempt"] == attempt]

    assert due - copy.timestamp == pytest.approx(seconds, abs=0.2)
    assert due <= call["at"] < due + 3


def test_failures_alike_have_one_fingerprint_and_others_have_another(story: Story) -> None:
    def fingerprint(kind: str) -> str:
        return story.letter(kind).ours["kworker-error-fingerprint"]

    assert (
        story.letter("always again").ours["kworker-error-message"]
        != (story.letter("always").ours["kworker-error-message"])
    )
    assert fingerprint("always") == fingerprint("always again")
    assert fingerprint("inside") != fingerprint("always")
    assert fingerprint("never retried") not in (fingerprint("always"), fingerprint("inside"))


def test_a_message_that_works_the_third_time_has_one_hop_and_no_dead_letter(story: Story) -> None:
    assert [call["attempt"] for call in story.of("third time")] == [1, 2, 3]
    assert len(story.retries("third time", "1s")) == 1
    assert story.retries("third time", "2s") == []
    assert story.places["third time"] not in [one.original for one in story.stage.letters()]


def test_a_message_without_an_id_goes_through_the_chain_under_one_id_too(story: Story) -> None:
    calls = story.of("no id")

    [copy] = story.retries("no id", "1s")

    assert [call["attempt"] for call in calls] == [1, 2, 3]
    assert {call["id"] for call in calls} == {copy.ours["kworker-message-id"]}
    assert copy.ours["kworker-message-id"].endswith("/1/0"), "the position of its first arrival"


@pytest.mark.parametrize(
    ("kind", "error"), [("reject", "Reject"), ("never retried", "chain.Other")]
)
def test_what_is_rejected_or_never_to_be_retried_is_a_dead_letter_at_once(
    story: Story, kind: str, error: str
) -> None:
    letter = story.letter(kind)

    assert [call["attempt"] for call in story.of(kind)] == [1]
    assert story.retries(kind, "1s") == []
    assert letter.ours["kworker-disposition"] == "rejected"
    assert letter.ours["kworker-error-type"].endswith(error)
    assert letter.ours["kworker-hop"] == "1"
    assert letter.ours["kworker-attempt"] == "1"


def test_what_is_skipped_is_done(story: Story) -> None:
    assert [call["attempt"] for call in story.of("skip")] == [1]
    assert story.places["skip"] not in [one.original for one in story.stage.letters()]


def test_undecodable_bytes_never_reach_the_handler_and_arrive_unchanged_as_a_dead_letter(
    story: Story,
) -> None:
    letter = story.letter("undecodable", "first")

    assert story.of("undecodable", "first") == []
    assert len(story.of("undecodable", "second")) == 1, "who takes bytes gets them"
    assert letter.value == b"\xff\x00 no JSON"
    assert letter.theirs == THEIRS
    assert letter.ours["kworker-disposition"] == "undecodable"
    assert letter.ours["kworker-error-message"]
    assert letter.ours["kworker-hop"] == "1"


@pytest.mark.parametrize(("kind", "seconds"), [("later, soon", 1.5), ("later, late", 3.0)])
def test_retry_later_goes_through_the_nearest_topic_not_shorter_else_the_longest(
    story: Story, kind: str, seconds: float
) -> None:
    first, again = story.of(kind)
    [copy] = story.retries(kind, "2s")
    due = int(copy.ours["kworker-not-before"]) / 1000

    assert story.retries(kind, "1s") == []
    assert (first["attempt"], again["attempt"]) == (1, 2)
    assert copy.ours["kworker-attempt"] == "1"
    assert due - copy.timestamp == pytest.approx(seconds, abs=0.2)
    assert due <= again["at"] < due + 3


def test_retry_later_without_retry_topics_goes_through_the_replay_topic_and_is_no_replay(
    story: Story,
) -> None:
    first, again = story.of("second later", "second")

    assert again["place"][0] == story.stage.replay_topic
    assert (first["attempt"], again["attempt"]) == (1, 2)
    assert (first["replay"], again["replay"]) == (0, 0)
    assert again["at"] - first["at"] >= 1.0
    assert [call["attempt"] for call in story.of("second later", "first")] == [1]


def test_retry_later_spends_calls_and_ends_as_a_dead_letter(story: Story) -> None:
    calls = [call["attempt"] for call in story.of("always later")]

    assert calls == [1, 2, 3, 4], "attempts + delays, as for any failure"
    assert story.letter("always later").ours["kworker-disposition"] == "retries_exhausted"


def test_a_copy_is_for_the_handler_that_failed_alone(story: Story) -> None:
    elsewhere = {
        call["place"][0] for call in story.stage.told() if call["handler"] in ("second", "old")
    }

    assert elsewhere == {story.topic, story.stage.replay_topic}
    assert [call["attempt"] for call in story.of("always", "second")] == [1]


def test_everything_is_committed_when_the_chain_has_ended(story: Story) -> None:
    assert story.stage.lag([story.topic]) == 0


# ---- stories of their own


@pytest.fixture
def stage(kafka: Any, topic: Callable[..., str], tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        made.env["TOPIC"] = topic("orders", partitions=2)
        made.env["DELAYS"] = "300ms 600ms"
        yield made


def test_a_replay_is_handled_once_under_its_id_and_is_no_duplicate(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    identity = [("kworker-message-id", b"order-7")]
    place = stage.send(topic, {"kind": "after replay"}, headers=[*THEIRS, *identity])
    stage.send(topic, {"kind": "ok"}, headers=[("kworker-message-id", b"order-8")])
    assert stage.run("chain:app", "--drain").code == 0
    [listed] = stage.dlq("chain:app", "list", "--json").json["messages"]
    assert (listed["message_id"], listed["replays"]) == ("order-7", 0)

    only_said = stage.dlq("chain:app", "replay", listed["id"])
    replayed_nothing = letters(stage.bootstrap, stage.replay_topic)
    done = stage.dlq("chain:app", "replay", listed["id"], "--execute")
    first = stage.run("chain:app", "--drain")
    second = stage.run("chain:app", "--drain")

    assert (only_said.code, done.code, first.code, second.code) == (0, 0, 0, 0)
    assert replayed_nothing == []
    [copy] = letters(stage.bootstrap, stage.replay_topic)
    assert copy.ours["kworker-replay-count"] == "1"
    assert copy.ours["kworker-handler"] == "first"
    assert copy.theirs == THEIRS
    calls = stage.told(handler="first", original=list(place))
    told = [(call["place"][0], call["attempt"], call["replay"], call["id"]) for call in calls]
    group = stage.group
    assert told == [
        (topic, 1, 0, "order-7"),
        (topic, 2, 0, "order-7"),
        (f"{group}.retry.300ms", 3, 0, "order-7"),
        (f"{group}.retry.600ms", 4, 0, "order-7"),
        (stage.replay_topic, 1, 1, "order-7"),
    ]
    assert len(stage.told(handler="second", original=list(place))) == 1
    assert stage.lag([topic]) == 0


def test_a_replay_that_fails_again_starts_its_chain_anew_and_is_listed_beside_the_first(
    stage: Stage,
) -> None:
    topic = stage.env["TOPIC"]
    place = stage.send(topic, {"kind": "always", "id": 7})
    assert stage.run("chain:app", "--drain").code == 0
    before = stage.letter(place)

    replay = stage.dlq("chain:app", "replay", "--execute")
    assert (replay.code, stage.run("chain:app", "--drain").code) == (0, 0)

    calls = stage.told(handler="first", original=list(place))
    assert [(call["replay"], call["attempt"]) for call in calls] == [
        (0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4)
    ]  # fmt: skip
    dead = [one for one in stage.letters() if "kworker-dlq-event" not in one.ours]
    assert [(one.ours["kworker-replay-count"], one.ours["kworker-hop"]) for one in dead] == [
        ("0", "3"), ("1", "3")
    ]  # fmt: skip
    assert dead[1].value == before.value
    assert dead[1].ours["kworker-message-id"] == before.ours["kworker-message-id"]


def test_an_interrupted_order_to_replay_all_replays_nothing_twice(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    stage.send(topic, {"kind": "reject"})
    stage.send(topic, {"kind": "reject"}, partition=1)
    assert stage.run("chain:app", "--drain").code == 0

    assert stage.dlq("chain:app", "replay", "--limit", "1", "--execute").code == 0
    assert stage.dlq("chain:app", "replay", "--execute").code == 0
    assert stage.dlq("chain:app", "replay", "--execute").code == 0

    copies = letters(stage.bootstrap, stage.replay_topic)
    assert sorted(copy.original[1] for copy in copies) == [0, 1]


def test_a_message_sent_twice_under_one_id_is_handled_once(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    same = [("kworker-message-id", b"order-7")]
    stage.send(topic, {"kind": "slow"}, headers=same)
    stage.send(topic, {"kind": "slow"}, headers=same, partition=1)
    stage.send(topic, {"kind": "slow"}, headers=same, key=b"another")
    neighbour = stage.send(topic, {"kind": "ok"})

    assert stage.run("chain:app", "--drain", "--concurrency", "8").code == 0
    stage.send(topic, {"kind": "slow"}, headers=same)
    assert stage.run("chain:app", "--drain", "--concurrency", "8").code == 0

    assert len(stage.told(handler="first", id="order-7")) == 1
    assert len(stage.told(handler="second", id="order-7")) == 1
    assert len(stage.told(handler="first", original=list(neighbour))) == 1
    assert stage.lag([topic]) == 0


def test_a_duplicate_waits_for_the_first_and_holds_up_nobody_else(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    same = [("kworker-message-id", b"order-7")]
    stage.send(topic, {"kind": "third time"}, headers=same)
    stage.send(topic, {"kind": "third time"}, headers=same, partition=1)
    neighbour = stage.send(topic, {"kind": "ok"}, key=b"k2", partition=1)

    assert stage.run("chain:app", "--drain", "--concurrency", "8").code == 0

    calls = stage.told(handler="first", id="order-7")
    assert [call["attempt"] for call in calls] == [1, 2, 3], "once through the chain, not twice"
    [other] = stage.told(handler="first", original=list(neighbour))
    assert other["at"] < calls[2]["at"]


def test_a_dead_letter_that_its_producer_sends_again_is_settled_already(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    same = [("kworker-message-id", b"order-7")]
    stage.send(topic, {"kind": "reject"}, headers=same)
    assert stage.run("chain:app", "--drain").code == 0

    stage.send(topic, {"kind": "reject"}, headers=same)
    assert stage.run("chain:app", "--drain").code == 0

    assert len(stage.told(handler="first")) == 1
    assert len(stage.letters()) == 1


def test_a_copy_for_a_handler_that_is_gone_waits_for_its_return(stage: Stage) -> None:
    topic = stage.env["TOPIC"]
    place = stage.send(topic, {"kind": "ok", "say": "old fails"})
    _fail_once(stage)

    worker = stage.start("chain:app", env={"OLD": "gone"})
    neighbour = stage.send(topic, {"kind": "third time"})
    until(
        lambda: len(stage.told(handler="first", original=list(neighbour))) == 3,
        20,
        "the neighbour goes through the chain while the copy waits",
    )
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert stage.letters() == []
    assert stage.run("chain:app", "--drain").code == 0

    calls = stage.told(handler="old", original=list(place))
    assert [call["attempt"] for call in calls] == [1, 2]
    assert stage.letters() == []


def test_a_copy_for_a_handler_that_never_returns_is_dead_lettered_after_the_wait(
    stage: Stage,
) -> None:
    place = stage.send(stage.env["TOPIC"], {"kind": "ok", "say": "old fails"}, headers=THEIRS)
    _fail_once(stage)
    [copy] = letters(stage.bootstrap, f"{stage.group}.retry.1s")

    ended = stage.run(
        "chain:app", "--drain", "--unknown-handler-wait", "3s", env={"OLD": "gone"}, timeout=40
    )

    assert ended.code == 0
    letter = stage.letter(place)
    assert letter.ours["kworker-disposition"] == "unknown_handler"
    assert letter.ours["kworker-handler"] == "old"
    assert (letter.ours["kworker-hop"], letter.ours["kworker-attempt"]) == ("2", "1")
    assert (letter.value, letter.theirs) == (copy.value, THEIRS)
    assert letter.timestamp - copy.timestamp >= 3
    assert stage.lag([stage.env["TOPIC"]]) == 0


def _fail_once(stage: Stage) -> None:
    """Run the app until the old handler's copy is written, and stop it before it is due."""
    worker = stage.start("chain:app")
    until(lambda: stage.retries(), 20, "the copy for the old handler is written")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert len(stage.told(handler="old")) == 1
