"""Logs as facts with fields: short lines for people, one JSON object a line for programs.

Everything is logged under `kworker.*`; nothing is set up until a command calls `configure`,
so a program that only imports kworker keeps its own logging.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

ROOT = "kworker"


def configure(
    log_format: Literal["console", "json"] | None,
    level: int = logging.INFO,
    stream: TextIO | None = None,
) -> None:
    """Write what is logged under `kworker` from `level` up to `stream` (stderr).

    Without a format: console on a terminal, else json. Called again, it replaces what it
    set up before. What other libraries log is shown from WARNING up, unless the root logger
    has handlers of its own.
    """
    stream = sys.stderr if stream is None else stream
    if log_format is None:
        log_format = "console" if stream.isatty() else "json"
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter(stream))

    ours = logging.getLogger(ROOT)
    _replace(ours, handler)
    ours.setLevel(level)
    ours.propagate = False

    everyone = logging.getLogger()
    if all(isinstance(one, _Handler) for one in everyone.handlers):
        _replace(everyone, handler)


def mark(**fields: object) -> None:
    """Put these fields on every line from now on, for whoever writes to one stream with others.

    To be called after `configure`, which forgets it.
    """

    def add(record: logging.LogRecord) -> bool:
        vars(record).update(fields)
        return True

    for logger in (logging.getLogger(ROOT), logging.getLogger()):
        for handler in logger.handlers:
            if isinstance(handler, _Handler):
                handler.addFilter(add)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, every extra field, and error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[name if name not in line else f"{name}_"] = _json(value)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = self.formatException(record.exc_info)
        # Escaped to ASCII, so that a lone surrogate in a payload cannot break the stream.
        return json.dumps(line)


class ConsoleFormatter(logging.Formatter):
    """`12:34:56 WARNING retrying  handler=shop.charge attempt=2`, in colour on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._colours = _colourful(stream)

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{name}={_short(value)}" for name, value in _fields(record).items())
        level, message = f"{record.levelname:<7}", printable(record.getMessage())
        if self._colours:
            level = f"\x1b[{_COLOURS.get(record.levelno, '0')}m{level}\x1b[0m"
            fields = fields and f"\x1b[2m{fields}\x1b[0m"
        line = f"{clock} {level} {message}" + (f"  {fields}" if fields else "")
        if record.exc_info and record.exc_info[1] is not None:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"  {printable(one)}" for one in trace)])
        return line


def printable(text: str) -> str:
    """The text with everything escaped that could move a terminal's cursor or break a line."""
    return _CONTROL.sub(lambda found: _escape(found[0]), text)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that `configure` knows what it may replace."""


def _replace(logger: logging.Logger, handler: logging.Handler) -> None:
    for old in [one for one in logger.handlers if isinstance(one, _Handler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)


_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {
    logging.DEBUG: "2",
    logging.INFO: "36",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}
# C0 and C1 controls, line and paragraph separators, what turns the direction of writing
# (bidirectional overrides and isolates), lone surrogates.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


_LONGEST = 100  # characters of a field on the console; json has all of it


def _short(value: Any) -> str:
    shown = printable(_plain(value))
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST - 1]}…"
    return f'"{shown}"' if not shown or " " in shown else shown


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (list, tuple)):
        return ",".join(map(_plain, value))
    return _text(value)


_DEEPEST = 5  # levels of a field's value; what is deeper, or holds itself, becomes text


def _json(value: Any, level: int = 0) -> Any:
    """A field's value as JSON can say it: a log line is never lost for what it carries."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if level < _DEEPEST:
        if isinstance(value, Mapping):
            return {_text(name): _json(one, level + 1) for name, one in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_json(one, level + 1) for one in value]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _colourful(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
