"""Plugins, and telling them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from . import hookspecs

log = logging.getLogger("kworker.plugins")


class Tell:
    """`tell("message_settled", message=…, …)`: every observer of that hook is told.

    An observer that raises is logged, and the rest are still told. (A plain call of a pluggy
    hook would stop at the first that raises, and throw into the caller.)
    """

    def __init__(self, plugins: Sequence[object]) -> None:
        manager = pluggy.PluginManager("kworker")
        manager.add_hookspecs(hookspecs)
        for plugin in plugins:
            manager.register(plugin)
        manager.check_pending()
        self._observers: dict[str, list[tuple[Callable[..., Any], tuple[str, ...]]]] = {
            name: [(one.function, one.argnames) for one in hook.get_hookimpls()]
            for name, hook in vars(manager.hook).items()
            if isinstance(hook, pluggy.HookCaller)
        }

    def wants(self, name: str) -> bool:
        """Whether anybody listens: for hooks that are told of every message."""
        return bool(self._observers[name])

    def __call__(self, name: str, /, **facts: Any) -> None:
        for function, wanted in self._observers[name]:
            try:
                function(*[facts[one] for one in wanted])
            except Exception:
                log.exception("a plugin failed in %s; the others were told", name)
