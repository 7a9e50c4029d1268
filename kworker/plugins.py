"""Plugins: found, checked, listed; told, asked, and put around handlers' calls."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from . import hookspecs, source
from .errors import KworkerError, SettingsError
from .facts import HandlerInfo
from .message import AnyMessage, Headers
from .names import did_you_mean

if TYPE_CHECKING:
    import click

    from .stores.api import Store

log = logging.getLogger("kworker.plugins")

SLOW = 1.0  # seconds that an observer may take before it is told of
QUIET = 10.0  # seconds between two lines about the same observer

ENTRY_POINTS = "kworker"
LEFT_OUT = "KWORKER_WITHOUT_PLUGINS"
"""The variable that names installed plugins to be left out, separated by commas. A variable
and no setting: plugins bring commands, and those are found before any setting is read."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin and where it comes from. `fault`: why it cannot be used, in one line."""

    name: str
    instance: object
    origin: str  # "kworker", "app", or the distribution that brought it
    version: str | None = None
    fault: str | None = None

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks it implements, in the order of their page."""
        found = {one.hook for one in _implementations(self.instance)}
        return tuple(name for name in hookspecs.KINDS if name in found)


class Plugins:
    """Some plugins, ready: the first of them is told and asked first.

    Raises SettingsError for one that cannot be used.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.all: tuple[Plugin, ...] = tuple(distinct(plugins))
        faults = [fault for one in self.all if (fault := one.fault or _fault(one)) is not None]
        if faults:
            raise SettingsError("; ".join(faults))
        manager = pluggy.PluginManager("kworker")
        manager.add_hookspecs(hookspecs)
        # pluggy asks the last that was registered first.
        for one in reversed(self.all):
            manager.register(one.instance, one.name)
        self._hooks = {name: _calls(getattr(manager.hook, name)) for name in hookspecs.KINDS}
        self.tell = Tell(self._hooks)

    @property
    def started(self) -> Callable[[AnyMessage, HandlerInfo], None] | None:
        """Tells that a handler is about to be called; None where nobody listens."""
        if not self.tell.wants("message_started"):
            return None
        tell = self.tell
        return lambda message, handler: tell("message_started", message=message, handler=handler)

    @property
    def around(self) -> Callable[[AnyMessage, HandlerInfo], list[Any]] | None:
        """What stands around a call, outermost first; None where nothing ever does."""
        calls = self._hooks["around_handler"]
        if not calls:
            return None

        def managers(message: AnyMessage, handler: HandlerInfo) -> list[Any]:
            found = [one(message=message, handler=handler) for one in calls]
            return [manager for manager in found if manager is not None]

        return managers

    @property
    def outgoing(self) -> Callable[[str, str, Headers], Headers] | None:
        """The headers that plugins add to a message of that topic, id and headers; None where
        nobody ever does."""
        calls = self._hooks["outgoing_headers"]
        if not calls:
            return None

        def added(topic: str, id: str, headers: Headers) -> Headers:
            found: list[tuple[str, bytes | None]] = []
            for call in calls:
                try:
                    given = (*headers, *found)
                    found += call(topic=topic, id=id, headers=given) or ()
                except Exception:
                    if (times := call.to_tell()) is not None:
                        log.exception(
                            "plugin %r failed in %s%s; the message goes without its headers",
                            call.plugin, call.hook, times,
                        )  # fmt: skip
            return tuple(found)

        return added

    def metrics(self, workers: Mapping[int, bytes] | None) -> tuple[str, bytes] | None:
        """What a plugin says `/metrics` is; None where none does. Raises SettingsError."""
        for _, answer in self._answers("provide_metrics", workers=workers):
            page: tuple[str, bytes] = answer
            return page
        return None

    def codec(self, annotation: Any) -> Callable[[bytes, Headers], Any] | None:
        """What a plugin decodes payloads of that annotation with. Raises SettingsError."""
        found: Callable[[bytes, Headers], Any] | None
        found = self._function("provide_codec", annotation=annotation)
        return found

    def value(self, annotation: Any) -> Callable[[AnyMessage], Any] | None:
        """What a plugin fills parameters of that annotation with. Raises SettingsError."""
        found: Callable[[AnyMessage], Any] | None
        found = self._function("provide_value", annotation=annotation)
        return found

    def store(self, url: str, group: str, cluster: str) -> Store | None:
        """The store that a plugin has opened there. Raises SettingsError."""
        for _, answer in self._answers("provide_store", url=url, group=group, cluster=cluster):
            store: Store = answer
            return store
        return None

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands to that group. Raises SettingsError."""
        for call in self._hooks["register_commands"]:
            call.ask({"cli": cli})

    def _function(self, hook: str, **question: Any) -> Any:
        for name, answer in self._answers(hook, **question):
            if not callable(answer):
                raise SettingsError(
                    f"plugin {name!r} answered {hook} with {answer!r:.80}: give a function, or None"
                )
            return answer
        return None

    def _answers(self, hook: str, **question: Any) -> Iterator[tuple[str, Any]]:
        for call in self._hooks[hook]:
            answer = call.ask(question)
            if answer is not None:
                yield call.plugin, answer


class Tell:
    """`tell("message_settled", message=…, …)`: every observer of that hook is told.

    An observer that raises is logged, and the rest are still told. (A plain call of a pluggy
    hook would stop at the first that raises, and throw into the caller.) So is one that holds
    up its thread; neither more often than every few seconds, for it may be told of thousands
    of messages. Safe on any thread.
    """

    def __init__(self, hooks: Mapping[str, list[_Call]]) -> None:
        self._observers = {
            name: calls for name, calls in hooks.items() if hookspecs.KINDS[name] == "observer"
        }

    def wants(self, name: str) -> bool:
        """Whether anybody listens: for hooks that are told of every message."""
        return bool(self._observers[name])

    def __call__(self, name: str, /, **facts: Any) -> None:
        for observer in self._observers[name]:
            begun = time.monotonic()
            try:
                observer(**facts)
            except BaseException:  # a SystemExit would end the loop
                if (times := observer.to_tell()) is not None:
                    log.exception(
                        "plugin %r failed in %s%s; the others are told",
                        observer.plugin, name, times,
                    )  # fmt: skip
                continue
            took = time.monotonic() - begun
            if took > SLOW and (times := observer.to_tell()) is not None:
                log.warning(
                    "plugin %r took %.1f s in %s%s; it holds up the worker",
                    observer.plugin, took, name, times,
                )  # fmt: skip


class _Call:
    """One implementation of a hook: takes all of the hook's facts, hands on those it wants."""

    __slots__ = ("_told_at", "_untold", "function", "hook", "plugin", "wanted")

    def __init__(self, hook: str, implementation: pluggy.HookImpl) -> None:
        self.hook = hook
        self.plugin: str = implementation.plugin_name
        self.function: Callable[..., Any] = implementation.function
        self.wanted = implementation.argnames
        self._told_at: float | None = None
        self._untold = 0

    def __call__(self, **facts: Any) -> Any:
        return self.function(*[facts[one] for one in self.wanted])

    def to_tell(self) -> str | None:
        """None when a line about it would be one too many; else how many there were to tell
        since the last, in words."""
        now = time.monotonic()
        self._untold += 1
        if self._told_at is not None and now - self._told_at < QUIET:
            return None
        times, self._untold, self._told_at = self._untold, 0, now
        return "" if times == 1 else f" ({times} times since it was last told)"

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Its answer. Raises SettingsError, with the plugin's name, for whatever it raises."""
        try:
            return self(**question)
        except KworkerError as error:
            raise type(error)(f"plugin {self.plugin!r}: {error}") from error
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise SettingsError(f"plugin {self.plugin!r} failed in {self.hook}: {told}") from error


