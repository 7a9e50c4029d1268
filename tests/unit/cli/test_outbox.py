"""`kworker outbox` on stores as publishers leave them; no Kafka is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kworker.outcome import Output
from kworker.stores import Keeper, open_keeper
from kworker.testing.stores import StoreClock

THEN = 1767225600.0  # 2026-01-01T00:00:00Z
ID = ("kworker-message-id", b"m")


def opened(path: Path) -> Keeper:
    return open_keeper(path, group="shop", cluster="c1", clock=StoreClock(THEN))


def output(id: str, value: bytes, key: bytes | None = b"k", topic: str = "orders") -> Output:
    return Output(topic, key, value, (("trace", b"abc"), ID), id)


@pytest.fixture
def box(tmp_path: Path, shop: Path) -> Path:
    """The store of `shop:app`: two messages wait, one was rejected."""
    path = tmp_path / ".kworker" / "shop.db"
    clock = StoreClock(THEN)
    with closing(open_keeper(path, group="shop", cluster="c1", clock=clock)) as keeper:
        keeper.keep([], [output("m-1", b'{"id": 1, "who": "Ada"}')], "no answer")
        clock.now += 60
        keeper.keep(
            [], [output("m-2", b'{"id": 2, "who": "Grace"}', b"\xff", "mails")], "no answer"
        )
        keeper.keep_rejected([output("m-3", b'{"id": 3, "who": "Ada"}')], ["orders: too large"])
    return path


@pytest.fixture
def held(box: Path) -> Iterator[Path]:
    """The same while a publisher has the first on its way."""
    with closing(opened(box)) as keeper:
        keeper.claim(1)
        yield box


def ids(done) -> list[str]:
    return [one["id"] for one in json.loads(done.stdout)["messages"]]


def test_the_list_is_told_as_programs_may_read_it(command, box):
    done = command("outbox", "list", "shop:app", "--json")

    document = json.loads(done.stdout)
    assert document["schema"] == "kworker.outbox.list/1"
    assert document["messages"][0] == {
        "id": "1", "message_id": "m-1", "topic": "orders", "key": "k", "state": "waiting",
        "error": "no answer", "attempts": 0, "created_at": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    assert document["messages"][1]["key"] == {"base64": "/w=="}
    assert [one["state"] for one in document["messages"]] == ["waiting", "waiting", "rejected"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (("--topic", "mails"), ["2"]),
        (("--key", "k"), ["1", "3"]),
        (("--state", "rejected"), ["3"]),
        (("--since", "2026-01-01T00:00:30Z"), ["2", "3"]),
        (("--until", "2026-01-01T00:00:30Z"), ["1"]),
        (("--limit", "1"), ["1"]),
        (("--topic", "orders", "--state", "waiting"), ["1"]),
    ],
)
def test_filters_choose(command, box, filters, found):
    assert ids(command("outbox", "list", "--group", "shop", "--json", *filters)) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("ada",), ["1", "3"]),
        (("too", "large"), ["3"]),
        (("abc",), ["1", "2", "3"]),
        (('"id": 2',), ["2"]),
        (("mails",), ["2"]),
        (("nobody",), []),
        (("AND",), []),
    ],
)
def test_words_are_searched_in_value_key_headers_and_error(command, box, words, found):
    done = command("outbox", "search", "shop:app", *words, "--json")

    assert (done.returncode, ids(done)) == (0, found), done.stderr
    assert json.loads(done.stdout)["schema"] == "kworker.outbox.search/1"


def test_a_search_without_a_target_takes_one_word_and_filters(command, box):
    done = command("outbox", "search", "ada", "--db", str(box), "--state", "waiting", "--json")

    assert ids(done) == ["1"]


def test_one_message_is_shown_whole_by_its_number_or_its_message_id(command, box):
    by_number = command("outbox", "show", "shop:app", "2", "--json")
    by_id = command("outbox", "show", "--db", str(box), "m-2", "--json")

    message = json.loads(by_number.stdout)["message"]
    assert message["value"] == '{"id": 2, "who": "Grace"}'
    assert message["headers"] == [["trace", "abc"], ["kworker-message-id", "m"]]
    assert by_id.stdout == by_number.stdout


def test_one_that_is_not_there_is_a_slip_of_whoever_typed_it(command, box):
    done = command("outbox", "show", "shop:app", "17")

    assert done.returncode == 2
    assert "no message '17'" in done.stderr


def test_people_read_a_table(command, box):
    done = command("outbox", "list", "shop:app")

    assert done.stdout.splitlines()[0].split() == [
        "ID", "STATE", "TOPIC", "KEY", "ATTEMPTS", "CREATED", "AT", "ERROR",
    ]  # fmt: skip
    assert "too large" in done.stdout


def test_nothing_is_dropped_without_execute(command, box):
    told = command("outbox", "drop", "shop:app", "--state", "rejected")
    done = command("outbox", "drop", "shop:app", "--state", "rejected", "--execute")

    assert "1 message would be dropped, for good; add --execute" in told.stdout
    assert done.stdout == "dropped 1 message\n"
    assert ids(command("outbox", "list", "shop:app", "--json")) == ["1", "2"]


def test_what_is_on_its_way_is_left_alone(command, held):
    done = command("outbox", "drop", "shop:app", "--execute")

    assert done.stdout == "dropped 2 messages\n"
    assert "1 message left alone" in done.stderr


def test_ids_may_stand_where_the_target_would(command, box):
    done = command("outbox", "drop", "1", "3", "--db", str(box), "--execute")

    assert done.returncode == 0, done.stderr
    assert ids(command("outbox", "list", "shop:app", "--json")) == ["2"]


def test_a_retry_only_says_what_it_would_do(command, box):
    done = command("outbox", "retry", "shop:app")

    assert done.returncode == 0
    assert "3 messages would be sent; add --execute to do it" in done.stdout


def test_a_retry_without_kafka_leaves_all_where_it_is(command, box):
    done = command(
        "outbox", "retry", "shop:app", "--execute", "-b", "127.0.0.1:1", "--connect-timeout", "1s"
    )

    assert done.returncode == 4
    assert ids(command("outbox", "list", "shop:app", "--json")) == ["1", "2", "3"]


def test_ids_and_filters_together_are_refused(command, box):
    assert command("outbox", "drop", "shop:app", "1", "--topic", "orders").returncode == 2


def test_where_nothing_says_which_store_is_meant_it_is_asked_for(command, tmp_path):
    done = command("outbox", "list")

    assert done.returncode == 2
    assert "which store?" in done.stderr


# --- publishing, where no Kafka is -----------------------------------------------------------

NOBODY = ("-b", "127.0.0.1:1", "--publish-wait", "500ms")


def test_without_an_outbox_and_without_kafka_publishing_fails(command, tmp_path):
    done = command("publish", "orders", "{}", *NOBODY)

    assert done.returncode == 4
    assert not (tmp_path / ".kworker").exists()


@pytest.mark.parametrize(
    "whose", [("--group", "shop"), ("--db", ".kworker/shop.db"), ("--target", "shop:app")]
)
def test_with_an_outbox_a_message_is_kept(command, shop, whose):
    done = command("publish", "orders", '{"n": 1}', "-k", "k", "--json", *whose, *NOBODY)

    receipt = json.loads(done.stdout)
    assert (done.returncode, receipt["kept"], receipt["offset"]) == (0, True, None), done.stderr
    assert "kept in .kworker/shop.db" in done.stderr
    [kept] = json.loads(command("outbox", "list", "shop:app", "--json").stdout)["messages"]
    assert kept["message_id"] == receipt["message_id"]


def test_values_are_checked_as_the_handlers_of_the_target_take_them(command, shop):
    lines = '{"n": 1}\n[2]\n{"n": 3}\n'

    done = command(
        "publish", "orders", "-", "--ndjson", "--target", "shop:app", *NOBODY, stdin=lines
    )

    assert done.returncode == 1
    assert "message 2 is not what shop.charge takes" in done.stderr
    assert len(ids(command("outbox", "list", "shop:app", "--json"))) == 1


def test_a_topic_that_no_handler_of_the_target_takes_is_refused(command, shop):
    done = command("publish", "order", "{}", "--target", "shop:app", *NOBODY)

    assert done.returncode == 2
    assert "no handler of 'shop' takes the topic 'order'; did you mean 'orders'?" in done.stderr
