"""What is wrong with messages, topics, broker, app or store: what the user reads, and that no
message is lost. Beside every bad message stands a good one on the same partition."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import Finished, Process, until
from ..faults.oracle import Place
from .stage import Letter, Stage, raw, send_with_header_name, staged

HOUR = 3600.0
FORGED = [
    ("kworker-handler", b"anything"),
    ("kworker-hop", b"7"),
    ("kworker-attempt", b"99"),
    ("kworker-not-before", b"99999999999999"),
    ("kworker-original-topic", b"elsewhere"),
    ("kworker-original-partition", b"5"),
    ("kworker-original-offset", b"55"),
    ("kworker-original-timestamp", b"1"),
    ("kworker-original-group", b"another"),
    ("kworker-first-failed-at", b"1999-01-01T00:00:00+00:00"),
    ("kworker-error-type", b"\xff"),
    ("kworker-replay-count", b"3"),
    ("kworker-dlq-event", b"discarded"),
    ("kworker-disposition", b"expired"),
    ("kworker-of-tomorrow", None),
]


# ---- one run over every bad message that a producer can send


@dataclass(frozen=True, slots=True)
class Bad:
    """What one run made of all bad messages, each by its name."""

    stage: Stage
    places: dict[str, Place]
    ended: Finished
    started_at: float

    def seen(self, name: str) -> list[dict[str, Any]]:
        return self.stage.told(original=list(self.places[name]))

    def letter(self, name: str) -> Letter:
        return self.stage.letter(self.places[name])

    def buried(self, name: str) -> bool:
        return self.places[name] in [letter.original for letter in self.stage.letters()]


@pytest.fixture(scope="module")
def bad(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    with staged(kafka.bootstrap_servers, tmp_path_factory.mktemp("bad")) as stage:
        objects = stage.create_topic(
            f"{stage.group}.objects",
            partitions=1,
            message_timestamp_after_max_ms=48 * 3_600_000,
            retention_ms=-1,
        )
        anything = stage.create_topic(f"{stage.group}.anything", partitions=1)
        stage.env.update(TOPIC=objects, ANYTHING=anything)
        good, fail = {"n": 1}, {"fail": True}
        now = time.time()
        places = {
            "first": stage.send(objects, good),
            "not UTF-8": stage.send(objects, b"\xff\xfe\x00"),
            "cut JSON": stage.send(objects, b'{"n": '),
            "another type": stage.send(objects, b"[1, 2]"),
            "tombstone": stage.send(objects, None),
            "empty": stage.send(objects, b""),
            "NUL": stage.send(objects, b"\x00"),
            "deep": stage.send(objects, b"[" * 100_000),
            "any tombstone": stage.send(anything, None),
            "any empty": stage.send(anything, b""),
            "any NUL": stage.send(anything, b"\x00"),
            "no key": stage.send(objects, good, key=None),
            "empty key": stage.send(objects, good, key=b""),
            "NUL key": stage.send(objects, good, key=b"\x00a\x00"),
            "binary key": stage.send(objects, fail, key=b"\xff\xfe"),
            "header pairs": stage.send(
                objects,
                fail,
                headers=[("a", b"1"), ("a", None), ("a", b""), ("", b"x"), ("é", b"")],
            ),
            "forged": stage.send(
                objects, fail, headers=[("a", b"1"), *FORGED, ("kworker-message-id", b"mine")]
            ),
            "forged, good": stage.send(objects, good, headers=FORGED),
            "repeated": stage.send(
                objects,
                fail,
                headers=[
                    ("kworker-message-id", b"one"),
                    ("kworker-message-id", b"two"),
                    *FORGED * 2,
                ],
            ),
            "binary id": stage.send(objects, good, headers=[("kworker-message-id", b"\xff\x00")]),
            "empty id": stage.send(objects, good, headers=[("kworker-message-id", b"")]),
            "None id": stage.send(objects, good, headers=[("kworker-message-id", None)]),
            "long id": stage.send(objects, good, headers=[("kworker-message-id", b"i" * 5000)]),
            "of 1970": stage.send(objects, fail, timestamp=0.001),
            "of last month": stage.send(objects, fail, timestamp=now - 30 * 24 * HOUR),
            "of tomorrow": stage.send(objects, fail, timestamp=now + 24 * HOUR),
            "900 KB": stage.send(
                objects, {"fail": True, "text": base64.b64encode(os.urandom(675_000)).decode()}
            ),
        }
        before = stage.send(objects, good)
        send_with_header_name(stage.bootstrap, objects, b"k", b'{"n": 2}', b"bad-\xff-name")
        places["header name"] = (objects, 0, before[2] + 1)
        places["last"] = stage.send(objects, good)
        started_at = time.time()
        ended = stage.run("bad:app", "--drain", "--concurrency", "4")
        yield Bad(stage, places, ended, started_at)


def test_no_bad_message_stops_the_worker_and_all_is_committed(bad: Bad) -> None:
    assert bad.ended.code == 0
    assert bad.stage.lag([bad.stage.env["TOPIC"], bad.stage.env["ANYTHING"]]) == 0
    assert "Traceback" not in bad.ended.err
    assert "bug in kworker" not in bad.ended.err


def test_good_neighbours_on_the_same_partition_are_handled_once(bad: Bad) -> None:
    for name in ("first", "last"):
        assert len(bad.seen(name)) == 1
        assert not bad.buried(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("not UTF-8", b"\xff\xfe\x00"), ("cut JSON", b'{"n": '), ("another type", b"[1, 2]"),
        ("tombstone", None), ("empty", b""), ("NUL", b"\x00"), ("deep", b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_value_that_is_not_what_the_handler_takes_is_buried_byte_for_byte(
    bad: Bad, name: str, value: bytes | None
) -> None:
    letter = bad.letter(name)

    assert bad.seen(name) == []
    assert letter.value == value
    assert letter.key == b"k"
    assert letter.ours["kworker-disposition"] == "undecodable"
    assert letter.ours["kworker-error-message"]


def test_each_burial_is_told_with_where_and_why(bad: Bad) -> None:
    topic, partition, offset = bad.places["cut JSON"]

    [told] = [
        line for line in map(json.loads, bad.ended.said)
        if (line.get("topic"), line.get("partition"), line.get("offset"))
        == (topic, partition, offset)
    ]  # fmt: skip

    assert told["level"].lower() == "error"
    assert told["handler"] == "objects"
    assert "undecodable" in told["message"]


def test_a_tombstone_and_empty_bytes_are_values_where_the_handler_takes_them(bad: Bad) -> None:
    told = [raw(bad.seen(name)[0]["raw"]) for name in ("any tombstone", "any empty", "any NUL")]

    assert told == [None, b"", b"\x00"]


def test_no_key_an_empty_key_and_a_key_with_nul_are_three_keys(bad: Bad) -> None:
    keys = [raw(bad.seen(name)[0]["key"]) for name in ("no key", "empty key", "NUL key")]

    assert keys == [None, b"", b"\x00a\x00"]
    assert bad.letter("binary key").key == b"\xff\xfe"


def test_a_header_name_that_is_not_utf_8_buries_the_message_and_hurts_nobody(bad: Bad) -> None:
    letter = bad.letter("header name")

    assert bad.seen("header name") == []
    assert (letter.key, letter.value) == (b"k", b'{"n": 2}')
    assert letter.theirs == []
    assert letter.ours["kworker-disposition"] == "undecodable"
    assert "header" in letter.ours["kworker-error-message"]


def test_repeated_none_empty_and_nameless_headers_arrive_and_are_copied_in_their_order(
    bad: Bad,
) -> None:
    sent = [("a", b"1"), ("a", None), ("a", b""), ("", b"x"), ("é", b"")]

    [call] = bad.seen("header pairs")

    assert [(name, raw(value)) for name, value in call["headers"]] == sent
    assert bad.letter("header pairs").theirs == sent


def test_forged_headers_of_ours_change_nothing_but_the_id(bad: Bad) -> None:
    [call] = bad.seen("forged")
    letter = bad.letter("forged")
    place = bad.places["forged"]

    assert (call["handler"], call["attempt"], call["replay"]) == ("objects", 1, 0)
    assert call["id"] == "mine"
    assert letter.theirs == [("a", b"1")]
    kept = {name: letter.ours[f"kworker-{name}"] for name in (
        "message-id", "handler", "hop", "attempt", "original-topic", "original-partition",
        "original-offset", "original-group", "replay-count", "disposition", "error-type",
    )}  # fmt: skip
    assert kept == {
        "message-id": "mine",
        "handler": "objects",
        "hop": "1",
        "attempt": "1",
        "original-topic": place[0],
        "original-partition": str(place[1]),
        "original-offset": str(place[2]),
        "original-group": bad.stage.group,
        "replay-count": "0",
        "disposition": "retries_exhausted",
        "error-type": "bad.Broken",
    }
    assert not {"kworker-not-before", "kworker-dlq-event", "kworker-of-tomorrow"} & set(letter.ours)
    assert abs(int(letter.ours["kworker-original-timestamp"]) / 1000 - bad.started_at) < 60
    assert not letter.ours["kworker-first-failed-at"].startswith("1999")


def test_a_good_message_with_forged_headers_is_handled_at_once(bad: Bad) -> None:
    [call] = bad.seen("forged, good")

    assert (call["attempt"], call["replay"]) == (1, 0)


def test_a_repeated_id_is_not_believed_and_each_of_our_headers_is_written_once(bad: Bad) -> None:
    [call] = bad.seen("repeated")
    letter = bad.letter("repeated")  # which itself refuses a header of ours that occurs twice

    assert call["id"] not in ("one", "two")
    assert letter.ours["kworker-message-id"] == call["id"]
    assert call["id"].endswith(f"/0/{bad.places['repeated'][2]}")


@pytest.mark.parametrize("name", ["binary id", "empty id", "None id"])
def test_an_id_that_is_no_text_is_no_id(bad: Bad, name: str) -> None:
    [call] = bad.seen(name)

    assert call["id"].endswith(f"/0/{bad.places[name][2]}"), "its position stands in"


def test_a_long_id_is_an_id(bad: Bad) -> None:
    [call] = bad.seen("long id")

    assert call["id"] == "i" * 5000


@pytest.mark.parametrize("name", ["of 1970", "of last month", "of tomorrow"])
def test_copies_of_old_and_future_messages_are_stamped_now_and_remember_the_producers_time(
    bad: Bad, name: str
) -> None:
    [call] = bad.seen(name)
    letter = bad.letter(name)

    assert bad.started_at - 1 <= letter.timestamp <= bad.started_at + 60
    written = int(letter.ours["kworker-original-timestamp"]) / 1000
    assert written == pytest.approx(call["timestamp"], abs=0.001)
    expected = {"of 1970": 0.001, "of tomorrow": bad.started_at + 24 * HOUR}
    assert written == pytest.approx(expected.get(name, bad.started_at - 30 * 24 * HOUR), abs=60)


def test_a_message_of_900_kb_is_handled_and_its_copy_is_whole(bad: Bad) -> None:
    [call] = bad.seen("900 KB")
    letter = bad.letter("900 KB")

    assert call["size"] > 900_000
    assert len(letter.value or b"") == call["size"]
    assert "kworker-error-stacktrace" in letter.ours


def test_the_list_of_dead_letters_shows_them_all_and_can_be_read_by_a_program(bad: Bad) -> None:
    listed = bad.stage.dlq("bad:app", "list", "--json").json["messages"]

    places = {tuple(one["original"].values()) for one in listed}
    assert places == {letter.original for letter in bad.stage.letters()}
    [binary] = [
        one for one in listed if tuple(one["original"].values()) == bad.places["binary key"]
    ]
    assert binary["key"] == {"base64": base64.b64encode(b"\xff\xfe").decode()}


# ---- copies and the limits of their topics


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        made.env["TOPIC"] = made.create_topic(f"{made.group}.source", partitions=1)
        yield made


def test_topics_for_copies_take_what_the_source_takes_and_64_kib_more(stage: Stage) -> None:
    large = stage.create_topic(f"{stage.group}.large", partitions=1, max_message_bytes=2_500_000)
    stage.env["TOPIC"] = large
    place = stage.send(large, b"F" + os.urandom(2_400_000))

    ended = stage.run("large:app", "--drain")

    assert ended.code == 0
    assert stage.topic_configs(stage.dlq_topic)["max.message.bytes"] == str(2_500_000 + 65_536)
    letter = stage.letter(place)
    assert len(letter.value or b"") == 2_400_001
    assert "kworker-error-stacktrace" in letter.ours


def test_a_copy_too_large_for_its_topic_drops_its_stack_trace_and_then_its_error_message(
    stage: Stage,
) -> None:
    stage.create_topic(stage.dlq_topic, partitions=1, max_message_bytes=100_000)
    value = b"F" + os.urandom(98_600)
    place = stage.send(stage.env["TOPIC"], value)

    ended = stage.run("large:app", "--drain", "--accept-topics")

    assert ended.code == 0
    letter = stage.letter(place)
    assert letter.value == value
    assert "kworker-error-stacktrace" not in letter.ours
    assert "kworker-error-message" not in letter.ours
    assert letter.ours["kworker-error-type"] == "ValueError"


def test_a_copy_that_does_not_fit_at_all_waits_loudly_and_its_neighbours_flow(
    stage: Stage,
) -> None:
    source = stage.env["TOPIC"]
    stage.create_topic(stage.dlq_topic, partitions=1, max_message_bytes=100_000)
    before = stage.send(source, b"good")
    place = stage.send(source, b"F" + os.urandom(150_000))
    after = [stage.send(source, b"good", key=b"k%d" % number) for number in range(20)]

    worker = stage.start(
        "large:app", "--accept-topics", "--concurrency", "4", "--shutdown-timeout", "2s"
    )
    until(
        lambda: all(stage.told(original=list(good)) for good in (before, *after)),
        20,
        "the neighbours are handled",
    )
    until(lambda: stage.committed([source]).get((source, 0)) == place[2], 10, "it is committed so")
    until(lambda: warned(worker, stage.dlq_topic, "large"), 10, "it is told that the copy waits")
    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 1, "work was left unfinished"
    assert stage.committed([source])[source, 0] == place[2], "not skipped"
    ended = stage.run("large:app", "--drain", "--accept-topics", "--on-oversized-copy", "reference")
    assert ended.code == 0
    letter = stage.letter(place)
    assert letter.value is None
    assert letter.ours["kworker-original-offset"] == str(place[2])
    assert len(stage.told(original=list(place))) == 1, "decided before: only the copy was to send"
    for good in (before, *after):
        assert len(stage.told(original=list(good))) == 1
    assert stage.lag([source]) == 0


def test_a_dead_letter_topic_that_is_too_small_is_refused_by_name(stage: Stage) -> None:
    stage.create_topic(stage.dlq_topic, partitions=1, max_message_bytes=100_000)

    refused = stage.run("large:app", "--drain")

    assert_refused(refused, 3, stage.dlq_topic, "max.message.bytes", "--accept-topics")


def test_a_missing_dead_letter_topic_is_refused_by_name_with_the_command_that_helps(
    stage: Stage,
) -> None:
    refused = stage.run("large:app", "--drain", topics=False)

    assert_refused(refused, 3, stage.dlq_topic, stage.replay_topic, "kworker topics apply")


def test_a_dead_letter_topic_deleted_while_running_stops_its_partition_until_it_is_back(
    stage: Stage,
) -> None:
    source = stage.env["TOPIC"]
    worker = stage.start("large:app", "--concurrency", "4")
    first = stage.send(source, b"good")
    until(lambda: stage.told(original=list(first)), 20, "the worker works")
    stage.admin().delete_topics([stage.dlq_topic])[stage.dlq_topic].result(10)

    place = stage.send(source, b"F")
    good = stage.send(source, b"good", key=b"other")
    until(lambda: stage.told(original=list(good)), 20, "the neighbour is handled")
    until(lambda: warned(worker, stage.dlq_topic), 30, "it is told that the copy waits")
    assert stage.committed([source]).get((source, 0), 0) <= place[2]
    stage.create_topic(stage.dlq_topic, partitions=1)
    until(lambda: stage.letters(), 60, "the dead letter is written once its topic is back")
    stage.wait_for_lag_0([source], 10)

    assert worker.running
    assert stage.letter(place).value == b"F"
    assert len(stage.told(original=list(place))) == 1


# ---- what a worker cannot start with


def test_an_unknown_topic_is_refused_by_name(stage: Stage) -> None:
    stage.env["TOPIC"] = f"{stage.group}.nobody-made-it"

    refused = stage.run("large:app")

    assert_refused(refused, 3, stage.env["TOPIC"])


def test_without_a_broker_the_worker_says_where_it_looked(stage: Stage) -> None:
    asked = time.monotonic()

    refused = stage.run("large:app", "-b", "127.0.0.1:1", "--connect-timeout", "2s")

    assert_refused(refused, 4, "127.0.0.1:1", logged={"info", "warning"})
    assert time.monotonic() - asked < 15


def test_a_worker_told_to_stop_while_it_looks_for_kafka_ends_at_once(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        port = silent.getsockname()[1]
        worker = stage.start("large:app", "-b", f"127.0.0.1:{port}", "--connect-timeout", "60s")
        silent.accept()

        worker.signal(signal.SIGTERM)

        assert worker.wait(5) == 0


def test_a_topic_made_anew_does_not_count_as_seen(stage: Stage) -> None:
    source = stage.env["TOPIC"]
    for _ in range(3):
        stage.send(source, b"good")
    assert stage.run("large:app", "--drain").code == 0

    stage.admin().delete_topics([source])[source].result(10)
    until(lambda: source not in stage.topics(), 10, "the topic is gone")
    stage.create_topic(source, partitions=1)
    for _ in range(5):
        stage.send(source, b"good")
    assert stage.run("large:app", "--drain").code == 0

    assert [call["place"][2] for call in stage.told()] == [0, 1, 2, 0, 1, 2, 3, 4]
    assert len({call["id"] for call in stage.told()}) == 8


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no licence')", "no licence"),
        ("def broken(:", "invalid syntax"),
        ("import surely_not_installed", "surely_not_installed"),
        ("raise SystemExit(0)", "SystemExit"),
        ("answer = 42", "app"),
    ],
    ids=["raises", "syntax", "import", "exits", "no-app"],
)
def test_a_module_that_gives_no_app_is_one_line_naming_it_and_what_is_wrong(
    stage: Stage, source: str, said: str
) -> None:
    stage.apps = stage.folder
    (stage.folder / "shop.py").write_text(f"# a module\n{source}\n")

    refused = stage.run("shop:app")

    assert_refused(refused, 3, "shop", said)


def test_a_module_that_does_not_exist_is_one_line(stage: Stage) -> None:
    assert_refused(stage.run("nosuch:app"), 3, "nosuch")


def test_a_store_that_cannot_be_written_is_refused_by_path(stage: Stage) -> None:
    (stage.folder / "file").write_text("not a folder")
    path = stage.folder / "file" / "store.db"

    refused = stage.run("large:app", "--drain", "--db", str(path))

    assert_refused(refused, 5, str(path))


def test_a_store_that_is_a_folder_is_refused_by_path(stage: Stage) -> None:
    assert_refused(stage.run("large:app", "--db", str(stage.folder)), 5, str(stage.folder))


@pytest.mark.parametrize(
    "content", [b"my notes, which nobody may touch\n" * 100, b"short"], ids=["text", "short"]
)
def test_a_store_that_is_no_database_is_refused_and_left_alone(
    stage: Stage, content: bytes
) -> None:
    path = stage.folder / "notes.txt"
    path.write_bytes(content)

    refused = stage.run("large:app", "--drain", "--db", str(path))

    assert_refused(refused, 5, str(path))
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(stage: Stage) -> None:
    path = stage.folder / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (precious)")
    other.close()
    content = path.read_bytes()

    refused = stage.run("large:app", "--drain", "--db", str(path))

    assert_refused(refused, 5, str(path))
    assert path.read_bytes() == content


def test_a_store_of_a_newer_version_is_refused(stage: Stage) -> None:
    place = stage.send(stage.env["TOPIC"], b"good")
    assert stage.run("large:app", "--drain").code == 0
    store = sqlite3.connect(stage.db)
    (version,) = store.execute("PRAGMA user_version").fetchone()
    store.execute(f"PRAGMA user_version = {version + 1}")
    store.close()

    refused = stage.run("large:app", "--drain")

    assert_refused(refused, 5, str(stage.db), "newer")
    assert len(stage.told(original=list(place))) == 1


def test_the_store_of_another_group_is_refused_with_both_names(stage: Stage) -> None:
    place = stage.send(stage.env["TOPIC"], b"good")
    assert stage.run("large:app", "--drain").code == 0

    refused = stage.run("large:app", "--drain", "--group", f"{stage.group}.two")

    assert_refused(refused, 5, str(stage.db), f"{stage.group}'", f"{stage.group}.two")
    assert len(stage.told(original=list(place))) == 1
    again = stage.run("large:app", "--drain")
    assert again.code == 0
    assert len(stage.told(original=list(place))) == 1


def warned(worker: Process, *words: str) -> bool:
    """Whether one line of the log, a warning or worse, has all these words."""
    lines = [json.loads(line) for line in worker.output.splitlines()]
    loud = [line["message"] for line in lines if line["level"] not in ("debug", "info")]
    return any(all(word in message for word in words) for message in loud)


def assert_refused(
    finished: Finished, code: int, *words: str, logged: Collection[str] = ("info",)
) -> None:
    """The exit code, and one line that says it all; besides it at most what was done."""
    assert finished.code == code
    errors = [line for line in finished.said if not line.startswith("{")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("kworker: error: ")
    for word in words:
        assert word in errors[0]
    levels = {json.loads(line)["level"] for line in finished.said if line.startswith("{")}
    assert levels <= set(logged)
    assert finished.out == ""