def _calls(hook: pluggy.HookCaller) -> list[_Call]:
    return [_Call(hook.name, one) for one in reversed(hook.get_hookimpls())]


# --- where they come from ------------------------------------------------------------------


def named(given: Iterable[object], origin: str) -> tuple[Plugin, ...]:
    """Plugins given in code, each with a name: that of the module, or of the class."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise SettingsError(f"plugins={given!r}: give a list of modules or instances")
    return tuple(Plugin(_name_of(one), one, origin) for one in given)


def installed() -> tuple[Plugin, ...]:
    """The plugins that installed distributions bring, by name, without those that are left
    out. One that cannot be imported or used says so in its `fault`, and hides no other."""
    left_out = {name.strip() for name in os.environ.get(LEFT_OUT, "").split(",")}
    entries = _entry_points(tuple(sys.path))
    return tuple(_loaded(entry) for entry in entries if entry.name not in left_out)


@functools.lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """Looking through everything that is installed takes a while; it is done once a path."""
    found = metadata.entry_points(group=ENTRY_POINTS)
    return tuple(sorted(found, key=lambda one: (one.name, one.value)))


def _loaded(entry: metadata.EntryPoint) -> Plugin:
    origin, version = "?", None
    if entry.dist is not None:
        origin, version = entry.dist.name, entry.dist.version
    plugin = Plugin(entry.name, None, origin, version)
    way_out = f"mend or uninstall it, or leave it out: {LEFT_OUT}={entry.name}"
    try:
        instance = source.run(
            entry.load, f"plugin {entry.name!r} of {origin} ({entry.value}) cannot be imported"
        )
    except KworkerError as error:
        return replace(plugin, fault=f"{error}; {way_out}")
    plugin = replace(plugin, instance=instance)
    fault = _fault(plugin)
    return plugin if fault is None else replace(plugin, fault=f"{fault}; {way_out}")


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    kind = plugin if isinstance(plugin, type) else type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"


def distinct(plugins: Iterable[Plugin]) -> Iterator[Plugin]:
    """Each thing once, each under a name of its own."""
    things: set[int] = set()
    names: set[str] = set()
    for one in plugins:
        if one.instance is not None and id(one.instance) in things:
            continue
        name, number = one.name, 1
        while name in names:
            number += 1
            name = f"{one.name}-{number}"
        things.add(id(one.instance))
        names.add(name)
        yield replace(one, name=name)


# --- checking ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Implementation:
    hook: str
    function: Callable[..., Any]
    options: Mapping[str, Any]


def _implementations(plugin: object) -> list[_Implementation]:
    manager = pluggy.PluginManager("kworker")
    found = []
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None:
            hook = options.get("specname") or name
            found.append(_Implementation(hook, getattr(plugin, name), options))
    return found


def _fault(plugin: Plugin) -> str | None:
    """Why a plugin cannot be used, in one line that begins with its name."""
    subject = f"plugin {plugin.name!r}"
    if plugin.origin not in ("app", "kworker"):
        subject += f" of {plugin.origin}"
    instance = plugin.instance
    if isinstance(instance, type):
        return f"{subject} is a class; give an instance of it, as {instance.__name__}()"
    try:
        implementations = _implementations(instance)
    except Exception as error:  # noqa: BLE001 - an attribute is the plugin's code
        return f"{subject} cannot be looked into: {type(error).__name__}: {error}"
    if not implementations:
        return f"{subject} implements no hook; mark its functions with @hookimpl"
    for one in implementations:
        reason = _refused(one)
        if reason is not None:
            return f"{subject} {reason}"
    return None


def _refused(one: _Implementation) -> str | None:
    if one.hook not in hookspecs.KINDS:
        if one.options.get("optionalhook"):
            return None
        near = did_you_mean(one.hook, hookspecs.KINDS)
        return f"implements {one.hook!r}, which is no hook of kworker{near}"
    if one.options.get("wrapper") or one.options.get("hookwrapper"):
        return f"has {one.hook} as a wrapper of hooks; around handlers there is around_handler"
    if inspect.iscoroutinefunction(one.function) or inspect.isasyncgenfunction(one.function):
        return f"has {one.hook} as async def; hooks are called, not awaited: use def"
    if inspect.isgeneratorfunction(one.function):
        return f"has {one.hook} as a generator, which nobody would run; mark it @contextmanager"
    known = list(inspect.signature(getattr(hookspecs, one.hook)).parameters)
    for name, parameter in inspect.signature(one.function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return f"takes *{name} in {one.hook}, which is given {', '.join(known)}; name them"
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            return f"takes {name!r} in {one.hook} by keyword only; drop the '*'"
        if name not in known:
            near = did_you_mean(name, known)
            return f"takes {name!r} in {one.hook}, which is given {', '.join(known)}{near}"
    return None


__all__ = [
    "ENTRY_POINTS",
    "LEFT_OUT",
    "Plugin",
    "Plugins",
    "Tell",
    "distinct",
    "installed",
    "named",
]
