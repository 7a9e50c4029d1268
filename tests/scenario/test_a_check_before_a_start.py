"""`kworker check` on a real Kafka: what it finds, and that a worker then starts."""

from __future__ import annotations

from typing import Any


def levels(shop: Any, *arguments: str) -> tuple[int, dict[str, list[str]], str]:
    """Exit code, the levels of the findings by what was looked at, and all that was said."""
    answer = shop.run("check", "shop:app", *arguments, "--json")
    found: dict[str, list[str]] = {}
    for one in answer.document["findings"]:
        found.setdefault(one["check"], []).append(one["level"])
    return answer.code, found, answer.out


def test_a_group_without_its_topics_is_3_and_with_them_0(shop: Any) -> None:
    before, missing, said = levels(shop)
    with_creation, noted, _ = levels(shop, "--create-topics", "missing")
    shop.run("topics", "apply", "shop:app", "--execute")
    after, found, _ = levels(shop)

    assert before == 3
    assert missing["topics"] == ["error"] * 3
    assert f"{shop.group}.retry.1s" in said
    assert (with_creation, noted["topics"]) == (0, ["note"] * 3)
    assert (after, found["topics"]) == (0, ["ok"])
    assert found["kafka version"] == found["rights"] == found["clock"] == found["group"] == ["ok"]
    assert found["replication"] == ["warning"]  # a Kafka for tests has one node


def test_a_handler_added_to_a_group_that_has_run_is_told_where_it_starts(open_shop: Any) -> None:
    shop = open_shop
    shop.send()
    drained = shop.run("run", "shop:app", "--drain")
    with (shop.folder / "shop.py").open("a") as file:
        file.write(f"\n@app.handler({shop.source!r})\ndef mail(order: dict) -> None: ...\n")

    code, found, said = levels(shop)

    assert drained.code == 0, drained.err
    assert code == 0
    assert "note" in found["handlers"]
    assert "it starts at the group's committed offset" in said


def test_a_message_from_the_future_is_told_of(open_shop: Any) -> None:
    import time

    open_shop.send(timestamp=time.time() + 600)

    code, found, said = levels(open_shop)

    assert (code, found["clock"]) == (0, ["warning"])
    assert "ahead of this host's clock" in said
