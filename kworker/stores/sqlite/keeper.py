"""The store's file, opened by whoever publishes: for the outbox alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...errors import StoreError
from ...outcome import Output
from ..api import Lane, Waiting
from . import care, outbox, schema
from .file import StoreFile

_PATIENCE = 10.0  # seconds to wait for the turn of others that write


class SqliteKeeper(StoreFile):
    """See `Keeper`."""

    def keep(self, held: Sequence[Output], loose: Sequence[Output], error: str) -> list[int]:
        slot = self._my_slot()
        numbers: list[int] = []

        def write() -> None:
            if slot.fresh:
                outbox.release(self._connection, slot.number)
            now = self._clock.wall()
            numbers[:] = outbox.add(self._connection, held, now, error=error, holder=slot.number)
            outbox.add(self._connection, loose, now, error=error)

        self._write(write)
        slot.fresh = False
        return numbers

    def keep_rejected(self, outputs: Sequence[Output], errors: Sequence[str]) -> None:
        def write() -> None:
            for output, error in zip(outputs, errors, strict=True):
                outbox.add(
                    self._connection, [output], self._clock.wall(),
                    state=outbox.REJECTED, error=error,
                )  # fmt: skip

        self._write(write)

    def take(self, numbers: Sequence[int], *, in_order: bool = True) -> list[int]:
        slot = self._my_slot()
        taken: list[int] = []
        self._write(
            lambda: taken.extend(outbox.take(self._connection, slot, numbers, in_order=in_order))
        )
        slot.fresh = False
        return taken

    def read(self, numbers: Sequence[int]) -> list[Waiting]:
        with care.telling(self._path):
            return outbox.read(self._connection, numbers)

    def behind(self) -> Mapping[Lane, int]:
        with care.telling(self._path):
            return outbox.behind(self._connection, self._my_slot())

    @property
    def used(self) -> int:
        with care.telling(self._path):
            return outbox.used(self._connection)

    def bind(self, cluster: str) -> None:
        self._write(lambda: schema.bind(self._connection, self._path, cluster))

    def close(self) -> None:
        if self._closed:
            return
        try:
            if self._slot is not None and not self._slot.fresh:
                # Others see it by themselves, once the number is given back.
                number = self._slot.number
                self._in_turn(lambda: outbox.release(self._connection, number), 1.0)
        finally:
            super().close()

    def _write(self, write: Callable[[], object]) -> None:
        """Have it written, or raise StoreError: whoever keeps something has to know."""
        if self._in_turn(write, _PATIENCE):
            return
        if not self.has_room():
            raise StoreError(f"{self._path}: its disk is full; free some space")
        raise StoreError(
            f"{self._path}: another process has had its turn for {_PATIENCE:.0f} s; end the "
            f"one that holds {self._path.name}.lock"
        )
