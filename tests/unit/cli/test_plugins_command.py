"""`kworker plugins`, and the commands that plugins bring."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import click
from kworker import hookimpl

@hookimpl
def worker_beat(): ...

@click.command()
def command():
    "Say hello."
    click.echo("hello")

@click.command()
def fail():
    raise ValueError("on purpose")

@hookimpl
def register_commands(cli):
    cli.add_command(command, "hello")
    cli.add_command(fail, "fail")
    cli.add_command(command, "run")
"""

OWN = """
from kworker import App, hookimpl

class Slow:
    @hookimpl
    def message_settled(self, seconds): ...

app = App("shop", plugins=[Slow()])
@app.handler("orders")
def charge(order: dict) -> None: ...
"""


@pytest.fixture
def install(tmp_path: Path) -> Any:
    """Leaves a distribution in the folder where commands run, as pip would leave it."""

    def make(name: str, code: str) -> None:
        info = tmp_path / f"kworker_{name}-1.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Name: kworker-{name}\nVersion: 1.2\n")
        info.joinpath("entry_points.txt").write_text(f"[kworker]\n{name} = kworker_{name}\n")
        tmp_path.joinpath(f"kworker_{name}.py").write_text(code)

    return make


def test_plugins_are_listed_with_where_they_come_from_and_their_hooks(
    command, install, tmp_path
) -> None:
    install("ant", PLUGIN)
    (tmp_path / "shop.py").write_text(OWN)

    shown = command("plugins", "shop:app")
    document = json.loads(command("plugins", "shop:app", "--json").stdout)

    assert shown.returncode == 0, shown.stderr
    lines = [re.split(r"  +", line) for line in shown.stdout.splitlines()]
    assert lines[0] == ["NAME", "FROM", "HOOKS"]
    assert lines[1][:2] == ["kworker.observe.journal.Journal", "kworker"]
    assert lines[2:] == [
        ["shop.Slow", "app", "message_settled"],
        ["ant", "kworker-ant 1.2", "worker_beat register_commands"],
    ]
    assert document["schema"] == "kworker.plugins/1"
    assert document["plugins"][2] == {
        "name": "ant",
        "origin": "kworker-ant",
        "version": "1.2",
        "hooks": ["worker_beat", "register_commands"],
        "error": None,
    }


def test_without_a_target_there_are_ours_and_the_installed_ones(command) -> None:
    shown = command("plugins", "--json")

    assert [one["origin"] for one in json.loads(shown.stdout)["plugins"]] == ["kworker"]


def test_one_that_cannot_be_imported_is_told_in_one_line_and_hides_no_other(
    command, install, shop
) -> None:
    install("ant", "import nosuch")
    install("zebra", PLUGIN)

    listed = command("plugins")
    started = command("run", "shop:app", "-b", "localhost:1")
    left_out = command(
        "plugins", KWORKER_WITHOUT_PLUGINS=f"{os.environ['KWORKER_WITHOUT_PLUGINS']},ant"
    )

    told = (
        "kworker: error: plugin 'ant' of kworker-ant (kworker_ant) cannot be imported: "
        "ModuleNotFoundError: No module named 'nosuch' (kworker_ant.py:1); mend or uninstall it, "
        "or leave it out: KWORKER_WITHOUT_PLUGINS=ant\n"
    )
    assert (listed.returncode, listed.stderr) == (3, told)
    assert "zebra" in listed.stdout
    assert (started.returncode, started.stderr) == (3, told)
    assert left_out.returncode == 0
    assert left_out.stderr == ""


def test_a_plugin_brings_commands_but_takes_none_of_ours(command, install) -> None:
    install("ant", "import nosuch")
    install("bee", PLUGIN)

    helped = command("--help")
    hello = command("hello")
    ours = command("run", "--help")
    failed = command("fail")

    assert "Commands of plugins:\n" in helped.stdout
    assert re.search(r"^  hello  Say hello\.", helped.stdout, re.MULTILINE)
    assert (hello.returncode, hello.stdout) == (0, "hello\n")
    assert "kworker: plugin 'bee': there already is a command 'run'" in hello.stderr
    assert "plugin 'ant' of kworker-ant" in hello.stderr
    assert "hello" not in ours.stdout
    assert ours.stderr == ""
    assert failed.returncode == 1
    assert "kworker: error: fail, of plugin 'bee': ValueError('on purpose')" in failed.stderr
    assert "bug in kworker" not in failed.stderr
