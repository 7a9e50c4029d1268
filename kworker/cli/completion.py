"""`kworker completion SHELL`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click

from . import commands, output

VARIABLE = "_KWORKER_COMPLETE"  # which click looks at, under the name that the command has


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Write what lets a shell complete kworker's commands, options and choices.

    \b
    eval "$(kworker completion bash)"                    # in ~/.bashrc
    eval "$(kworker completion zsh)"                     # in ~/.zshrc
    kworker completion fish > ~/.config/fish/completions/kworker.fish
    """
    from click.shell_completion import get_completion_class

    from .main import group

    kind = get_completion_class(shell)
    assert kind is not None
    output.data(kind(group, {}, "kworker", VARIABLE).source().strip())
