"""What every command of `kworker` is: its help begins with examples, a slip is one line.

    @commands.command()
    def command() -> None:
        \"\"\"Say what it does.

        \\b
        kworker example shop.orders:app
        \"\"\"

The paragraph of the docstring that begins with `\\b` holds the examples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click

from ..names import did_you_mean
from . import output

_EXAMPLES = "\b\n"


def command(name: str | None = None, **more: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command of its own, as `click.command` makes one."""
    return click.command(name, cls=Command, **more)


def group(name: str | None = None, **more: Any) -> Callable[[Callable[..., Any]], Group]:
    """A group of commands, as `click.group` makes one."""
    return click.group(name, cls=Group, **more)


class Command(click.Command):
    """A command whose help begins with its examples."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format(self, ctx, formatter)

    def get_short_help_str(self, limit: int = 100) -> str:
        return _first_sentence(self.help or "")


class Group(click.Group):
    """A group whose help begins with its examples; what is added to it is alike."""

    command_class = Command
    group_class = type

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format(self, ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"there is no command {args[0]!r}{near}", ctx)
        return super().resolve_command(ctx, args)


def tell(error: click.ClickException) -> None:
    """What was typed wrongly, as one line on stderr; where nothing was typed, the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and context is not None:
        known = [name for one in context.command.params for name in one.opts]
        words = f"there is no option {error.option_name}{did_you_mean(error.option_name, known)}"
    else:
        words = error.format_message().strip().rstrip(".")
        words = words[:1].lower() + words[1:]
    path = "kworker" if context is None else context.command_path
    output.error(f"{words}; see `{path} --help`")


def _format(one: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    examples, said = told_apart(one.help or "")
    _write(examples, formatter)
    one.format_usage(ctx, formatter)
    _say(said, formatter)
    one.format_options(ctx, formatter)
    one.format_epilog(ctx, formatter)


def told_apart(help: str) -> tuple[list[str], list[str]]:
    """The lines of the examples of a command's help, and its other paragraphs."""
    examples: list[str] = []
    said = []
    for paragraph in inspect.cleandoc(help).split("\n\n"):
        if paragraph.startswith(_EXAMPLES):
            examples += paragraph.removeprefix(_EXAMPLES).splitlines()
        elif paragraph.strip():
            said.append(paragraph)
    return examples, said


def _write(examples: list[str], formatter: click.HelpFormatter) -> None:
    if not examples:
        return
    formatter.write("Examples:\n")
    for one in examples:
        formatter.write(f"  {one.strip()}\n")
    formatter.write("\n")


def _say(paragraphs: list[str], formatter: click.HelpFormatter) -> None:
    for one in paragraphs:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(one)


def _first_sentence(help: str) -> str:
    """The first sentence of what a command says of itself."""
    _, said = told_apart(help)
    words = " ".join(said[0].split()) if said else ""
    return words.split(". ")[0].rstrip(".") + "." if words else ""
