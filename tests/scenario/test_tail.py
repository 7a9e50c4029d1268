"""What `kworker tail` shows on a real Kafka."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def lines(shop: Any, *arguments: str) -> list[dict[str, Any]]:
    """What `tail -e --json` gives, in the order of partitions and offsets."""
    answer = shop.run("tail", shop.source, "--exit-eof", "--json", *arguments)
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    return sorted(found, key=lambda one: (one["partition"], one["offset"]))


def places(messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(one["partition"], one["offset"]) for one in messages]


@contextmanager
def sending(shop: Any) -> Iterator[None]:
    """Messages come while this lasts: whoever begins at the end misses some."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.2):
            shop.send(b"new")

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_message_is_shown_as_programs_may_read_it(shop: Any) -> None:
    shop.send(
        b'{"id": 1}', key=b"k\xff", headers=[("a", b"1"), ("a", None)], timestamp=1767225600.5
    )

    assert lines(shop, "-o", "earliest") == [
        {
            "schema": "kworker.tail/1",
            "topic": shop.source,
            "partition": 0,
            "offset": 0,
            "timestamp": "2026-01-01T00:00:00.500+00:00",
            "key": {"base64": "a/8="},
            "value": '{"id": 1}',
            "headers": [["a", "1"], ["a", None]],
        }
    ]


def test_people_see_one_line_a_message_and_nothing_that_hurts_their_terminal(shop: Any) -> None:
    shop.send(b"bad\x1b[2J\nline", key=b"k\ty", timestamp=1767225600.0)
    shop.send(None)

    answer = shop.run("tail", shop.source, "-o", "earliest", "-e")

    first, second = answer.out.splitlines()
    assert first.split("\t") == [
        f"{shop.source}/0/0",
        "2026-01-01T00:00:00Z",
        "k\\ty",
        "bad\\x1b[2J\\nline",
    ]
    assert second.endswith("\t-\t(tombstone)")


@pytest.mark.parametrize(
    ("position", "seen"),
    [
        ("earliest", [(0, 0), (0, 1), (0, 2), (1, 0)]),
        ("latest", []),
        ("1", [(0, 1), (0, 2)]),
        ("+2", [(0, 2)]),
        ("-1", [(0, 2), (1, 0)]),
        ("2026-01-01T00:00:01Z", [(0, 1), (0, 2)]),
        ("-1h", []),
    ],
)
def test_it_begins_where_it_is_told_in_each_partition(
    shop: Any, position: str, seen: list[tuple[int, int]]
) -> None:
    for index in range(3):
        shop.send(timestamp=1767225600.0 + index)
    shop.send(partition=1, timestamp=1767225600.0)

    assert places(lines(shop, "-o", position)) == seen


def test_new_messages_are_shown_until_it_is_interrupted(shop: Any) -> None:
    shop.send(b"old")
    tail = shop.start("tail", shop.source)

    with sending(shop):
        first = tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=30)

    assert first.endswith("\tnew\n")
    assert (tail.returncode, err) == (0, "")


def test_a_limit_ends_it(shop: Any) -> None:
    for _ in range(3):
        shop.send()

    some = lines(shop, "-o", "earliest", "-n", "2")
    with sending(shop):
        new = shop.run("tail", shop.source, "-n", "1")

    assert places(some) == [(0, 0), (0, 1)]
    assert (new.code, len(new.out.splitlines())) == (0, 1)


def test_a_reader_that_has_enough_ends_it(shop: Any) -> None:
    for _ in range(3):
        shop.send(b"x" * 100_000)
    tail = shop.start("tail", shop.source, "-o", "earliest", "-e")

    tail.stdout.read(10)
    tail.stdout.close()
    told = tail.stderr.read()
    tail.wait(30)

    assert "Traceback" not in told
    assert "bug" not in told


def test_a_topic_that_is_not_there_is_one_line_and_3(shop: Any) -> None:
    answer = shop.run("tail", shop.source[:-1])

    assert (answer.code, answer.out) == (3, "")
    assert answer.err == (
        f"kworker: error: topic {shop.source[:-1]!r} does not exist at {shop.servers}; check the "
        f"name and -b; did you mean {shop.source!r}?\n"
    )


def test_a_position_that_is_none_is_2_and_says_what_would_be_one(shop: Any) -> None:
    answer = shop.run("tail", shop.source, "-o", "yesterday")

    assert (answer.code, answer.out) == (2, "")
    assert "'yesterday' is no position; write earliest, latest, an offset, +N, -N" in answer.err
