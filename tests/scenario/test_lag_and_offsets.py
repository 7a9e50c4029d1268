"""What `kworker lag` and `kworker offsets` say of a group on a real Kafka, and what they move."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import confluent_kafka
import pytest

from kworker.kafka.api import Committed
from kworker.message import Partition
from kworker.ranges import Ranges
from kworker.stores import Store, open_store
from kworker.stores.api import Log, Mark, Turn


def commit(shop: Any, positions: dict[int, int], topic: str | None = None, **more: Any) -> None:
    with closing(shop.cluster.consumer(shop.group)) as outsider:
        result = outsider.commit_now(
            {
                Partition(topic or shop.source, index): Committed(offset, **more)
                for index, offset in positions.items()
            }
        )
    assert not result.refused


def committed(shop: Any, topic: str | None = None) -> dict[int, Committed | None]:
    partitions = [Partition(topic or shop.source, index) for index in range(3)]
    found = shop.cluster.committed(shop.group, partitions)
    return {one.index: point for one, point in found.items()}


def lags(shop: Any, *arguments: str) -> dict[tuple[str, int], dict[str, Any]]:
    """What `lag --json` says, by topic (without the group) and partition."""
    answer = shop.run("lag", "shop:app", "--json", *arguments)
    assert answer.code == 0, answer.err
    return {
        (one["topic"].removeprefix(f"{shop.group}."), one["partition"]): one
        for one in answer.document["partitions"]
    }


@contextmanager
def a_member(shop: Any) -> Iterator[None]:
    """A plain consumer is in the group meanwhile."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": shop.servers, "group.id": shop.group, "client.id": "somebody"}
    )
    consumer.subscribe([shop.source])
    deadline = time.monotonic() + 20
    while not consumer.assignment():
        assert time.monotonic() < deadline, "did not join"
        consumer.poll(0.1)
    yield
    consumer.close()


# --- lag -----------------------------------------------------------------------------------


def test_lag_is_told_as_programs_may_read_it(open_shop: Any) -> None:
    shop = open_shop
    for _ in range(3):
        shop.send(partition=0, timestamp=time.time() - 100)
    shop.send(partition=1)
    commit(shop, {0: 1, 1: 1})

    answer = shop.run("lag", "shop:app", "--json")

    document = answer.document
    assert answer.code == 0, answer.err
    assert (document["schema"], document["total"]) == ("kworker.lag/1", 2)
    first, second, third = document["partitions"][:3]
    age = first.pop("lag_seconds")
    assert 100 <= age < 160
    assert first == {"topic": shop.source, "partition": 0, "committed": 1, "end": 3, "lag": 2}
    assert second == {
        "topic": shop.source,
        "partition": 1,
        "committed": 1,
        "end": 1,
        "lag": 0,
        "lag_seconds": 0.0,
    }
    assert (third["committed"], third["end"], third["lag"], third["lag_seconds"]) == (None, 0, 0, 0)
    topics = {one["topic"].removeprefix(f"{shop.group}.") for one in document["partitions"]}
    assert topics == {shop.source, "retry.1s", "replay"}


def test_copies_that_wait_for_a_retry_are_ahead_too_and_dead_letters_are_not(
    open_shop: Any,
) -> None:
    shop = open_shop
    shop.send(topic=f"{shop.group}.retry.1s", partition=2)
    shop.send(topic=f"{shop.group}.dlq")

    found = lags(shop)

    assert {place: one["lag"] for place, one in found.items() if one["lag"]} == {("retry.1s", 2): 1}


def test_what_has_no_position_counts_from_where_the_group_would_begin(open_shop: Any) -> None:
    shop = open_shop
    shop.send()
    shop.send(topic=f"{shop.group}.replay")

    earliest, latest = lags(shop), lags(shop, "--start-from", "latest")

    assert [one[shop.source, 0]["lag"] for one in (earliest, latest)] == [1, 0]
    assert [one["replay", 0]["lag"] for one in (earliest, latest)] == [1, 1]
    assert latest[shop.source, 0]["committed"] is None


def test_the_age_is_that_of_the_first_message_that_still_exists(open_shop: Any) -> None:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    shop = open_shop
    for index in range(4):
        shop.send(timestamp=time.time() - 1000 + 100 * index)
    commit(shop, {0: 1})
    admin = AdminClient({"bootstrap.servers": shop.servers})
    [gone] = admin.delete_records([TopicPartition(shop.source, 0, 3)]).values()
    gone.result(30)

    found = lags(shop)[shop.source, 0]

    assert (found["committed"], found["end"], found["lag"]) == (1, 4, 1)
    assert 700 <= found["lag_seconds"] < 760


def test_an_age_that_cannot_be_known_is_null(open_shop: Any) -> None:
    shop = open_shop
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": shop.servers, "transactional.id": shop.group}
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(shop.source, b"undecided", partition=0)
    producer.flush(20)

    found = lags(shop)[shop.source, 0]

    producer.abort_transaction(20)
    assert (found["lag"], found["lag_seconds"]) == (1, None)


