"""What waits in an outbox, brought to Kafka."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable

from .clock import Clock, Every
from .errors import PublishRejected
from .kafka.api import Receipt, Refusal
from .message import Headers
from .outcome import Output
from .plugins import Tell
from .stores.api import Outbox, Waiting

log = logging.getLogger("kworker.outbox")

SWEEP = 10.0  # seconds between two looks for what others have left behind
ROOM = 10_000, 32 << 20  # messages, and bytes of them, that are on their way at once
PAUSE = 1.0, 30.0  # seconds: first and longest pause before what was refused is sent again


class Parcel:
    """A message on its way from an outbox to Kafka."""

    __slots__ = ("failed", "headers", "key", "number", "output", "size", "topic", "value")

    def __init__(self, waiting: Waiting) -> None:
        number, output, failed = waiting
        self.number = number
        self.output = output
        self.failed = failed  # it is there because of an error
        self.topic: str = output.topic
        self.key: bytes | None = output.key
        self.value: bytes | None = output.value
        self.headers: Headers = output.headers
        self.size = len(output.key or b"") + len(output.value or b"")


class Courier:
    """Takes messages on, oldest first, and hands them to `offer`, which says whether it took
    one; each at least once, always under the id it was published with.

    Only one thread touches it. It asks for a few at a time, and for more when there is room.
    Kafka's answers come through `answered`; a message is removed from the outbox when it is
    acknowledged, and set aside for a person when it will never be taken. Those of one key keep
    their order as long as the client behind `offer` never gives one up for a later one.
    """

    def __init__(
        self,
        outbox: Outbox,
        offer: Callable[[Parcel], bool],
        *,
        clock: Clock,
        tell: Tell,
    ) -> None:
        self._outbox = outbox
        self._offer = offer
        self._clock = clock
        self._tell = tell
        self._todo: deque[Parcel] = deque()  # taken on, not with the client yet
        self._out: dict[int, Parcel] = {}  # taken on, until the outbox has let go of them
        self._size = 0  # of those
        self._sent: list[Parcel] = []
        self._rejected: dict[Parcel, str] = {}
        self._sweep = Every(clock, SWEEP)
        self._awake = True  # there may be something to take on
        self._refused = 0  # times in a row
        self._not_before = 0.0

    @property
    def pending(self) -> bool:
        """Whether something is to be sent, or on its way."""
        return self._awake or bool(self._out)

    @property
    def busy(self) -> bool:
        """Whether a turn can do something, without any answer of Kafka's."""
        return bool(self._awake or self._todo or self._sent or self._rejected)

    @property
    def todo(self) -> Iterable[Parcel]:
        """What is taken on and not with the client yet."""
        return self._todo

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._awake = True

    def adopt(self, parcel: Parcel) -> None:
        """One that we put into the outbox while it was on its way already."""
        self._out[parcel.number] = parcel
        self._size += parcel.size

    def send_later(self, parcel: Parcel) -> None:
        """One that was adopted, and that the client has no room for; the last of its lane."""
        self._todo.append(parcel)

    def turn(self, patience: float = 0.0) -> bool:
        """Send what there is room for; let the outbox know what became of what was sent.
        Whether something was taken on."""
        if self._sweep.due():
            self._awake = True
        self._send()
        room = self._room()
        claimed: list[Waiting] | None = None
        if self._awake and room and not self._todo:
            claimed = self._outbox.claim(room)
            if claimed is not None:
                self._awake = len(claimed) == room
                for one in claimed:
                    parcel = Parcel(one)
                    self.adopt(parcel)
                    self._todo.append(parcel)
                self._send()
        self.post(patience)
        return bool(claimed)

    def answered(self, parcel: Parcel, answer: Receipt | Refusal) -> None:
        """Kafka's answer."""
        if isinstance(answer, Receipt):
            self._refused = 0
            self._sent.append(parcel)
        elif answer.permanent:
            self._rejected[parcel] = answer.text
        else:
            first, longest = PAUSE
            pause = min(longest, first * 2.0**self._refused)
            self._refused = min(self._refused + 1, 16)
            self._not_before = self._clock.monotonic() + pause
            later = sorted((*self._todo, parcel), key=lambda one: one.number)
            self._todo = deque(later)

    def _room(self) -> int:
        """How many may be taken on; none until half of what is on its way has arrived."""
        messages, size = ROOM
        room = messages - len(self._out)
        return room if room >= messages / 2 and self._size <= size / 2 else 0

    def _send(self) -> None:
        if not self._todo or self._clock.monotonic() < self._not_before:
            return
        while self._todo:
            # Not ours any more once it is offered: its answer may come at once.
            parcel = self._todo.popleft()
            if not self._offer(parcel):
                self._todo.appendleft(parcel)
                return

    def post(self, patience: float) -> None:
        """Let the outbox know what became of what was sent."""
        if not self._sent and not self._rejected:
            return
        sent = [one.number for one in self._sent]
        rejected = {one.number: reason for one, reason in self._rejected.items()}
        if not self._outbox.posted(sent, rejected, patience=patience):
            return
        for parcel in (*self._sent, *self._rejected):
            del self._out[parcel.number]
            self._size -= parcel.size
        resumed = Counter(one.topic for one in self._sent if one.failed)
        refused, self._rejected, self._sent = self._rejected, {}, []
        for topic, count in resumed.items():
            self._tell("publish_resumed", topic=topic, count=count)
        for parcel, reason in refused.items():
            tell_failed(self._tell, parcel.output, PublishRejected(reason), kept=True)


def tell_failed(tell: Tell, message: Output, error: Exception, *, kept: bool) -> None:
    """Tell whoever listens that a message was not acknowledged."""
    tell(
        "publish_failed", topic=message.topic, key=message.key, value=message.value,
        headers=message.headers, error=error, kept=kept,
    )  # fmt: skip
