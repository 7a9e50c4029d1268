"""Plain JSON: what Python's own types hold, as text in UTF-8."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..errors import Undecodable
from .api import Read

# What comes as any JSON value, whatever it is.
ANYTHING = (Any, object)

EMPTY = "the value is empty, which is not JSON"


def reader(annotation: Any) -> Read | None:
    if annotation in ANYTHING:
        return quickly(Any, read)
    if annotation in (dict, list):
        return quickly(annotation, _reader_of(annotation))
    return None


def quickly(kind: Any, read: Read) -> Read:
    """The same by msgspec where that is installed: in an eighth of the time.

    What msgspec refuses is read once more, which takes somewhat more (NaN, lone surrogates) and
    says what is wrong in the same words with and without it.
    """
    try:
        from msgspec.json import Decoder
    except ImportError:
        return read
    decode = Decoder(kind).decode

    def read_quickly(raw: bytes) -> Any:
        try:
            return decode(raw)
        except Exception:  # noqa: BLE001 - whatever it is, the other way decides
            return read(raw)

    return read_quickly


def write(value: Any) -> bytes | None:
    if not isinstance(value, (dict, list, tuple, int, float)):
        return None
    return dump(value)


def read(raw: bytes) -> Any:
    """Any JSON value. Raises Undecodable, which tells the place and nothing of the content."""
    text = as_text(raw)
    if not text:
        raise Undecodable(EMPTY)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # From None, here and below: these errors hold the payload, and tracebacks show them.
        raise Undecodable(f"the value is not JSON: {error}") from None
    except RecursionError:
        raise Undecodable("the value is JSON nested too deeply") from None
    except ValueError:
        # Python refuses whole numbers of thousands of digits: reading them takes too long.
        raise Undecodable("the value is JSON with a number too long to read") from None


def dump(value: Any) -> bytes:
    """The value as compact JSON. Raises ValueError for NaN, infinities, circles and text that
    is not Unicode, TypeError for what has no form in JSON."""
    try:
        text = json.dumps(
            value, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("text with lone surrogates cannot be sent: it is not Unicode") from None
    except RecursionError:
        raise ValueError("the value is nested too deeply for JSON") from None


def as_text(raw: bytes) -> str:
    """Text from UTF-8. Raises Undecodable."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(f"the value is not UTF-8 text (at byte {error.start})") from None


def _reader_of(kind: type) -> Read:
    name = "an object" if kind is dict else "an array"

    def read_kind(raw: bytes) -> Any:
        value = read(raw)
        if not isinstance(value, kind):
            raise Undecodable(f"the value is JSON, but not {name}, which {kind.__name__} needs")
        return value

    return read_kind


def _plain(value: Any) -> Any:
    """What stands in JSON for a value inside another: a model, a dataclass, a time, a UUID."""
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        # Constants: NaN stays what it is here, so that it is refused and never becomes null.
        return to_jsonable_python(value, by_alias=True, inf_nan_mode="constants", fallback=_struct)
    except (PydanticSerializationError, RecursionError):
        raise _formless(value) from None


def _struct(value: Any) -> Any:
    """What pydantic does not know: msgspec's structs."""
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    raise _formless(value)


def _formless(value: Any) -> TypeError:
    return TypeError(
        f"a {type(value).__qualname__} has no form in JSON; "
        "give a pydantic model, a dataclass or plain values"
    )
