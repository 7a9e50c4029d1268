"""From a duplicate that was skipped to a message that is handled again on demand."""

from __future__ import annotations

from typing import Any

APP = """
from kworker import App, Message

app = App({group!r})

@app.handler({source!r}, name="charge")
def charge(message: Message[bytes]) -> None:
    with open("handled", "a") as file:
        print(message.id, file=file)
"""


def test_a_message_is_handled_again_when_it_is_forgotten_and_the_group_moved_back(
    open_shop: Any,
) -> None:
    shop = open_shop
    (shop.folder / "shop.py").write_text(APP.format(group=shop.group, source=shop.source))
    for id in (b"one", b"two", b"two"):
        shop.send(headers=[("kworker-message-id", id)])

    def drain() -> list[str]:
        done = shop.run("run", "shop:app", "--drain")
        assert done.code == 0, done.err
        return (shop.folder / "handled").read_text().split()

    first = drain()
    [stats] = shop.run("dedup", "stats", "shop:app", "--json").document["handlers"]
    known = shop.run("dedup", "get", "shop:app", "two", "--json").document["known"]
    lag = shop.run("lag", "shop:app", "--json").document["total"]
    shop.run("offsets", "reset", "shop:app", "--to", "earliest", "--execute")
    ahead = shop.run("lag", "shop:app", "--json").document["total"]
    second = drain()
    shop.run("dedup", "forget", "shop:app", "two", "--execute")
    shop.run("offsets", "reset", "shop:app", "--to", "earliest", "--execute")
    third = drain()
    shop.run("offsets", "reset", "shop:app", "--to", "-3", "--again", "--execute")
    fourth = drain()

    assert first == ["one", "two"]
    assert (stats["handler"], stats["settled"], stats["skipped_duplicates"]) == ("charge", 2, 1)
    assert [(one["handler"], one["topic"], one["settled"]) for one in known] == [
        ("charge", shop.source, True)
    ]
    assert (lag, ahead) == (0, 3)
    assert second == first
    assert third == [*second, "two"]
    assert fourth == [*third, "one", "two"]
