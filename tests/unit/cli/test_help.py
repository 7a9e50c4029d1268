from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from kworker.cli.main import group


def every(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command there is."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every(found, (*path, name))


PATHS = list(every(group))


def asked(*words: str):
    return CliRunner().invoke(group, words, prog_name="kworker")


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_every_command_begins_with_examples_of_it(path):
    done = asked(*path, "--help")

    first, *examples = done.stdout.split("\n\n")[0].splitlines()
    assert done.exit_code == 0
    assert first == "Examples:"
    assert any(" ".join(["kworker", *path]) in one for one in examples)
    assert f"\n\nUsage: {chr(32).join(['kworker', *path])} " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rnu shop:app", "there is no command 'rnu'; did you mean 'run'?; see `kworker --help`"),
        ("dlq lsit shop:app", "there is no command 'lsit'; did you mean 'list'?; see `kworker dlq"),
        ("run", "missing argument 'TARGET'; see `kworker run --help`"),
        ("run shop:app --comit-every 1s", "there is no option --comit-every; did you mean '--comm"),
        ("tail orders -n none", "'none' is not a valid integer range; see `kworker tail --help`"),
        ("tail orders more", "extra argument"),
        ("dlq list shop:app --since yesterday", "'yesterday' is no time; write 2026-"),
        ("completion tcsh", "is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_what_is_typed_wrongly_is_one_line_and_2(words, said):
    done = asked(*shlex.split(words))

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("kworker: error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_kworker_alone_shows_its_help():
    done = asked()

    assert "Examples:" in done.output
    assert "Commands:" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell):
    done = asked("completion", shell)

    assert done.exit_code == 0, done.output
    assert "_KWORKER_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("kworker la", "lag"),
        ("kworker dlq re", "replay"),
        ("kworker run --create-topics ", "missing"),
        ("kworker run --comm", "--commit-every"),
    ],
)
def test_commands_options_and_choices_are_completed(typed, offered, command):
    words = shlex.split(typed)
    number = len(words) if typed.endswith(" ") else len(words) - 1

    done = command(_KWORKER_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(number))

    assert f"plain,{offered}" in done.stdout.splitlines(), done.stdout + done.stderr
