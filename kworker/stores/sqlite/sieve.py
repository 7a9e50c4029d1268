"""What was certainly never recorded: a Bloom filter over the ids of first arrivals."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from itertools import combinations
from zlib import crc32

_WORDS = 23  # of the hash's 32 bits: which word
_MASKS = 512  # and by its last bits: which three bits of the word
_STRIDE = 389  # coprime to the number of masks
PARTS = 64  # in which it is written down, one at a time


def hashes(ids: Iterable[str]) -> list[int]:
    """32 bits an id, the same in every process and for ever, since they are stored.

    Of what Python offers for that, a CRC is the cheapest by far.
    """
    return list(map(crc32, map(str.encode, ids)))


class Sieve:
    """Holds back what was never put in; lets through what was, and a few others.

    One word is looked at an id, which is one miss of the processor's cache. With five million
    ids in it, 1 in 500 strangers passes; with ten, 1 in 200; with twenty, 1 in 30. Its size is
    fixed (32 MiB, of which the system gives what is touched): what is asked beyond that takes
    longer, never more room.
    """

    def __init__(self, parts: Iterable[bytes] = ()) -> None:
        room = mmap.mmap(-1, self.size())  # takes memory only as it is touched
        for part in parts:
            room.write(part)
        self._words = memoryview(room).cast("I")
        threes = [sum(1 << bit for bit in three) for three in combinations(range(32), 3)]
        self._masks = [threes[low * len(threes) // _MASKS] for low in range(_MASKS)]
        self._masks_of: dict[int, list[int]] = {}

    @staticmethod
    def size() -> int:
        """Bytes, of all its parts together."""
        return 4 << _WORDS

    def add(self, scope: int, hashes: Iterable[int]) -> None:
        words, masks = self._words, self._of(scope)
        word, low = 32 - _WORDS, _MASKS - 1
        for hash in hashes:
            words[hash >> word] |= masks[hash & low]

    def passing(self, scope: int, hashes: Iterable[int]) -> list[int]:
        """The hashes that may have been put in for this scope."""
        words, masks = self._words, self._of(scope)
        word, low = 32 - _WORDS, _MASKS - 1
        return [
            hash for hash in hashes if words[hash >> word] & (mask := masks[hash & low]) == mask
        ]

    def part(self, number: int) -> memoryview:
        size = len(self._words) // PARTS
        return self._words[number * size : (number + 1) * size]

    def _of(self, scope: int) -> list[int]:
        """The masks in an order of the scope's own: what one handler has done is a stranger
        to the next."""
        masks = self._masks_of.get(scope)
        if masks is None:
            shift = scope * _STRIDE % _MASKS
            masks = self._masks_of[scope] = self._masks[shift:] + self._masks[:shift]
        return masks
