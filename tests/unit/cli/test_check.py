from __future__ import annotations

import json

import pytest

from kworker.kafka import embedded
from kworker.stores import open_store

NOBODY = "127.0.0.1:1"
QUICKLY = ("--connect-timeout", "1s")


def found(done) -> dict[str, dict[str, object]]:
    document = json.loads(done.stdout)
    assert document["schema"] == "kworker.check/1"
    assert document["code"] == done.returncode
    for one in document["findings"]:
        assert set(one) == {"check", "level", "what", "why", "do", "code"}
    return {one["check"]: one for one in document["findings"]}


def test_without_kafka_everything_else_is_looked_at_and_it_ends_with_4(command, shop):
    done = command("check", "shop:app", "-b", NOBODY, *QUICKLY, "--json")

    told = found(done)
    assert done.returncode == 4
    assert told["app"]["level"] == told["handlers"]["level"] == "ok"
    assert told["kafka"]["level"] == "error"
    assert NOBODY in str(told["kafka"]["what"])
    assert {"sqlite", "disk", "file system", "open files"} <= told.keys()


@pytest.mark.parametrize(
    ("target", "check", "said"),
    [("nosuch:app", "app", "nosuch"), ("broken:app", "handlers", "broken.py:3")],
)
def test_an_app_that_cannot_run_is_3(command, tmp_path, target, check, said):
    (tmp_path / "broken.py").write_text(
        'from kworker import App\napp = App("broken")\n@app.handler("orders")\n'
        "def two(one: dict, other: dict) -> None: ...\n"
    )
    with embedded_broker() as servers:
        done = command("check", target, "-b", servers, "--json")

    told = found(done)
    assert done.returncode == 3
    assert told[check]["level"] == "error"
    assert said in str(told[check]["what"])


def embedded_broker():
    from contextlib import contextmanager

    @contextmanager
    def running():
        mock = embedded.start()
        try:
            yield mock.bootstrap_servers
        finally:
            mock.close()

    return running()


def test_a_setting_that_is_refused_is_3_and_named_with_its_line(command, shop, tmp_path):
    (tmp_path / "kworker.toml").write_text('commit_every = "soon"\n')

    done = command("check", "shop:app", "--json")

    assert done.returncode == 3
    assert "kworker.toml:1" in str(found(done)["settings"]["what"])


def test_another_groups_store_is_5(command, shop, tmp_path):
    open_store(tmp_path / "other.db", group="other", cluster="somewhere").close()

    with embedded_broker() as servers:
        done = command("check", "shop:app", "-b", servers, "--db", "other.db", "--json")

    told = found(done)
    assert done.returncode == 5
    assert "belongs to group 'other'" in str(told["store"]["what"])
    assert "--db" in str(told["store"]["do"])


def test_people_are_told_what_why_and_what_to_do(command, shop):
    done = command("check", "shop:app", "-b", NOBODY, *QUICKLY)

    lines = done.stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("error    kafka: ")]
    assert lines[at + 1].strip().startswith("why: ")
    assert lines[at + 2].strip().startswith("do:  ")
    assert done.stderr == ""


def test_nothing_is_left_behind(command, shop, tmp_path):
    with embedded_broker() as servers:
        command("check", "shop:app", "-b", servers)

    assert not (tmp_path / ".kworker").exists()
