"""The `kworker` command: finds the subcommand, and says in one line what went wrong."""

from __future__ import annotations

import errno
import functools
import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from ..errors import Bug, KworkerError
from . import commands, output

# A command is imported when it is called, not to be listed.
COMMANDS = {
    "run": "Run an app's handlers.",
    "dev": "Run an app on a broker of its own and reload it on change; needs no Kafka.",
    "publish": "Send messages to a topic.",
    "outbox": "List, search, show, retry and drop what could not be sent.",
    "tail": "Show the messages of a topic as they come.",
    "dlq": "List, show, group, replay, discard and export dead letters.",
    "init": "Write a small app that runs under `kworker dev`, with a test.",
    "check": "Look at everything that can be wrong before a start.",
    "lag": "Say how far an app's group is behind.",
    "offsets": "Show and move an app's group's positions.",
    "dedup": "Show and forget what this host remembers of handled messages.",
    "handlers": "List an app's handlers.",
    "config": "Show the settings that hold, and where each came from.",
    "topics": "Plan and create the topics that an app needs.",
    "plugins": "List the plugins and the hooks they implement.",
    "bench": "Measure a handler: messages a second, CPU a message.",
    "completion": "Let a shell complete commands and options.",
}


class Commands(commands.Group):
    """The group; each command is the `command` of the module of its name, or of a plugin."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *self._foreign]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return self._foreign.get(cmd_name, (None, ""))[0]
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def main(self, *arguments: Any, **more: Any) -> Any:
        """Parse and run; what was typed wrongly is one line, and 2."""
        try:
            code = super().main(*arguments, **{**more, "standalone_mode": False})
        except click.ClickException as error:
            commands.tell(error)
            code = error.exit_code
        except click.Abort:
            code = 1
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours is one line, everything else a bug of ours."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Bug as error:
            _report(error)
            ctx.exit(error.exit_code)
        except KworkerError as error:
            output.error(str(error))
            if output.verbose() and error.__cause__ is not None:
                click.echo("".join(_users_own(error.__cause__)), err=True, nl=False)
            ctx.exit(error.exit_code)
        except Exception as error:  # noqa: BLE001 - told in full, and the exit code says so
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                output.error("the disk is full: free some space, or write elsewhere")
            elif (called := ctx.invoked_subcommand) is not None and called not in COMMANDS:
                output.error(f"{called}, of plugin {self._foreign[called][1]!r}: {error!r}")
                traceback.print_exception(error)
            else:
                _report(error)
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        if self._foreign:
            with formatter.section("Commands of plugins"):
                told = [
                    (name, one.get_short_help_str()) for name, (one, _) in self._foreign.items()
                ]
                formatter.write_dl(told)

    @functools.cached_property
    def _foreign(self) -> dict[str, tuple[click.Command, str]]:
        """The commands that installed plugins add, each with the plugin's name. What is wrong
        with a plugin is told, and takes away nothing but its own commands."""
        found: dict[str, tuple[click.Command, str]] = {}
        for plugin, one in _commands_of_plugins():
            if one.name is None or one.name in COMMANDS or one.name in found:
                output.note(f"plugin {plugin!r}: there already is a command {one.name!r}")
            else:
                found[one.name] = one, plugin
        return found


def _commands_of_plugins() -> Iterator[tuple[str, click.Command]]:
    from .. import plugins

    for plugin in plugins.installed():
        cli = click.Group()
        try:
            plugins.Plugins([plugin]).add_commands(cli)
        except KworkerError as error:
            output.note(str(error))
        for name, command in cli.commands.items():
            command.name = name
            yield plugin.name, command


def _report(error: Exception) -> None:
    output.error(f"this is a bug in kworker, please report it with what follows: {error!r}")
    traceback.print_exception(error)


def _users_own(error: BaseException) -> list[str]:
    """The traceback as its reader needs it: without kworker's frames and the import system's."""
    told = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in told.stack
        if not frame.filename.startswith((ours, "<frozen importlib"))
        and Path(frame.filename).parent.name != "importlib"
    ]
    told.stack = traceback.StackSummary.from_list(frames)
    return list(told.format(chain=False))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"kworker {version('kworker-kafka')}")
        except PackageNotFoundError:
            click.echo("kworker (not installed: run from its sources)")
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def group() -> None:
    """Workers on Kafka that lose nothing and repeat nothing they remember.

    \b
    kworker dev shop.orders:app
    kworker run shop.orders:app -b localhost:9092 --concurrency 32
    kworker publish orders '{"id": 1, "amount": 9.5}'
    kworker dlq list shop.orders:app

    Every setting is a flag of `kworker run`, a variable KWORKER_…, a key of kworker.toml or
    of [tool.kworker] in pyproject.toml, and a keyword of App(…); the first of them holds.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code, or with that of the error that ended it."""
    group.main(args=None if arguments is None else list(arguments), prog_name="kworker")
    raise Bug("click came back instead of exiting")
