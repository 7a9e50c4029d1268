"""Finds and loads what `kworker run` is given: `package.module:attribute`, `package.module`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from . import handlers, source
from .app import App
from .errors import TargetError
from .names import did_you_mean


def load(
    target: str, *, factory: bool = False, app_dir: str = ".", group: str | None = None
) -> App:
    """The app a target names; `app_dir` becomes the first place that modules are looked for.

    `package.module:attribute` is an app, a function that makes one (with `factory`), or a
    module, which may be a submodule not imported yet. A module stands for its one app, or,
    where it has none, for an app of the `@handler` functions it defines, whose group is
    `group` or the module's whole dotted name. Raises TargetError, in one line.
    """
    _look_in(app_dir)
    name, colon, attribute = target.partition(":")
    if not name or (colon and not attribute):
        raise TargetError(f"{target!r} is no target; write package.module:app, as shop.orders:app")
    module = source.load(name)
    if not attribute:
        if factory:
            raise TargetError(f"--factory needs the function that makes the app: {name}:FUNCTION")
        return _of_module(module, group)
    found = _attribute(module, attribute)
    if factory:
        return _made(found, target)
    if isinstance(found, App):
        return found
    if isinstance(found, ModuleType):
        return _of_module(found, group)
    raise TargetError(f"{target} is {_what(found)}, not an App{_hint(found, name)}")


def _look_in(app_dir: str) -> None:
    folder = Path(app_dir).resolve()
    if not folder.is_dir():
        raise TargetError(f"there is no folder {app_dir!r} to look for the app in (--app-dir)")
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


def _attribute(module: ModuleType, attribute: str) -> Any:
    name = module.__name__
    try:
        return getattr(module, attribute)
    except AttributeError:
        pass
    if hasattr(module, "__path__") and attribute in source.modules_in(module):
        return source.load(f"{name}.{attribute}")
    apps = _apps(module)
    near = did_you_mean(attribute, [*apps, *vars(module)])
    if apps:
        near = f"; its App is {' or '.join(map(repr, apps))}: write {name}:{next(iter(apps))}"
    raise TargetError(f"module {name!r} has no attribute {attribute!r}{near}")


def _of_module(module: ModuleType, group: str | None) -> App:
    name = module.__name__
    apps = _apps(module)
    if len(apps) > 1:
        raise TargetError(
            f"module {name!r} has more than one App: {', '.join(apps)}; "
            f"say which, as {name}:{next(iter(apps))}"
        )
    if apps:
        return next(iter(apps.values()))
    if not handlers.defined_in(module):
        raise TargetError(
            f"module {name!r} has no App, and defines no function with @handler; "
            'declare one, as app = App("shop")'
        )
    return App(group or name, include=[name])


def _apps(module: ModuleType) -> dict[str, App]:
    """The apps a module holds, each under the first of its names."""
    found: dict[int, tuple[str, App]] = {}
    for name, value in vars(module).items():
        if isinstance(value, App):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _made(factory: Any, target: str) -> App:
    if isinstance(factory, App):
        raise TargetError(f"{target} is an App, not a function that makes one; drop --factory")
    if not callable(factory):
        raise TargetError(f"{target} is {_what(factory)}, not a function that makes an App")
    made = source.run(factory, f"{target} could not make an App")
    if isinstance(made, App):
        return made
    if inspect.iscoroutine(made):
        made.close()
        raise TargetError(f"{target} is an async def; --factory takes a def that returns an App")
    raise TargetError(f"{target} returned {_what(made)}, not an App")


def _what(value: Any) -> str:
    if value is None:
        return "None"
    if inspect.isfunction(value):
        return "a function"
    if isinstance(value, type):
        return "a class"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _hint(value: Any, module: str) -> str:
    if handlers.declarations(value):
        return f"; it is a handler: leave it out, as {module}"
    if inspect.isfunction(value):
        return "; if it returns one, add --factory"
    return ""
