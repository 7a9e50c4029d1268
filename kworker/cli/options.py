"""What commands have in common: their options, and what is made of them.

    @commands.command()
    @options.with_app("create_topics")
    @options.as_json
    def command(given: options.Given, as_json: bool) -> None:
        app, configuration = given.load()

`with_app` and `with_settings` hand on one `Given` in place of a dozen parameters. Everything
heavy (the app, Kafka) is imported when it is asked for, so `--help` stays quick.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import devbroker, settings
from ..errors import UsageError
from . import output

if TYPE_CHECKING:
    from ..app import App

F = TypeVar("F", bound=Callable[..., Any])

CONNECTION = ("bootstrap_servers",)  # settings that every command takes as flags
LOGS = ("log_format",)


@dataclass(frozen=True, slots=True)
class Given:
    """What was typed: the target, settings, properties, and how much to say."""

    target: str | None
    factory: bool
    app_dir: str
    flags: dict[str, Any]  # settings that were typed, as typed
    properties: tuple[str, ...]  # key=value texts of -X
    verbosity: int  # -v counts up, -q down
    level: int  # of logging

    def load(self) -> tuple[App, settings.Configuration]:
        """The app and the settings that hold for it; logging is set up by them.

        Raises TargetError, HandlerError and SettingsError; UsageError without a target.
        """
        app = self.load_app()
        return app, self.configuration(app.settings)

    def load_app(self) -> App:
        """The app of TARGET. Raises TargetError and HandlerError."""
        from ..target import load

        if self.target is None:
            raise UsageError("TARGET is missing: say which app, as package.module:app")
        return load(
            self.target,
            factory=self.factory,
            app_dir=self.app_dir,
            group=self.flags.get("group"),
        )

    def configuration(
        self, code: settings.Settings | dict[str, Any] | None = None
    ) -> settings.Configuration:
        """The settings that hold here; `code` is what the app gives. Sets up logging.

        While `kworker dev` runs in this folder, its broker is taken unless `-b` or
        KWORKER_BOOTSTRAP_SERVERS says otherwise, and this is told. Raises SettingsError.
        """
        from ..observe import log

        flags = dict(self.flags)
        said = "bootstrap_servers" in flags or _SERVERS in os.environ
        if not said and (address := devbroker.find(Path.cwd())):
            output.note(f"using the broker of `kworker dev` at {address} (-b names another)")
            flags["bootstrap_servers"] = address
        configuration = settings.load(
            code or {},
            flags=flags,
            environ=os.environ,
            folder=Path.cwd(),
            properties=self.properties,
        )
        if "bootstrap_servers" in flags and not said:
            origins = {**configuration.origins, "bootstrap_servers": str(devbroker.FILE)}
            configuration = dataclasses.replace(configuration, origins=origins)
        log.configure(configuration.values["log_format"], self.level)
        if self.level == logging.WARNING:
            # What the client mutters on the way is in our error when there is one.
            logging.getLogger("kworker.librdkafka").setLevel(logging.ERROR)
        for warning in configuration.warnings:
            logging.getLogger("kworker").warning(warning)
        return configuration

    def arguments(self) -> list[str]:
        """What was typed, for a child process to be given."""
        arguments = [] if self.target is None else [self.target]
        arguments += ["--app-dir", self.app_dir]
        arguments += ["--factory"] * self.factory
        for name, value in self.flags.items():
            flag = settings.declared()[name].flag
            if isinstance(value, bool):
                arguments.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                arguments += [flag, value]
        for text in self.properties:
            arguments += ["-X", text]
        arguments += ["-v"] * self.verbosity + ["-q"] * -self.verbosity
        return arguments


_SERVERS = settings.declared()["bootstrap_servers"].variable


def with_app(*names: str, level: int = logging.WARNING, required: bool = True) -> Callable[[F], F]:
    """Options of a command about one app: TARGET, --factory, --app-dir, -b, -g, -X, -v, -q,
    --log-format, and a flag for each setting in `names`. The function gets `given`.

    `level` is what is logged without -v and -q; TARGET may be left out unless `required`.
    """

    def decorate(function: F) -> F:
        function = _collect("group", *names, level=level)(function)
        function = click.option(
            "--app-dir", default=".", metavar="PATH", help="Where modules are imported from."
        )(function)
        function = click.option(
            "--factory", is_flag=True, help="TARGET is a function that returns the app."
        )(function)
        metavar = "TARGET" if required else "[TARGET]"
        return click.argument("target", metavar=metavar, required=required)(function)

    return decorate


def with_settings(*names: str, level: int = logging.WARNING) -> Callable[[F], F]:
    """The same without an app: -b, -X, -v, -q, --log-format and the settings in `names`."""
    return _collect(*names, level=level)


def as_json(function: F) -> F:
    """--json, for commands that read; the function gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document.")(function)


def setting(name: str) -> Callable[[F], F]:
    """The flag of one setting. Its text is checked when the settings are loaded."""
    one = settings.declared()[name]
    text = one.about.help
    if one.default_text is not None and not one.switch:
        text += f"  [default: {one.default_text}]"
    if one.switch:
        return click.option(
            f"{one.flag}/--no-{one.flag.removeprefix('--')}", name, default=None, help=text
        )
    names = (one.about.short, one.flag) if one.about.short else (one.flag,)
    return click.option(
        *names, name, default=None, metavar=one.metavar, help=text, shell_complete=_choices(one)
    )


def _choices(one: settings.Declared) -> Callable[[Any, Any, str], list[str]]:
    """What a shell offers for a setting."""
    return lambda context, parameter, begun: [
        choice for choice in one.choices if choice.startswith(begun)
    ]


def _collect(*names: str, level: int) -> Callable[[F], F]:
    wanted = tuple(dict.fromkeys((*CONNECTION, *names, *LOGS)))

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def gathered(**options: Any) -> Any:
            flags = {name: options.pop(name) for name in wanted}
            verbosity = options.pop("verbose") - options.pop("quiet")
            output.verbosity(verbosity)
            given = Given(
                target=options.pop("target", None),
                factory=options.pop("factory", False),
                app_dir=options.pop("app_dir", "."),
                flags={name: value for name, value in flags.items() if value is not None},
                properties=options.pop("properties"),
                verbosity=verbosity,
                level=min(max(level - 10 * verbosity, logging.DEBUG), logging.CRITICAL),
            )
            return function(given=given, **options)

        command: Any = gathered
        command = click.option("-q", "--quiet", count=True, help="Say less; twice: errors only.")(
            command
        )
        command = click.option("-v", "--verbose", count=True, help="Say more.")(command)
        command = click.option(
            "-X",
            "properties",
            multiple=True,
            metavar="KEY=VALUE",
            help="A raw librdkafka property, as in -X security.protocol=SSL. Repeatable.",
        )(command)
        for name in reversed(wanted):
            command = setting(name)(command)
        return command  # type: ignore[no-any-return]

    return decorate
