"""The door of the codecs: a decoder for an annotation, the bytes of a value.

What an annotation means: `bytes` and `str` are the value itself, everything else is JSON.
Only an annotation that admits None takes a tombstone: `Order | None`, `None`, `Any` or
`object`; no annotation does not. In a union `bytes` and `str` come last: what its other
members cannot read is text where it is UTF-8, else bytes.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from ..errors import Undecodable
from ..headers import PREFIX
from ..message import Headers
from ..outcome import Outage
from . import json, msgspec, pydantic
from .api import Codec, Decoder, Read
from .pydantic import named

__all__ = [
    "Decoder",
    "Foreign",
    "HeadersGiven",
    "check_headers",
    "decoder",
    "decoder_of",
    "encode",
    "encode_key",
    "named",
    "to_headers",
]

UNSAID = inspect.Parameter.empty

# Who is asked first: pydantic takes everything that is left, or says why not.
_READERS: tuple[Codec, ...] = (json, msgspec, pydantic)
_WRITERS: tuple[Codec, ...] = (pydantic, msgspec, json)


Foreign = Callable[[bytes, Headers], Any]
"""What somebody else brought to decode an annotation with; may raise anything."""


def decoder(
    annotation: Any = UNSAID, provide: Callable[[Any], Foreign | None] | None = None
) -> Decoder:
    """What decodes messages for that annotation; made once, called for each message.

    `provide` is asked first, for what the annotation admits besides None; where it has
    nothing to offer, our own codecs decide. Raises TypeError, with the reason, for an
    annotation that cannot be decoded.
    """
    plain = _plain(annotation)
    admits_none, name = _admits_none(plain), named(annotation)
    foreign = _foreign(plain, provide) if provide is not None else None
    if foreign is not None:
        return _decoded_by(foreign, name, admits_none)
    read = _reader(plain)

    def decode(raw: bytes | None, headers: Headers) -> Any:
        return None if raw is None else read(raw)

    def decode_value(raw: bytes | None, headers: Headers) -> Any:
        if raw is None:
            raise Undecodable(
                _tombstone(name)
                if annotation is not UNSAID
                else "the message is a tombstone, and no annotation admits None"
            )
        return read(raw)

    return decode if admits_none else decode_value


def decoder_of(foreign: Foreign, annotation: Any = UNSAID) -> Decoder:
    """The same with a codec that was chosen for it: the annotation only says whether it admits
    a tombstone."""
    name = "value" if annotation is UNSAID else named(annotation)
    return _decoded_by(foreign, name, _admits_none(_plain(annotation)))


def _admits_none(plain: Any) -> bool:
    return any(_plain(one) in (None, type(None), Any, object) for one in _members(plain))


def _tombstone(name: str) -> str:
    return f"the message is a tombstone, but {name} does not admit None"


def _foreign(annotation: Any, provide: Callable[[Any], Foreign | None]) -> Foreign | None:
    """What is provided for the annotation, leaving out the None that it admits."""
    if annotation is UNSAID:
        return None
    wanted = [one for one in _members(annotation) if _plain(one) not in (None, type(None))]
    return provide(_union(wanted)) if wanted else None


def _decoded_by(foreign: Foreign, name: str, admits_none: bool) -> Decoder:
    """A decoder that keeps the promise of all, whatever the foreign one raises."""

    def decode(raw: bytes | None, headers: Headers) -> Any:
        if raw is None:
            if not admits_none:
                raise Undecodable(_tombstone(name))
            return None
        try:
            return foreign(raw, headers)
        except (Undecodable, Outage):
            raise
        except Exception as error:
            # Its text may hold the payload.
            raise Undecodable(f"no {name}: its codec raised {type(error).__name__}") from error

    return decode


def encode(value: Any) -> bytes | None:
    """A value's bytes: None is a tombstone, bytes and text are themselves, all else is JSON.

    Raises TypeError for what has no bytes, ValueError for what JSON cannot say (NaN).
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _utf8(value, "the value")
    for codec in _WRITERS:
        raw = codec.write(value)
        if raw is not None:
            return raw
    raise TypeError(
        f"a {type(value).__qualname__} cannot be sent: give bytes, text, a pydantic model, "
        "a dataclass, or dict, list and numbers for JSON"
    )


