from __future__ import annotations

import json
import subprocess
import sys

APP = """
from kworker import App
app = App("shop")

@app.handler("orders")
def charge(order: dict) -> None:
    if order.get("bad"):
        raise ValueError("bad")

@app.handler("mails")
def mail(order: dict) -> None: ...
"""


def test_what_init_writes_has_a_test_that_passes_and_an_app_that_can_run(command, env, tmp_path):
    made = command("init", "my shop")
    folder = tmp_path / "my shop"
    listed = command("handlers", "orders:app", "--app-dir", "my shop", "--json")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert made.returncode == 0, made.stderr
    assert {one.name for one in folder.iterdir()} >= {"orders.py", "test_orders.py", "kworker.toml"}
    assert 'App("my-shop")' in (folder / "orders.py").read_text()
    assert json.loads(listed.stdout)["handlers"][0]["name"] == "orders.charge"
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "kworker dev orders:app" in made.stderr


def test_init_replaces_nothing(command, tmp_path):
    (tmp_path / "orders.py").write_text("mine")

    done = command("init")

    assert done.returncode == 2
    assert "orders.py is there already" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["orders.py"]
    assert (tmp_path / "orders.py").read_text() == "mine"


def test_a_handler_is_measured_without_a_kafka(command, tmp_path):
    (tmp_path / "shop.py").write_text(APP)

    done = command("bench", "shop:app", "--handlers", "shop.charge", "-n", "50", "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kworker.bench/1"
    assert (document["handler"], document["messages"], document["failed"]) == ("shop.charge", 50, 0)
    assert document["messages_per_second"] > 0
    assert document["cpu_microseconds"] > 0
    assert [one.name for one in tmp_path.iterdir() if one.name == ".kworker"] == []


def test_a_handler_that_fails_is_no_measurement(command, tmp_path):
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "payloads").write_text('{"id": 1}\n{"bad": true}\n')

    done = command(
        "bench", "shop:app", "--handlers", "shop.charge", "-n", "20", "--file", "payloads"
    )

    assert done.returncode == 1
    assert "10 of 20 failed" in done.stderr


def test_of_several_handlers_one_has_to_be_named(command, tmp_path):
    (tmp_path / "shop.py").write_text(APP)

    done = command("bench", "shop:app")

    assert done.returncode == 2
    assert "which handler? Say it with --handlers: shop.charge, shop.mail" in done.stderr
