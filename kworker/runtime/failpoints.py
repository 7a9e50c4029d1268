"""Failpoints: any step of the journey made to end the process, to raise or to stall.

For tests. With `KWORKER_TESTING=1`, `KWORKER_FAILPOINT=after_settle:3` ends the process, as
`kill -9` would, right after its third message was settled; `before_record:1:raise` raises in
front of the first record, `after_commit:2:stall=5` holds the second commit up for five seconds.
`python -m kworker.runtime.failpoints` lists the names, one a line, in the order of the journey.

The worker hands each part through an `Arm` where it puts them together; no room holds a
failpoint itself, and one step of the parts is wrapped, or none.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from .. import durations
from ..errors import KworkerError, SettingsError

T = TypeVar("T")

VARIABLE = "KWORKER_FAILPOINT"
KILLED = 137  # the exit code of a process that a shell saw killed by signal 9


class Method(NamedTuple):
    """One method (or one function that it holds) of a part of the worker. `each`: what it is
    given first is a batch, of which each message is a step of its own."""

    part: str
    name: str
    each: bool = False


STEPS: Mapping[str, tuple[Method, ...]] = {
    # The group, and which partitions are ours.
    "join": (Method("consumer", "subscribe"),),
    "assign": (Method("loop", "assigned"),),
    # A message's way in.
    "poll": (Method("consumer", "poll"),),
    "admit": (Method("intake", "admit"),),
    "dispatch": (Method("loop", "dispatch"),),
    "enter": (Method("lanes", "enter", each=True),),
    "perform": (Method("executor", "start"),),
    "decode": (Method("handler", "decode"),),
    "handler": (Method("handler", "function"),),
    # Its way out.
    "transaction": (Method("lender", "commit"),),
    "settle": (Method("loop", "settle", each=True),),
    "record": (Method("store", "record"),),
    "send": (Method("producer", "offer"),),
    "acknowledge": (Method("delivery", "answered"), Method("outbox", "answered")),
    "close": (
        Method("hands", "closed", each=True),
        Method("loop", "_closed", each=True),
    ),
    "produce": (Method("transactions", "_produce"),),
    "offsets": (Method("transactions", "_send_offsets"),),
    "end": (Method("transactions", "_end"),),
    "commit": (Method("consumer", "commit"), Method("consumer", "commit_now")),
    "committed": (Method("hands", "committed"),),
    "prune": (Method("store", "prune"),),
    # The end of an ownership, and of the worker.
    "revoke": (Method("loop", "revoked"),),
    "lose": (Method("loop", "lost"),),
    "finish": (Method("loop", "_finish"),),
    "leave": (Method("consumer", "close"),),
}
"""Every step by its name, and where it is taken. Each can be met before and after.

`produce`, `offsets` and `end` are the steps of a Kafka transaction.

Of `commit`, before is before it is sent, after is before it is answered; `committed` is the
answer. What `acknowledge` is to what was sent, too. A `record` may hold what was settled, what
was decided about a failure, or both.
"""


class Arm(Protocol):
    """Hands a part of the worker back, with the failpoint in it where it belongs there."""

    def __call__(self, part: str, thing: T, /) -> T: ...


class Provoked(KworkerError):
    """A failpoint raised, as it was told to."""


def arm(environ: Mapping[str, str]) -> Arm:
    """What the environment asks for; without `KWORKER_TESTING=1` every part stays as it is.

    Raises SettingsError for a value that names no step, number or action.
    """
    text = environ.get(VARIABLE)
    if not text or environ.get("KWORKER_TESTING") != "1":
        return _unarmed
    return Failpoint.parse(text)


def names() -> Iterator[str]:
    """What can be named, in the order of the journey."""
    for step in STEPS:
        yield from (f"before_{step}", f"after_{step}")


def _unarmed(part: str, thing: T, /) -> T:
    return thing


class Failpoint:
    """Acts once: when this process gets before or after a step for the `number`-th time.

    A call with nothing in it does not count, such as a poll that brought no record (only
    `before_poll` cannot know that). A step that raises is over as well. May be met in any
    thread.
    """

    def __init__(self, name: str, number: int, act: Callable[[], None]) -> None:
        self.name = name
        self.number = number
        self._act = act
        self._when, _, self._step = name.partition("_")
        self._methods = STEPS[self._step]
        self._times = itertools.count(1)

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """From `NAME:N[:exit|raise|stall=SECONDS]`. Raises SettingsError."""
        found = re.fullmatch(r"(\w+):([1-9]\d{0,8})(?::(exit|raise|stall=.+))?", text)
        if found is None:
            raise SettingsError(
                f"{VARIABLE}: {text!r} is not NAME:N, NAME:N:exit, NAME:N:raise or "
                "NAME:N:stall=SECONDS, N counting from 1"
            )
        name, number, action = found.groups()
        if name not in names():
            raise SettingsError(
                f"{VARIABLE}: no failpoint is named {name!r}; "
                "`python -m kworker.runtime.failpoints` lists them"
            )
        return cls(name, int(number), _action(action or "exit", text))

    def __call__(self, part: str, thing: T, /) -> T:
        changed: dict[str, Any] = {
            method.name: self._each(getattr(thing, method.name))
            if method.each
            else self._around(getattr(thing, method.name))
            for method in self._methods
            if method.part == part
        }
        if changed and dataclasses.is_dataclass(thing) and not isinstance(thing, type):
            return dataclasses.replace(thing, **changed)
        for name, function in changed.items():
            setattr(thing, name, function)
        return thing

    def _each(self, function: Callable[..., None]) -> Callable[..., None]:
        """Takes a batch as so many batches of one."""
        step = self._around(function)

        def steps(batch: Iterable[Any], *given: Any, **named: Any) -> None:
            for one in batch:
                step([one], *given, **named)

        return steps

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            # What is still to be drawn is looked at, to know whether there is anything.
            given = tuple(list(one) if isinstance(one, Iterator) else one for one in given)
            self._meet("before", given)
            try:
                result = function(*given, **named)
            except BaseException:
                self._meet("after", given)
                raise
            if inspect.isawaitable(result):
                return self._awaited(result)
            if not (result is False and self._step == "record"):  # another had its turn
                self._meet("after", (*given, result))
            return result

        return step

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        try:
            return await result
        finally:
            self._meet("after", ())

    def _meet(self, when: str, what: tuple[Any, ...]) -> None:
        if when != self._when or any(_empty(one) for one in what):
            return
        if next(self._times) == self.number:
            self._act()


def _action(text: str, whole: str) -> Callable[[], None]:
    if text == "exit":
        return lambda: os._exit(KILLED)
    if text == "raise":

        def provoke() -> None:
            raise Provoked(f"{VARIABLE}={whole} raised here")

        return provoke
    try:
        seconds = durations.seconds(text.removeprefix("stall="))
    except ValueError as error:
        raise SettingsError(f"{VARIABLE}: {whole!r}: {error}") from error
    return lambda: time.sleep(seconds)


def _empty(thing: object) -> bool:
    """Whether it is a batch without anything in it."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        held = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
        return bool(held) and all(one == [] for one in held)
    return isinstance(thing, list) and not thing


if __name__ == "__main__":
    for name in names():
        print(name)  # noqa: T201 - it is what this is for