def encode_key(key: str | bytes | None) -> bytes | None:
    """A key's bytes: text as UTF-8. An empty key is a key; None is none.

    Raises TypeError for anything else, as a key that Kafka's other clients would write
    in another way would land on another partition.
    """
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return _utf8(key, "the key")
    raise TypeError(f"a key is text, bytes or None, not {type(key).__qualname__}: write str(key)")


HeadersGiven = Mapping[str, str | bytes | None] | Iterable[tuple[str, str | bytes | None]] | None


def check_headers(headers: HeadersGiven) -> Headers:
    """Headers as they are sent: in order, text as UTF-8, a name as often as it was given.

    Raises ValueError for a name that Kafka or kworker keeps from users, TypeError for what
    is no header.
    """
    checked = to_headers(headers)
    for name, _ in checked:
        if name.startswith(PREFIX):
            raise ValueError(f"header {name!r}: names with {PREFIX!r} are kworker's own; rename it")
    return checked


def to_headers(headers: HeadersGiven) -> Headers:
    """The same without minding whose names they are."""
    if headers is None:
        return ()
    if isinstance(headers, (str, bytes)):
        raise TypeError('headers are a mapping or a list of pairs, as {"trace": "abc"}')
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple(_header(pair) for pair in pairs)


def _header(pair: Any) -> tuple[str, bytes | None]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError("a header is a pair of name and value")
    name, value = pair
    if not isinstance(name, str):
        raise TypeError(f"a header's name is text, not {type(name).__qualname__}")
    if "\0" in name:
        # The client library would cut the name there.
        raise ValueError(f"header {name!r}: a name cannot hold NUL")
    _utf8(name, "a header's name")
    if isinstance(value, str):
        value = _utf8(value, f"header {name!r}")
    if value is not None and not isinstance(value, bytes):
        raise TypeError(
            f"header {name!r}: its value is text, bytes or None, not {type(value).__qualname__}"
        )
    return name, value


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds lone surrogates, which are not Unicode text") from None


def _reader(annotation: Any) -> Read:
    if annotation is UNSAID:
        return json.quickly(Any, json.read)
    members = [_plain(member) for member in _members(annotation)]
    textual = [member for member in members if _base(member) in (str, bytes)]
    others = [member for member in members if member not in textual]
    ways = []
    if any(member not in (None, type(None)) for member in others) or not textual:
        ways.append(_structured(annotation if not textual else _union(others)))
    ways += [_text(member) for member in sorted(textual, key=lambda one: _base(one) is bytes)]
    return ways[0] if len(ways) == 1 else _first_of(ways)


def _structured(annotation: Any) -> Read:
    for codec in _READERS:
        read = codec.reader(annotation)
        if read is not None:
            return read
    raise TypeError(f"{named(annotation)} cannot be decoded")


def _text(annotation: Any) -> Read:
    if annotation is bytes:
        return _as_it_is
    if annotation is str:
        return json.as_text
    if _base(annotation) is bytes:
        raise TypeError("bytes come as they are: take bytes without constraints")
    return pydantic.text_reader(annotation)


def _as_it_is(raw: bytes) -> bytes:
    return raw


def _first_of(ways: list[Read]) -> Read:
    """The first way that works; what none can read is told by the first, the most telling."""

    def read(raw: bytes) -> Any:
        first: Undecodable | None = None
        for way in ways:
            try:
                return way(raw)
            except Undecodable as error:
                first = first or error
        assert first is not None
        raise first

    return read


def _plain(annotation: Any) -> Any:
    """The annotation behind the names given to it (`type X = …`, NewType)."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType" and not get_args(annotation):
            annotation = annotation.__value__
        else:
            return annotation


def _base(annotation: Any) -> Any:
    """What `Annotated` annotates."""
    annotation = _plain(annotation)
    return _base(annotation.__origin__) if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    """What a union offers, those of unions within it too; else the annotation alone."""
    annotation = _plain(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(one for part in get_args(annotation) for one in _members(part))
    return (annotation,)


def _union(members: list[Any]) -> Any:
    return functools.reduce(operator.or_, members)
