"""What an error says, in the words that headers, logs and alerts use."""

from __future__ import annotations

import hashlib
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

STACK_LIMIT = 8192  # characters of a stack trace, its end kept


def words(error: BaseException) -> str:
    """What an error says; its `__str__` is the user's and may fail as well."""
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - see above
        return f"(its text cannot be read: {type(another).__name__})"


def type_name(error: BaseException) -> str:
    """The qualified name of an error's type, as Python's own tracebacks write it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else _dotted(kind)


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def stack_trace(error: BaseException) -> str:
    """An error's traceback from the handler inwards, without kworker's own frames."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    kept = [frame for frame in shown.stack if not frame.filename.startswith(_OURS)]
    if kept:
        shown.stack = traceback.StackSummary.from_list(kept)
    text = "".join(shown.format())
    return text if len(text) <= STACK_LIMIT else "…" + text[-STACK_LIMIT + 1 :]


def fingerprint(handler: str, error: BaseException) -> str:
    """One name for failures alike: handler, error type and the user's innermost frame.

    The frame counts by file and function, never by line; the error's message never counts.
    """
    frame = _innermost(error.__traceback__)
    return hashlib.sha256("\0".join((handler, _dotted(type(error)), *frame)).encode()).hexdigest()[
        :16
    ]


_OURS = str(Path(__file__).resolve().parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def _innermost(trace: TracebackType | None) -> tuple[str, str]:
    """File (its last two parts, so that hosts agree) and function of the user's last frame."""
    innermost = ("", "")
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith((_OURS, *_LIBRARIES, "<")):
            innermost = ("/".join(Path(code.co_filename).parts[-2:]), code.co_qualname)
        trace = trace.tb_next
    return innermost
