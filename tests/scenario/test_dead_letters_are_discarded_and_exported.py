"""What `kworker dlq discard` and `export` do on a real Kafka, and what bounds a replay."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from kworker import deadletter
from kworker.clock import SystemClock
from kworker.errors import KafkaUnavailable

from .test_dead_letters_are_listed_and_replayed import (
    Failing,
    Interrupted,
    headers_of,
    ids,
    interrupt,
    listed,
    names_of,
    position,
    put,
    silence,
    wire,
)


def many(shop: Any, count: int) -> None:
    for index in range(count):
        put(shop, wire(shop, message_id=f"{index}"), timestamp=1000 + index)


def exported(shop: Any, *arguments: str) -> list[dict[str, Any]]:
    answer = shop.run("dlq", "export", "shop:app", *arguments)
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


# --- discard -------------------------------------------------------------------------------


def test_without_execute_a_discard_says_what_it_would_do_and_does_nothing(open_shop: Any) -> None:
    shop = open_shop
    place = put(shop, wire(shop))

    answer = shop.run("dlq", "discard", "shop:app", place)

    assert answer.code == 0
    assert place in answer.out
    assert answer.out.endswith("1 dead letter would be discarded; add --execute to do it\n")
    assert ids(listed(shop)) == ["id-1"]


def test_a_discard_is_recorded_beside_the_dead_letter_and_only_once(open_shop: Any) -> None:
    shop = open_shop
    place = put(shop, wire(shop))

    done = shop.run("dlq", "discard", "shop:app", place, "--execute")
    again = shop.run("dlq", "discard", "shop:app", place, "--execute")
    replay = shop.run("dlq", "replay", "shop:app", place, "--execute")

    assert (done.code, done.out) == (0, "discarded 1 of 1 dead letter\n")
    assert (again.code, again.out) == (0, "discarded 0 of 0 dead letters\n")
    assert f"{place} was discarded before and is left alone" in again.err
    assert f"{place} was discarded before and is left alone" in replay.err
    [event] = [one for one in shop.records(f"{shop.group}.dlq") if position(one) != place]
    assert event.key == b"customer-7"
    assert headers_of(event) == {
        "kworker-dlq-event": "discarded",
        "kworker-message-id": "id-1",
        "kworker-handler": "shop.charge",
        "kworker-hop": "2",
        "kworker-replay-count": "0",
        "kworker-original-topic": shop.source,
    }
    assert json.loads(event.value or b"")["event"] == "discarded"
    assert shop.records(f"{shop.group}.replay") == []
    assert ids(listed(shop, "--all")) == ["id-1"]


def test_filters_choose_what_is_discarded_and_foreign_records_are_left_alone(
    open_shop: Any,
) -> None:
    shop = open_shop
    put(shop, wire(shop, message_id="a", error_type="KeyError"))
    put(shop, wire(shop, message_id="b"))
    foreign = put(shop, None)

    mixed = shop.run("dlq", "discard", "shop:app", foreign, "--error", "KeyError", "--execute")
    some = shop.run("dlq", "discard", "shop:app", "--error", "KeyError", "--execute")
    named = shop.run("dlq", "discard", "shop:app", foreign, "--execute")

    assert (mixed.code, some.code, named.code) == (2, 0, 1)
    assert "1 records do not say whose dead letters they are: left alone" in some.err
    assert f"{foreign} cannot be discarded" in named.err
    assert set(ids(listed(shop))) == {"b", None}


def test_a_discard_that_was_interrupted_goes_on_with_the_rest(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, names = open_shop, names_of(open_shop)
    many(shop, 5)
    monkeypatch.setattr(deadletter, "_CHUNK", 2)
    letters = deadletter.read(shop.cluster, names)

    with pytest.raises(Interrupted):
        cluster: Any = Failing(shop.cluster, lambda topic, count: count > 3, interrupt)
        deadletter.discard(cluster, names, letters, SystemClock())
    between = ids(listed(shop))
    rest = shop.run("dlq", "discard", "shop:app", "--execute")

    assert between == ["3", "4"]
    assert rest.out == "discarded 2 of 2 dead letters\n"
    assert listed(shop) == []


def test_a_kafka_that_takes_no_more_ends_a_discard_with_what_was_done(open_shop: Any) -> None:
    shop, names = open_shop, names_of(open_shop)
    many(shop, 3)
    letters = deadletter.read(shop.cluster, names)

    with pytest.raises(KafkaUnavailable) as stopped:
        cluster: Any = Failing(shop.cluster, lambda topic, count: count > 2, silence)
        deadletter.discard(cluster, names, letters, SystemClock())

    assert "discard stopped" in str(stopped.value)
    assert "no broker answers; 2 were discarded; the same command" in str(stopped.value)
    assert ids(listed(shop)) == ["2"]


# --- export --------------------------------------------------------------------------------


def test_an_export_has_one_object_a_line_with_all_there_is(open_shop: Any) -> None:
    shop = open_shop
    own = [("a", b"1"), ("a", b"\xff"), ("b", None)]
    place = put(shop, [*own, *wire(shop)], value=b"\x00\xff", timestamp=1767225600123)

    [one] = exported(shop)

    assert one.pop("stacktrace").startswith("Traceback")
    headers = one.pop("headers")
    assert headers[:3] == [["a", "1"], ["a", {"base64": "/w=="}], ["b", None]]
    assert ["kworker-message-id", "id-1"] in headers
    assert one == {
        "schema": "kworker.dlq.export/1",
        **listed(shop)[0],
        "state": "open",
        "first_failed_at": "2026-01-01T00:00:01.000+00:00",
        "value": {"base64": "AP8="},
    }
    assert one["id"] == place


def test_an_export_is_of_ids_of_filters_or_of_all_that_is_open(open_shop: Any) -> None:
    shop = open_shop
    places = [put(shop, wire(shop, message_id=name, error_type=name)) for name in ("a", "b", "c")]
    shop.run("dlq", "discard", "shop:app", places[0], "--execute")

    found = [
        ids(exported(shop, *arguments))
        for arguments in ([], ["--all"], [places[0], places[2]], ["--error", "b"])
    ]

    assert found == [["b", "c"], ["a", "b", "c"], ["a", "c"], ["b"]]


def test_a_file_is_written_whole_and_only_when_there_is_no_fault(open_shop: Any) -> None:
    shop = open_shop
    many(shop, 2)
    file = shop.folder / "dead.ndjson"
    file.write_text("before\n")

    fault = shop.run("dlq", "export", "shop:app", "nosuch/0/0", "--file", str(file))
    kept = file.read_text()
    done = shop.run("dlq", "export", "shop:app", "--file", str(file))
    nowhere = shop.run("dlq", "export", "shop:app", "--file", "nosuch/dead.ndjson")

    assert (fault.code, kept) == (2, "before\n")
    assert "no dead letter 'nosuch/0/0'" in fault.err
    assert (done.code, done.out) == (0, "")
    assert done.err == f"kworker: exported 2 dead letters to {file}\n"
    assert ids([json.loads(line) for line in file.read_text().splitlines()]) == ["0", "1"]
    assert (nowhere.code, nowhere.err.count("\n")) == (2, 1)
    assert "--file nosuch/dead.ndjson: No such file or directory" in nowhere.err
    assert [one.name for one in shop.folder.glob("*.part")] == []


# --- what bounds a replay ------------------------------------------------------------------


def test_a_message_that_was_replayed_often_enough_is_left_alone(open_shop: Any) -> None:
    shop = open_shop
    put(shop, wire(shop, message_id="tired", replay_count="10"), timestamp=1000)
    place = put(shop, wire(shop, message_id="tireder", replay_count="11"), timestamp=1001)
    put(shop, wire(shop, message_id="fresh", replay_count="9"), timestamp=1002)

    done = shop.run("dlq", "replay", "shop:app", "--limit", "1", "--execute")
    named = shop.run("dlq", "replay", "shop:app", place, "--execute")
    still = ids(listed(shop))
    more = shop.run("dlq", "replay", "shop:app", "--max-replays", "12", "--execute")

    told = "left alone: replayed 10 times before (--max-replays)"
    assert (done.code, named.code) == (0, 0)
    assert f"2 dead letters {told}" in done.err
    assert "replayed 1 of 1" in done.out
    assert f"1 dead letter {told}" in named.err
    assert still == ["tired", "tireder"]
    assert "replayed 2 of 2" in more.out


def test_a_replay_keeps_to_its_rate(open_shop: Any) -> None:
    shop, names = open_shop, names_of(open_shop)
    many(shop, 9)
    letters = deadletter.read(shop.cluster, names)

    began = time.monotonic()
    result = deadletter.replay(shop.cluster, names, letters, SystemClock(), rate=4.0)
    took = time.monotonic() - began
    stamps = [one.timestamp or 0.0 for one in shop.records(names.replay)]

    assert result.done == 9
    assert took >= 2.0
    for begin in stamps:
        assert sum(begin <= one < begin + 0.999 for one in stamps) <= 5


@pytest.mark.parametrize(
    "more", [["--rate", "fast"], ["--rate", "0/s"], ["--max-replays", "0"], ["--limit", "0"]]
)
def test_bounds_that_cannot_be_kept_are_2(shop: Any, more: list[str]) -> None:
    answer = shop.run("dlq", "replay", "shop:app", *more)

    assert (answer.code, answer.out) == (2, "")
