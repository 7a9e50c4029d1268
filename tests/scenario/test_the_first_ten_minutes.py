"""A new user in an empty folder, with the README and `docs/learn/first-worker.md` alone: from the
first file to a message that was broken, repaired and replayed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

from .test_examples import KWORKER, ROOT, dev, environ

__all__ = ["environ"]

LEARN = (ROOT / "docs" / "learn" / "first-worker.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", LEARN, re.MULTILINE | re.DOTALL)


def typed(line: str) -> list[str]:
    """A command of the page, as this checkout runs it."""
    words = shlex.split(line)
    assert words[0] == "kworker"
    return [*KWORKER, *words[1:]]


def test_from_an_empty_folder_to_a_repaired_and_replayed_message(tmp_path: Path, environ) -> None:
    (code,) = snippets("python")
    start, send, send_bad, look, repair = (one.splitlines() for one in snippets("sh"))
    module = tmp_path / "shop" / "orders.py"
    module.parent.mkdir()
    module.write_text(code)
    assert code.startswith("# shop/orders.py")
    assert start == ["kworker dev shop.orders:app"]

    with dev(tmp_path, environ, "shop.orders:app") as running:
        running.command(*typed(send[0]))
        running.wait(lambda text: "charging order 1: 9.50" in text)
        for line in send_bad:
            running.command(*typed(line))
        running.wait(lambda text: text.count("dead-lettered") == 2)
        listed = json.loads(running.command(*typed(look[0]), "--json"))["messages"]
        mended = code.replace("if order.amount < 0", "if False")
        module.write_text(mended)
        running.wait(lambda text: text.count("worker started") == 2)
        would = running.command(*typed(repair[0]))
        did = running.command(*typed(repair[1]))
        running.wait(lambda text: "charging order 2: -1.00" in text)
        running.wait(lambda text: text.count("dead-lettered") == 3)
        left = json.loads(running.command(*typed(look[0]), "--json"))["messages"]

    assert sorted(one["disposition"] for one in listed) == ["retries_exhausted", "undecodable"]
    assert mended != code
    assert "2 dead letters would be replayed to shop.replay" in would
    assert "replayed 2 of 2 dead letters" in did
    assert [(one["disposition"], one["replays"]) for one in left] == [("undecodable", 1)]


def test_the_help_of_kworker_comes_in_less_than_a_third_of_a_second() -> None:
    import resource
    import subprocess

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    costs = []
    for _ in range(3):
        before = cpu()
        subprocess.run([sys.executable, "-m", "kworker", "--help"], stdout=-3, check=True)
        costs.append(cpu() - before)

    assert min(costs) < 0.3