def test_more_than_is_allowed_is_10(open_shop: Any) -> None:
    shop = open_shop
    shop.send()
    shop.send()

    codes = [shop.run("lag", "shop:app", "--fail-above", above).code for above in ("2", "1")]

    assert codes == [0, 10]


def test_people_see_a_table_with_the_total(open_shop: Any) -> None:
    shop = open_shop
    shop.send(timestamp=time.time() - 7200)

    answer = shop.run("lag", "shop:app")

    head, first, *_, last = answer.out.splitlines()
    assert head.split()[:5] == ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]
    assert first.split()[:5] == [shop.source, "0", "-", "1", "1"]
    assert last.split() == ["total", "1"]


def test_watching_looks_again_until_it_is_interrupted(open_shop: Any) -> None:
    shop = open_shop
    ours, theirs = pty.openpty()
    watch = subprocess.Popen(
        shop.command("lag", "shop:app", "--watch"),
        cwd=shop.folder,
        env={**shop.environ(), "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)

    seen = b""
    while seen.count(b"total") < 2:
        seen += os.read(ours, 65536)
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=30)
    os.close(ours)

    assert (watch.returncode, err) == (0, b"")


@pytest.mark.parametrize("more", [["--watch"], ["--watch", "--json"], ["--fail-above", "-1"]])
def test_what_lag_cannot_do_is_2(shop: Any, more: list[str]) -> None:
    answer = shop.run("lag", "shop:app", *more)

    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("command", [["lag"], ["offsets", "show"]])
def test_a_topic_of_a_handler_that_is_not_there_is_3(shop: Any, command: list[str]) -> None:
    (shop.folder / "shop.py").write_text(
        "from kworker import App\napp = App('shop')\n"
        "@app.handler('nobody-made-this')\ndef charge(order: dict) -> None: ...\n"
    )

    answer = shop.run(*command, "shop:app")

    assert answer.code == 3
    assert answer.err.startswith("kworker: error: topic 'nobody-made-this' does not exist at ")
    assert answer.err.count("\n") == 1


# --- offsets show --------------------------------------------------------------------------


def test_positions_are_shown_with_what_else_the_commit_says(open_shop: Any) -> None:
    shop = open_shop
    commit(shop, {0: 5}, leader_epoch=0, metadata="map\x1b")

    answer = shop.run("offsets", "show", "shop:app", "--json")
    table = shop.run("offsets", "show", "shop:app").out.splitlines()

    assert answer.document["schema"] == "kworker.offsets.show/1"
    assert answer.document["group"] == shop.group
    assert answer.document["partitions"][:2] == [
        {
            "topic": shop.source,
            "partition": 0,
            "committed": 5,
            "leader_epoch": 0,
            "metadata": "map\x1b",
            "map": None,
        },
        {
            "topic": shop.source,
            "partition": 1,
            "committed": None,
            "leader_epoch": None,
            "metadata": None,
            "map": None,
        },
    ]
    assert table[1].split() == [shop.source, "0", "5", "0", "map\\x1b"]


# --- offsets reset -------------------------------------------------------------------------


def reset(shop: Any, *arguments: str) -> Any:
    return shop.run("offsets", "reset", "shop:app", *arguments)


def test_without_execute_a_reset_says_what_it_would_do_and_does_nothing(open_shop: Any) -> None:
    shop = open_shop
    for _ in range(4):
        shop.send()
    commit(shop, {0: 3})

    answer = reset(shop, "--to", "earliest")

    assert answer.code == 0
    rows = [line.split() for line in answer.out.splitlines()]
    assert rows[1:4] == [
        [shop.source, "0", "3", "0", "-3"],
        [shop.source, "1", "-", "0"],
        [shop.source, "2", "-", "0"],
    ]
    assert answer.out.endswith(
        f"3 positions of group {shop.group} would be moved; add --execute to do it\n"
    )
    assert committed(shop) == {0: Committed(3), 1: None, 2: None}


@pytest.mark.parametrize(
    ("position", "after"),
    [
        ("earliest", 0),
        ("99", 5),
        ("-2", 1),
        ("2026-01-01T00:00:04Z", 4),
    ],
)
def test_a_reset_moves_to_where_it_is_told(open_shop: Any, position: str, after: int) -> None:
    shop = open_shop
    for index in range(5):
        shop.send(timestamp=1767225600.0 + index)
    commit(shop, {0: 3, 1: 0, 2: 0}, metadata="map")

    answer = reset(shop, "--to", position, "--execute")

    assert answer.code == 0, answer.err
    assert answer.out.endswith(f"moved 3 positions of group {shop.group}\n")
    assert committed(shop)[0] == Committed(after)
    assert committed(shop, f"{shop.group}.replay")[0] is None


def test_a_reset_may_be_of_one_topic_alone_and_of_a_retry_topic(open_shop: Any) -> None:
    shop = open_shop
    retries = f"{shop.group}.retry.1s"
    shop.send()
    shop.send(topic=retries)

    answer = reset(shop, "--to", "latest", "--topic", retries, "--execute")

    assert answer.code == 0, answer.err
    assert committed(shop, retries)[0] == Committed(1)
    assert committed(shop)[0] is None


def test_nothing_is_moved_while_the_group_has_members(open_shop: Any) -> None:
    shop = open_shop
    shop.send()
    commit(shop, {0: 1})

    with a_member(shop):
        dry = reset(shop, "--to", "earliest")
        answer = reset(shop, "--to", "earliest", "--execute")

    assert dry.code == 0
    assert f"group {shop.group!r} has members (somebody on 127.0.0.1)" in dry.err
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        f"kworker: error: group {shop.group!r} has members (somebody on 127.0.0.1), which would "
        "go on from where they are and commit over it; stop its workers first\n"
    )
    assert committed(shop)[0] == Committed(1)


