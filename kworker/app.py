"""App: what the user declares. It runs nothing; a worker is given one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from . import devbroker, handlers, observe, plugins, resources, settings, source
from .errors import HandlerError, SettingsError
from .handlers import Declaration, F, HandlerOptions, Register, defined_in
from .plugins import Plugin, Plugins
from .resources import Provider
from .retry import Retry
from .settings import Settings

if TYPE_CHECKING:
    from .publisher import Publisher


class App:
    """Handlers and settings under one name, which is the consumer group unless told otherwise.

    `retry` is for handlers that have none of their own; `include` names modules whose
    `@handler` functions belong to it; `plugins` are modules or instances that implement hooks,
    and those of installed packages join them. The settings are those of `kworker run`, which the
    operator may replace; a handler's own keywords stand. Raises SettingsError for one that
    is unknown or malformed, and for a plugin that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        retry: Retry | None = None,
        include: Iterable[str] = (),
        plugins: Iterable[object] = (),
        **settings_given: Unpack[Settings],
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise SettingsError(f'App({name!r}): an app needs a name, as App("shop")')
        if retry is not None and not isinstance(retry, Retry):
            raise SettingsError(f"App(retry={retry!r}): give a Retry, as Retry(attempts=3)")
        self.name = name
        self.retry = retry
        self.include = (include,) if isinstance(include, str) else tuple(include)
        self.settings: Settings = settings.check(settings_given)
        self.plugins: tuple[Plugin, ...] = _checked(plugins)
        self._declared: list[Declaration] = []
        self._provided: list[Declaration] = []

    @property
    def group(self) -> str:
        """The consumer group, as far as code says it."""
        return self.settings.get("group") or self.name

    @property
    def delivery(self) -> str:
        return self.settings.get("delivery", "at_least_once")

    @property
    def concurrency(self) -> int:
        """Handlers that run at once in a process, as far as code says it."""
        return self.settings.get("concurrency", 1)

    def handler(
        self, topic: str, *topics: str, **options: Unpack[HandlerOptions]
    ) -> Callable[[F], F]:
        """The same as the free-standing `handler`, for a function of this app alone."""
        return handlers.declare((topic, *topics), options, keep=self._declared.append)

    def provide(self, function: F) -> F:
        """Let a function make what handlers need, once in each process.

        A handler's parameter with the annotation that the function returns is given what it
        makes; a generator says `Iterator[Client]`, yields it, and goes on when the worker
        stops. It may be async, and take what others provide. Raises HandlerError for what is
        no function; all else is checked when a worker starts.
        """
        declaration = handlers.declared(function)
        self._provided.append(declaration)
        return function

    def providers(self) -> tuple[Provider, ...]:
        """What `provide` was said of, compiled, each after those that it needs. Raises
        HandlerError for what cannot work."""
        return resources.compile_providers(self._provided)

    def load_plugins(self, ours: Iterable[object] = ()) -> Plugins:
        """The app's plugins and the installed ones, made ready; `ours` come first.

        Raises SettingsError for one that cannot be imported or used, and says how to leave
        it out.
        """
        return Plugins([*plugins.named(ours, "kworker"), *self.plugins, *plugins.installed()])

    def register(self, plugins: Plugins | None = None) -> Register:
        """The app's handlers, compiled; imports what it includes.

        `plugins` are asked for codecs and values; the app's and the installed ones unless
        given. Raises TargetError for a module that cannot be imported, HandlerError for a
        handler that cannot work, and where there is none; SettingsError for a plugin.
        """
        plugins = self.load_plugins() if plugins is None else plugins
        included = [source.load(name) for name in dict.fromkeys(self.include)]
        # After the imports: an included module may use this app's own decorator.
        declared = [*self._declared, *(one for module in included for one in defined_in(module))]
        if not declared:
            raise HandlerError(
                f'app {self.name!r} has no handlers; declare one with @app.handler("topic"), '
                "or include the module that does"
            )
        provided = [provider.key for provider in self.providers()]
        return Register(
            handlers.compile_handler(one, self.retry, provided, plugins) for one in declared
        )

    def publisher(self) -> Publisher:
        """A publisher for the app's cluster, to be entered with `with` or `async with`.

        Its settings are the app's, and what environment and files say above them, as for
        `kworker run`; so is the store's file, whose outbox keeps what Kafka does not
        acknowledge in time. The app's plugins and the installed ones are told of that, and add
        their headers. Raises SettingsError.
        """
        # Here, because who only declares handlers needs no client library.
        from . import publisher

        found = settings.load(self.settings, flags={}, environ=os.environ, folder=Path.cwd())
        values = found.values
        group = values["group"] or self.name
        if group == settings.UNIQUE:
            group = self.name
        plugins = self.load_plugins(observe.own())
        return publisher.open(
            values["bootstrap_servers"],
            common=found.kafka,
            producer=found.kafka_producer,
            publish_wait=values["publish_wait"],
            client_id=f"kworker-{self.name}-publisher",
            outbox=publisher.Outbox(
                devbroker.outbox_of(group, values["db"], values["bootstrap_servers"]),
                group,
                values["outbox_size"],
                values["outbox_when_full"],
            ),
            on_permanent_failure=values["on_permanent_failure"],
            tell=plugins.tell,
            outgoing=plugins.outgoing,
        )

    def __repr__(self) -> str:
        return f"App({self.name!r})"


def _checked(given: Iterable[object]) -> tuple[Plugin, ...]:
    return Plugins(plugins.named(given, "app")).all
