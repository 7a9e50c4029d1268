"""The FastAPI example: a request that survives a broker that is not there."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from kworker.stores.tools import Choice, View

from ..faults.harness import ROOT, Process, until
from .stage import Stage

FOLDER = ROOT / "examples" / "07_fastapi"


def free_port() -> int:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def serve(stage: Stage, port: int, bootstrap: str) -> Process:
    settings = {
        "KWORKER_BOOTSTRAP_SERVERS": bootstrap,
        "KWORKER_DB": str(stage.db),
        "KWORKER_PUBLISH_WAIT": "300ms",
    }
    process = Process(
        [sys.executable, "-m", "uvicorn", "shop:site", "--app-dir", str(FOLDER), "--port",
         str(port), "--no-access-log"],
        stage.environ(settings), stage.folder, stage.folder / f"site-{len(stage.processes)}.log",
    )  # fmt: skip
    stage.processes.append(process)
    process.wait_for("Application startup complete", 60)
    return process


def place(port: int, order: int) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/orders",
        json.dumps({"id": order}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 202
        told: dict[str, Any] = json.load(answer)
        return told


def waiting(path: Path) -> int:
    with closing(View(path)) as view:
        return len(view.unsent(Choice()))


def test_an_order_is_taken_while_no_broker_is_there_and_charged_once_when_it_is(
    kafka: Any, tmp_path: Path
) -> None:
    stage = Stage(kafka.bootstrap_servers, "shop", tmp_path)
    try:
        port = free_port()
        site = serve(stage, port, f"127.0.0.1:{free_port()}")
        meanwhile = place(port, 1)
        site.kill()
        if "orders" not in stage.topics():
            stage.create_topic("orders")
        site = serve(stage, port, stage.bootstrap)
        until(lambda: not waiting(stage.db), 30, "the kept order is sent")
        directly = place(port, 2)

        def charged() -> str:
            stage.apps = FOLDER
            return stage.run("shop:app", "--drain").out

        out = charged()
        again = charged()
    finally:
        stage.admin().delete_topics(["orders"])
        stage.close()

    assert meanwhile["kept"] is True
    assert directly["kept"] is False
    assert sorted(out.splitlines()) == ["charged order 1", "charged order 2"]
    assert again == ""
