"""msgspec's structs, where msgspec is installed. Never imports it: who has a struct has it."""

from __future__ import annotations

import re
import sys
from typing import Any, get_args

from ..errors import Undecodable
from . import json
from .api import Read

# The texts of msgspec that say what was expected and quote nothing of the value.
_SAFE = re.compile(r"(Expected `|Object missing required field `)")


def reader(annotation: Any) -> Read | None:
    """What reads a struct, or anything made of structs, out of JSON."""
    msgspec = sys.modules.get("msgspec")
    if msgspec is None or not _holds_struct(annotation, msgspec.Struct):
        return None
    try:
        decode = msgspec.json.Decoder(annotation).decode
    except (TypeError, NameError, RecursionError) as error:
        raise TypeError(str(error).partition("\n")[0]) from error

    def read(raw: bytes) -> Any:
        if not raw:
            raise Undecodable(json.EMPTY)
        try:
            return decode(raw)
        except msgspec.ValidationError as error:
            # From None, here and below: the error may quote the payload.
            raise Undecodable(f"the value does not fit: {_fault(str(error))}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
            raise Undecodable(f"the value is not JSON: {why}") from None
        except RecursionError:
            raise Undecodable("the value is JSON nested too deeply") from None
        except Exception as error:  # noqa: BLE001 - __post_init__ is the user's and raises anything
            raise Undecodable(
                f"the value cannot be read: its validation raised {type(error).__qualname__}"
            ) from None

    return read


def write(value: Any) -> bytes | None:
    msgspec = sys.modules.get("msgspec")
    if msgspec is None or not isinstance(value, msgspec.Struct):
        return None
    raw: bytes = msgspec.json.encode(value)
    if b"null" in raw:
        # msgspec may have made null of NaN; the slower way refuses it.
        return json.dump(msgspec.to_builtins(value))
    return raw


def _fault(text: str) -> str:
    what, _, path = text.rpartition(" - at `")
    if not what:
        what, path = path, ""
    what = what if _SAFE.match(what) else "invalid value"
    return f"{what} at {path.rstrip('`')}" if path else what


def _holds_struct(annotation: Any, struct: type) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, struct):
        return True
    return any(_holds_struct(part, struct) for part in get_args(annotation))
