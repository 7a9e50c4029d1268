"""What the owner of a partition says with a commit to the next one, and its text.

    kw1 <check>[ by=<owner>][ clean][ taken=<n>][ store=<uuid>][ map=<body> | zip=<body, deflated>]

The check binds all of it to one offset of one log of one cluster: what was copied to another
place says nothing there. The body, in base 85, holds for groups of handlers the offsets that
they have done, as runs or as a bitmap, whichever is shorter, and then what is in doubt, as JSON.
Everything is ASCII: brokers count characters.
"""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from .ranges import Ranges

LIMIT = 4000  # characters: a broker takes 4095 unless told otherwise
VERSION = "kw1"
ANYONE = "*"
"""Who has done a record that names its own handler: a copy for a retry, or a replay."""

_HEAD = len(f"{VERSION} 123456789012 by=12345678 clean taken=10 store= zip=") + 36
_LARGEST = 1 << 20  # bytes that a body may have when it is inflated


class Place(NamedTuple):
    """An offset in one log of one cluster: what a note belongs to."""

    cluster: str
    topic_id: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """A message that was tried and is not settled: how often its handler was called, what was
    decided, when its copy may be on its way, and when it is due to be called again; how many
    processes have ended while it ran alone in them, and whether it does so now."""

    calls: int
    decided: str | None = None
    due: int | None = None  # seconds since the epoch
    deaths: int = 0
    alone: bool = False

    @property
    def accused(self) -> bool:
        """Whether it may have ended a process."""
        return self.alone or self.deaths > 0


@dataclass(frozen=True, slots=True)
class Note:
    """What an owner says to the next one, besides the offset it commits.

    `done` are the offsets, from the committed one on, that a handler need not be given; a
    handler that is not named has done none of them. `doubts` are by handler and offset. `store`
    is the uuid of the store that holds the effects of handlers with a Transaction. `clean`: the
    owner lets go by itself, so what runs has not ended it. `taken`: how many owners in a row have
    taken it from one that had not let go. `by` tells the process that said so.
    """

    done: Mapping[str, Ranges] = field(default_factory=dict)
    doubts: Mapping[tuple[str, int], Doubt] = field(default_factory=dict)
    store: str | None = None
    clean: bool = False
    taken: int = 0
    by: str = ""


NOTHING = Note()


class Foreign(ValueError):
    """Text that is a note, but not of this place, or damaged."""


def write(note: Note, place: Place, limit: int = LIMIT) -> tuple[str, bool]:
    """The text of a note, never longer than `limit`, and whether all that is done is in it.

    What does not fit is left out, what matters least first: what was decided, the doubts, then
    what is done at the top. A message whose part is left out is handled again by the next owner.
    """
    for shorter in _shorter(note, place.offset):
        text = _text(shorter, place)
        if len(text) <= limit:
            return text, shorter.done == note.done
    return "", not note.done


def read(text: str, place: Place) -> Note | None:
    """The note in a commit's metadata; None where it is somebody else's text.

    Raises Foreign for a note that belongs to another cluster, log or offset, is damaged, or is
    of a later version.
    """
    if not text.startswith("kw"):
        return None
    version, _, rest = text.partition(" ")
    check, _, said = rest.partition(" ")
    if version != VERSION:
        raise Foreign(f"it is of version {version[:8]!r}, and this one reads {VERSION}")
    if check != _check(said, place):
        raise Foreign("it belongs to another offset, topic or cluster, or is damaged")
    fields = dict(one.partition("=")[::2] for one in said.split(" ") if one)
    done: dict[str, Ranges] = {}
    doubts: dict[tuple[str, int], Doubt] = {}
    try:
        if "map" in fields or "zip" in fields:
            done, doubts = _unpacked(_body(fields), place.offset)
    except (ValueError, KeyError, IndexError, TypeError, zlib.error) as error:
        raise Foreign(f"it cannot be read: {error}") from error
    taken = int(fields.get("taken", "0"))
    return Note(done, doubts, fields.get("store"), "clean" in fields, taken, fields.get("by", ""))


