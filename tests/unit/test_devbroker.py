from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from kworker import devbroker
from kworker.cli import options


@pytest.fixture
def address():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield "{}:{}".format(*server.getsockname())


def test_a_broker_that_was_left_is_found_until_it_is_removed(tmp_path, address):
    assert devbroker.find(tmp_path) is None

    devbroker.leave(tmp_path, address)
    assert devbroker.find(tmp_path) == address

    devbroker.remove(tmp_path)
    assert devbroker.find(tmp_path) is None


def test_the_file_is_for_its_owners_eyes_only(tmp_path, address):
    before = os.umask(0)
    try:
        devbroker.leave(tmp_path, address)
    finally:
        os.umask(before)

    assert (tmp_path / devbroker.FILE).stat().st_mode & 0o777 == 0o600


def test_a_broker_that_no_longer_answers_is_not_found(tmp_path, address):
    devbroker.leave(tmp_path, "127.0.0.1:1")

    assert devbroker.find(tmp_path) is None


def test_a_broker_whose_process_is_gone_is_not_found_and_not_ours_to_remove(tmp_path, address):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    devbroker.leave(tmp_path, address)
    path = tmp_path / devbroker.FILE
    path.write_text(json.dumps({"bootstrap_servers": address, "pid": gone.pid}))

    assert devbroker.find(tmp_path) is None
    devbroker.remove(tmp_path)
    assert path.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": 1}', '{"pid": "x"}', "\ufffd"])
def test_a_file_that_makes_no_sense_is_no_broker(tmp_path, content):
    (tmp_path / ".kworker").mkdir()
    (tmp_path / devbroker.FILE).write_text(content)

    assert devbroker.find(tmp_path) is None


@pytest.mark.parametrize(
    ("flags", "variable", "used"),
    [({}, None, True), ({"bootstrap_servers": "x:1"}, None, False), ({}, "x:1", False)],
)
def test_it_is_used_and_said_unless_another_is_named(
    tmp_path, address, monkeypatch, capsys, flags, variable, used
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KWORKER_BOOTSTRAP_SERVERS", raising=False)
    if variable:
        monkeypatch.setenv("KWORKER_BOOTSTRAP_SERVERS", variable)
    monkeypatch.setattr("kworker.observe.log.configure", lambda *_: None)
    (tmp_path / "kworker.toml").write_text('bootstrap_servers = "production:9092"\n')
    devbroker.leave(tmp_path, address)
    given = options.Given(None, False, ".", flags, (), 0, 30)

    configuration = given.configuration()

    assert configuration.values["bootstrap_servers"] == (address if used else "x:1")
    assert (address in capsys.readouterr().err) == used