def test_a_member_that_joins_at_the_last_moment_is_found_by_kafka_itself(open_shop: Any) -> None:
    from kworker import progress
    from kworker.errors import UsageError

    shop = open_shop

    with a_member(shop), pytest.raises(UsageError, match="has members"):
        progress.move(shop.cluster, shop.group, {Partition(shop.source, 0): 0})


def test_there_is_nothing_to_count_from_where_the_group_has_no_position(open_shop: Any) -> None:
    shop = open_shop
    commit(shop, {0: 0, 1: 0})

    answer = reset(shop, "--to", "-5")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        f"kworker: error: group {shop.group!r} stands nowhere yet in {shop.source}/2, so there is "
        "nothing to count -5 from; give earliest, latest, an offset or a time\n"
    )


def test_a_reset_needs_a_position_and_topics_that_the_group_reads(open_shop: Any) -> None:
    shop = open_shop

    nowhere = reset(shop)
    nonsense = reset(shop, "--to", "yesterday")
    foreign = reset(shop, "--to", "earliest", "--topic", shop.source[:-1])

    assert [one.code for one in (nowhere, nonsense, foreign)] == [2, 2, 2]
    assert "'yesterday' is no position" in nonsense.err
    assert foreign.err == (
        f"kworker: error: group {shop.group!r} does not read {shop.source[:-1]!r}; did you mean "
        f"{shop.source!r}?\n"
    )


# --- offsets reset --again -----------------------------------------------------------------


def remembering(shop: Any, cluster: str | None = None) -> Store:
    """This host's store of the group, as a worker opens it."""
    identity = cluster or shop.cluster.admin().cluster_id()
    path = shop.folder / ".kworker" / f"{shop.group}.db"
    return open_store(path, group=shop.group, cluster=identity)


def test_again_forgets_what_this_host_remembers_of_the_topics_that_are_moved(
    open_shop: Any,
) -> None:
    shop = open_shop
    shop.send()
    commit(shop, {0: 1, 1: 0, 2: 0})
    mark, other = Mark("shop.charge", shop.source, "a"), Mark("shop.charge", "returns", "a")
    log = Log("some-topic-id", 0)
    with closing(remembering(shop)) as store:
        done = {("shop.charge", log): Ranges([(0, 1)])}
        store.record(Turn(seen=[mark, other], done=done, topics={log.topic_id: shop.source}))

    dry = reset(shop, "--to", "earliest", "--again")
    plain = reset(shop, "--to", "earliest", "--execute")
    with closing(remembering(shop)) as store:
        kept = store.seen([mark, other])
    again = reset(shop, "--to", "earliest", "--again", "--execute")

    assert f"remembers of {shop.source} would be forgotten" in dry.err
    assert "is skipped there; --again forgets it here" in plain.err
    assert kept == {mark, other}
    assert again.code == 0, again.err
    assert f"forgot 2 entries of {shop.source}\n" in again.out
    assert "other hosts of the group keep their memory" in again.err
    with closing(remembering(shop)) as store:
        assert store.seen([mark, other]) == {other}
        assert not store.done("shop.charge", log)


def test_a_store_of_another_cluster_is_told_before_anything_is_moved(open_shop: Any) -> None:
    shop = open_shop
    shop.send()
    commit(shop, {0: 1})
    remembering(shop, "another-cluster").close()

    answer = reset(shop, "--to", "earliest", "--again", "--execute")

    assert answer.code == 5
    assert "belongs to cluster 'another-cluster'" in answer.err
    assert committed(shop)[0] == Committed(1)


def test_again_needs_no_store(open_shop: Any) -> None:
    shop = open_shop

    answer = reset(shop, "--to", "earliest", "--again", "--execute")

    assert answer.code == 0, answer.err
    assert not (shop.folder / ".kworker").exists()