def longest(span: int, count: int) -> int:
    """Bytes that one handler's part of a note may take, whatever of `count` open offsets it
    does first: they stand within `span` offsets."""
    numbers = 2 * count + 2  # of a run each: how far from the last, how long
    runs = numbers + sum(min(numbers, span >> bits) for bits in (7, 14, 21, 28, 35))
    return 8 + min((span + 7) // 8, runs)


def room(limit: int, names: int) -> int:
    """Bytes for the parts of handlers in a note of `limit` characters, where their names have
    that many characters together."""
    return max(0, limit - _HEAD) * 4 // 5 - names - 16


# --- text --------------------------------------------------------------------------------


def _text(note: Note, place: Place) -> str:
    said = [f"by={note.by}"] if note.by else []
    if note.clean:
        said.append("clean")
    if note.taken:
        said.append(f"taken={note.taken}")
    if note.store is not None:
        said.append(f"store={note.store}")
    if note.done or note.doubts:
        body = _packed(note, place.offset)
        deflated = zlib.compress(body, 9, -15)
        kind, shortest = ("zip", deflated) if len(deflated) < len(body) else ("map", body)
        said.append(f"{kind}={b85encode(shortest).decode()}")
    rest = " ".join(said)
    return " ".join([VERSION, _check(rest, place), *said])


def _check(said: str, place: Place) -> str:
    bound = "\0".join((said, *map(str, place)))
    return urlsafe_b64encode(blake2b(bound.encode(), digest_size=9).digest()).decode()


def _body(fields: Mapping[str, str]) -> bytes:
    if "map" in fields:
        return b85decode(fields["map"])
    inflater = zlib.decompressobj(-15)
    body = inflater.decompress(b85decode(fields["zip"]), _LARGEST)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("it does not inflate")
    return body


def _shorter(note: Note, base: int) -> Iterator[Note]:
    """The note, and what is left of it by and by."""
    yield note
    decided = [one for one, doubt in note.doubts.items() if doubt.decided is not None]
    while decided:
        decided = decided[: len(decided) // 2]
        doubts = {
            one: doubt if one in decided else replace(doubt, decided=None)
            for one, doubt in note.doubts.items()
        }
        yield replace(note, doubts=doubts)
    accused = {
        one: replace(doubt, decided=None) for one, doubt in note.doubts.items() if doubt.accused
    }
    if note.doubts:
        yield replace(note, doubts=accused)
    span = max((ranges.end for ranges in note.done.values()), default=base) - base
    while span > 1:
        span //= 2
        done = {name: _below(ranges, base + span) for name, ranges in note.done.items()}
        yield replace(note, doubts=accused, done={name: one for name, one in done.items() if one})
    yield replace(note, doubts=accused, done={})
    yield replace(note, doubts={}, done={})


def _below(ranges: Ranges, end: int) -> Ranges:
    return Ranges((start, min(stop, end)) for start, stop in ranges if start < end)


# --- body --------------------------------------------------------------------------------


def _packed(note: Note, base: int) -> bytes:
    groups: dict[bytes, list[str]] = {}
    for name, ranges in note.done.items():
        groups.setdefault(_shortest(ranges, base), []).append(name)
    body = bytearray(_number(len(groups)))
    for part, names in groups.items():
        body += _number(len(names))
        for name in names:
            encoded = name.encode()
            body += _number(len(encoded)) + encoded
        body += part
    if note.doubts:
        doubts = [
            [name, offset - base, doubt.calls, 2 * doubt.deaths + doubt.alone]
            + ([doubt.decided] if doubt.decided is not None or doubt.due is not None else [])
            + ([] if doubt.due is None else [doubt.due])
            for (name, offset), doubt in note.doubts.items()
        ]  # fmt: skip
        body += json.dumps(doubts, separators=(",", ":")).encode()
    return bytes(body)


def _unpacked(body: bytes, base: int) -> tuple[dict[str, Ranges], dict[tuple[str, int], Doubt]]:
    reader = _Reader(body)
    done: dict[str, Ranges] = {}
    for _ in range(reader.number()):
        names = [reader.take(reader.number()).decode() for _ in range(reader.number())]
        ranges = reader.ranges(base)
        done.update((name, ranges.copy()) for name in names)
    rest = reader.rest()
    doubts = {
        (str(name), base + int(delta)): _doubt(int(calls), int(alone), *more)
        for name, delta, calls, alone, *more in (json.loads(rest) if rest else ())
    }
    return done, doubts


def _doubt(calls: int, alone: int, decided: object = None, due: object = None) -> Doubt:
    return Doubt(
        calls,
        None if decided is None else str(decided),
        due if isinstance(due, int) else None,
        alone // 2,
        bool(alone % 2),
    )


def _shortest(ranges: Ranges, base: int) -> bytes:
    """The offsets as runs, or as bits: an even length says runs, an odd one bits."""
    runs = bytearray()
    last = base
    for start, stop in ranges:
        runs += _number(start - last) + _number(stop - start)
        last = stop
    length = (ranges.end - base + 7) // 8
    if len(runs) <= length:
        return _number(2 * len(runs)) + bytes(runs)
    bits = 0
    for start, stop in ranges:
        bits |= ((1 << (stop - start)) - 1) << (start - base)
    return _number(2 * length + 1) + bits.to_bytes(length, "little")


def _number(value: int) -> bytes:
    """A number of 7 bits a byte, the lowest first; the last byte is below 128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """Reads a body from its beginning. Raises ValueError and IndexError for a damaged one."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._body[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def take(self, length: int) -> bytes:
        taken = self._body[self._at : self._at + length]
        if len(taken) < length:
            raise ValueError("it ends too early")
        self._at += length
        return taken

    @property
    def over(self) -> bool:
        return self._at >= len(self._body)

    def rest(self) -> bytes:
        return self._body[self._at :]

    def ranges(self, base: int) -> Ranges:
        length, bitmap = divmod(self.number(), 2)
        part = self.take(length)
        return _from_bits(part, base) if bitmap else _from_runs(part, base)


def _from_runs(part: bytes, base: int) -> Ranges:
    reader, ranges, last = _Reader(part), Ranges(), base
    while not reader.over:
        start = last + reader.number()
        last = start + reader.number()
        ranges.add_range(start, last)
    return ranges


def _from_bits(part: bytes, base: int) -> Ranges:
    bits = f"{int.from_bytes(part, 'little'):b}"[::-1]
    ranges, at = Ranges(), bits.find("1")
    while at >= 0:
        stop = bits.find("0", at)
        stop = len(bits) if stop < 0 else stop
        ranges.add_range(base + at, base + stop)
        at = bits.find("1", stop)
    return ranges
