"""Warns of handlers that take long. A plugin that comes with a package: see pyproject.toml.

    pip install ./examples/06_plugin
    kworker plugins                         lists it, with the hooks it implements

From then on every worker of this Python has it, and `kworker slow` is a command.
KWORKER_WITHOUT_PLUGINS=slow leaves it out.
"""

from __future__ import annotations

import logging
import os

import click

from kworker import Message, hookimpl
from kworker.facts import HandlerInfo

log = logging.getLogger("kworker.slow")


class SlowHandlers:
    """One line for each message whose handler ran longer than `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    @hookimpl
    def message_settled(self, message: Message, handler: HandlerInfo, seconds: float) -> None:
        if seconds > self.limit:
            log.warning("%s took %.1f s for %s", handler.name, seconds, message.id)

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        @cli.command("slow")
        def command() -> None:
            """Say from when on a handler is slow."""
            click.echo(f"a handler is slow above {self.limit:g} s (SLOW_SECONDS)")


plugin = SlowHandlers(float(os.environ.get("SLOW_SECONDS", "1")))
