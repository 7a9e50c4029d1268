"""The user's source: importing it, and where in it a thing stands, for errors."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar

from .errors import KworkerError, TargetError
from .names import did_you_mean

T = TypeVar("T")

LONGEST_REASON = 300


def load(name: str) -> ModuleType:
    """The module of that dotted name, imported.

    Raises TargetError, in one line: which part of the name was not found, or what the module
    raised and where. The exception itself is its cause.
    """
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is not a module's name{_as_path(name)}")
    return run(lambda: importlib.import_module(name), f"module {name!r} cannot be imported", name)


def run(work: Callable[[], T], failing: str, module: str | None = None) -> T:
    """What the user's code in `work` gives, its exceptions as one line that begins with
    `failing`. What kworker says on purpose passes, with the place that it is about."""
    try:
        return work()
    except KworkerError as error:
        place = where_raised(error)
        if place is None or place in str(error):
            raise
        raise type(error)(f"{place}: {error}") from error
    except ModuleNotFoundError as error:
        if module is not None and error.name and f"{module}.".startswith(f"{error.name}."):
            raise TargetError(_not_found(module, error.name)) from error
        way_out = "" if module is None else "; install what is missing, or correct its name"
        raise TargetError(f"{failing}: {_told(error)}{way_out}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"{failing}: {_told(error)}") from error


def modules_in(package: ModuleType) -> list[str]:
    """The names of the modules right below a package."""
    return [found.name for found in pkgutil.iter_modules(package.__path__)]


def innermost(function: Callable[..., Any]) -> FunctionType:
    """The function behind what decorates it (with functools.wraps)."""
    inner = inspect.unwrap(function)
    found = inner if inspect.isfunction(inner) else function
    assert isinstance(found, FunctionType)
    return found


def where_defined(function: Callable[..., Any]) -> str:
    """`file:line` of a function, behind what decorates it."""
    code = innermost(function).__code__
    return f"{_short(code.co_filename)}:{code.co_firstlineno}"


def where_raised(error: BaseException) -> str | None:
    """`file:line` of the innermost frame of the user's that an exception came through; None
    where it came through none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno or 1}"
    found: str | None = None
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if _users(file):
            found = f"{_short(file)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _told(error: BaseException) -> str:
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    line = " ".join(what.split())
    if len(line) > LONGEST_REASON:
        line = f"{line[:LONGEST_REASON]}…"
    place = where_raised(error)
    return ": ".join(filter(None, [type(error).__name__, line])) + (f" ({place})" if place else "")


def _not_found(module: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    if not parent:
        folder = Path(sys.path[0] if sys.path else "").resolve()
        near = did_you_mean(last, _modules_below(folder))
        near = near or f" in {folder}, nor among the installed packages"
        return f"there is no module {missing!r}{near}"
    package = sys.modules.get(parent)
    if package is None or not hasattr(package, "__path__"):
        return f"there is no module {module!r}: {parent!r} is a module, not a package"
    siblings = [f"{parent}.{name}" for name in modules_in(package)]
    return f"there is no module {missing!r}{did_you_mean(missing, siblings)}"


def _modules_below(folder: Path) -> list[str]:
    return [found.name for found in pkgutil.iter_modules([str(folder)])]


def _as_path(name: str) -> str:
    if not name.endswith(".py") and "/" not in name:
        return "; write it as package.module:attribute"
    dotted = ".".join(part for part in name.removesuffix(".py").split("/") if part not in ("", "."))
    return f"; did you mean {dotted!r}?"


@functools.cache
def _foreign() -> tuple[str, ...]:
    """Folders whose files are not the user's: ours, Python's, and installed packages."""
    ours = Path(__file__).resolve().parent
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(f"{path}{os.sep}" for path in {str(ours), *filter(None, paths)})


def _users(file: str) -> bool:
    return not file.startswith("<") and not file.startswith(_foreign())


def _short(file: str) -> str:
    """The path from here, where the file lies below."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
