"""How a publisher's messages go out: by a line to Kafka, with an outbox behind it or without."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from .clock import Every, SystemClock
from .errors import KafkaUnavailable, PublishRejected, StoreError
from .kafka.api import Producer, Receipt, Refusal
from .outbox import Courier, Parcel, tell_failed
from .outcome import Output
from .plugins import Tell
from .stores.api import Keeper, Lane, Waiting

log = logging.getLogger("kworker.publisher")

GRACE = 5.0  # seconds that a client may be silent beyond the time it was given
CLUSTER = 1.0  # seconds that opening waits for Kafka to say which cluster it is
ASKING = 0.2, 2.0  # seconds: how long it is asked for that later, and how often
LOOK = 0.25  # seconds between two looks at what there is room for
LIVELY = 0.5  # seconds since Kafka took something: it goes on taking
BATCH = 1000  # messages that are written into the outbox at once
QUIET = 10.0  # seconds between two lines about the same trouble
BUSY = 1.0  # seconds that a turn of the outbox's thread may wait for the file


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: not acknowledged in time, and in the outbox."""


Answer = Receipt | Refusal | Kept
Answered = Callable[[Answer], None]


class Letter:
    """A message on its way out. `answered` is called once at most, in any thread; it is quick."""

    __slots__ = ("_answered", "keeping", "lane", "output", "over")

    def __init__(self, output: Output, *answered: Answered) -> None:
        self.output = output
        self.lane = Lane(output.topic, output.key)
        self._answered = list(answered)
        self.over = False  # Kafka has answered
        self.keeping = False  # it is in the outbox, or is being written there

    @property
    def told(self) -> bool:
        return not self._answered

    @property
    def size(self) -> int:
        return len(self.output.key or b"") + len(self.output.value or b"")

    def tell(self, answer: Answer) -> None:
        """Answer whoever waits, the first time."""
        try:
            answered = self._answered.pop()
        except IndexError:
            return
        answered(answer)


class Line:
    """One process's connection to Kafka, without an outbox: what is not acknowledged within
    `wait` seconds is answered with a Refusal."""

    def __init__(self, producer: Producer, wait: float) -> None:
        self._producer = producer
        self._wait = wait
        # Waits where an event loop must not, while the client's queue is full. One thread
        # keeps the order.
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="kworker-publisher")
        self._with_clerk = 0
        self._counting = threading.Lock()

    @property
    def patience(self) -> float:
        """Seconds after which whoever waits for an answer says that it is overdue."""
        return self._wait + GRACE

    def send(self, letter: Letter) -> None:
        """Send it; blocks while the client's queue is full."""
        out = letter.output
        self._producer.send(out.topic, out.key, out.value, out.headers, letter.tell)

    def offer(self, letter: Letter) -> bool:
        """Send it, or False where that would block."""
        out = letter.output
        return self._producer.offer(out.topic, out.key, out.value, out.headers, letter.tell)

    async def send_soon(self, letter: Letter) -> None:
        """Send it without blocking the event loop, in the order of the calls."""
        if self._with_clerk == 0 and self.offer(letter):
            return
        with self._counting:
            self._with_clerk += 1
        left = self._clerk.submit(self.send, letter)
        left.add_done_callback(self._clerk_is_done)
        await asyncio.wrap_future(left)

    def _clerk_is_done(self, _: Future[None]) -> None:
        with self._counting:
            self._with_clerk -= 1

    def overdue(self, letters: Iterable[Letter]) -> None:
        """They have waited for long enough: they are answered now."""
        for letter in letters:
            text = f"{letter.output.topic}: the client gave no answer within {self.patience:g} s"
            letter.tell(Refusal("unavailable", text, permanent=False))

    def close(self) -> None:
        """Wait for what is under way, and end."""
        self._clerk.shutdown(wait=True)
        self._producer.close(self.patience)


class _Way:
    """What is under way in one lane, in its order."""

    __slots__ = ("behind", "flying", "kept", "moving", "queued")

    def __init__(self) -> None:
        self.flying: dict[Letter, None] = {}  # with the client
        self.kept = 0  # of those, in the outbox as well
        self.queued = 0  # about to be put into the outbox, and not with the client
        self.behind = 0  # in the outbox, and not with the client
        self.moving = False  # Kafka takes what was kept

    @property
    def blocked(self) -> bool:
        """Whether something waits that may not be overtaken; or Kafka is away, so that whoever
        comes need not find that out anew."""
        return bool(self.queued or self.behind or (self.kept and not self.moving))

    @property
    def empty(self) -> bool:
        return not (self.flying or self.queued or self.behind)


class KeepingLine(Line):
    """The same with an outbox, by the thread that it belongs to.

    The client behind `producer` never gives a message up. What it has not acknowledged within
    `wait` seconds is written into the outbox, durably, and its sender is told so; the client
    goes on trying, and when it succeeds the message is removed. All of a lane that is under way
    is kept together, in its order; whatever comes after goes into the outbox at once, and to the
    client behind it, until Kafka takes what was kept. So does what comes after something that an
    earlier process has left there, or that the client had no room for.

    `most` bytes may be in the outbox; beyond, `when_full` is "block" or "reject". `rejected` is
    told what Kafka will never take. Ways and letters are touched under the lock.
    """

    def __init__(
        self,
        producer: Producer,
        open_keeper: Callable[[str | None], Keeper],
        *,
        wait: float,
        most: int,
        when_full: str,
        tell: Tell,
        rejected: Callable[[str], None],
    ) -> None:
        super().__init__(producer, wait)
        self._lock = threading.RLock()
        self._ways: dict[Lane, _Way] = {}
        self._flying = 0
        self._moved = 0.0  # when Kafka last took something, or had nothing to take
        self._broken = ""  # why nothing can be published any more
        self._inbox: _Inbox = SimpleQueue()
        opened: Future[None] = Future()

        def live() -> None:
            try:
                cluster = producer.cluster_id(CLUSTER)
                keeper = open_keeper(cluster)
                post = _Post(
                    self, producer, keeper,
                    known=cluster is not None, most=most, when_full=when_full, tell=tell,
                    rejected=rejected,
                )  # fmt: skip
            except BaseException as error:  # noqa: BLE001 - whoever opens the line raises it
                opened.set_exception(error)
                return
            opened.set_result(None)
            try:
                post.work()
            except BaseException:
                log.exception("the outbox's thread has ended")
            finally:
                self._break("the publisher's outbox has ended; see its log")

        self._thread = threading.Thread(target=live, name="kworker-outbox", daemon=True)
        self._thread.start()
        try:
            opened.result()
        except BaseException:
            producer.close(0.0)
            raise

    @property
    def patience(self) -> float:
        return self._wait

    def send(self, letter: Letter) -> None:
        """Hand it to the client, or put it behind what is kept of its lane. While the client's
        queue is full it waits, as long as Kafka takes anything."""
        pause = 0.001
        while not self.offer(letter):
            with self._lock:
                if time.monotonic() - self._moved > self._wait:
                    self._queue(letter)
                    return
            time.sleep(pause)
            pause = min(0.05, pause * 2)

    def offer(self, letter: Letter) -> bool:
        with self._lock:
            if self._broken:
                raise KafkaUnavailable(self._broken)
            way = self._ways.get(letter.lane)
            if way is not None and way.blocked:
                self._queue(letter)
                return True
            return self.fly(letter)

    def overdue(self, letters: Iterable[Letter]) -> None:
        with self._lock:
            for letter in letters:
                if self._broken:
                    letter.tell(Refusal("unavailable", self._broken, permanent=False))
                else:
                    self._inbox.put(letter)

    def close(self) -> None:
        self._clerk.shutdown(wait=True)
        until = time.monotonic() + self._wait
        while self._hopes() and time.monotonic() < until:
            time.sleep(0.005)
        self._inbox.put(None)
        self._thread.join()

    def _hopes(self) -> bool:
        """Whether to leave later may help: something is not kept, or Kafka takes what is."""
        if self.unkept():
            return True
        with self._lock:
            return bool(self._ways) and time.monotonic() - self._moved < LIVELY

    def unkept(self) -> list[Letter]:
        """What only the client has, and Kafka has not answered."""
        with self._lock:
            flying = (one for way in self._ways.values() for one in way.flying)
            return [one for one in flying if not (one.keeping or one.over)]

    def _queue(self, letter: Letter) -> None:
        self.way(letter.lane).queued += 1
        self._inbox.put(letter)

    # For the outbox's thread, too; under the lock.

    def way(self, lane: Lane) -> _Way:
        found = self._ways.get(lane)
        if found is None:
            found = self._ways[lane] = _Way()
        return found

    def fly(self, letter: Letter) -> bool:
        """Give it to the client; False where there is no room."""
        since = self._moved if self._flying else time.monotonic()
        way, out = self.way(letter.lane), letter.output
        way.flying[letter] = None
        way.kept += letter.keeping
        self._flying += 1
        if self._producer.offer(
            out.topic, out.key, out.value, out.headers, lambda answer: self._landed(letter, answer)
        ):
            self._moved = max(self._moved, since)
            return True
        self.land(letter)
        return False

    def land(self, letter: Letter) -> None:
        """The client has it no more."""
        way = self._ways.get(letter.lane)
        if way is None or letter not in way.flying:
            return
        del way.flying[letter]
        way.kept -= letter.keeping
        self._flying -= 1
        self.tidy(letter.lane)

    def tidy(self, lane: Lane) -> None:
        way = self._ways.get(lane)
        if way is not None and way.empty:
            del self._ways[lane]

    def _landed(self, letter: Letter, answer: Receipt | Refusal) -> None:
        """Kafka's answer, on the client's thread."""
        with self._lock:
            letter.over = True
            if isinstance(answer, Receipt):
                self._moved = time.monotonic()
                if not letter.keeping:
                    self.land(letter)
                    letter.tell(answer)
                    return
                self.way(letter.lane).moving = True
        self._inbox.put((letter, answer))

    def _break(self, why: str) -> None:
        """From now on nothing can be published, and nobody waits any more."""
        refusal = Refusal("unavailable", why, permanent=False)
        with self._lock:
            self._broken = why
            left = [one for way in self._ways.values() for one in way.flying]
        with suppress(Empty):
            while True:
                one = self._inbox.get_nowait()
                if isinstance(one, Letter):
                    left.append(one)
        for letter in left:
            letter.tell(refusal)

    def stop(self, why: str) -> None:
        """Refuse all that comes, as what is in the outbox belongs elsewhere."""
        with self._lock:
            self._broken = why


class _Post:
    """What a keeping line's own thread does. It owns the keeper and the courier."""

    def __init__(
        self,
        line: KeepingLine,
        producer: Producer,
        keeper: Keeper,
        *,
        known: bool,
        most: int,
        when_full: str,
        tell: Tell,
        rejected: Callable[[str], None],
    ) -> None:
        self._line = line
        self._producer = producer
        self._keeper = keeper
        self._known = known  # that the outbox is of this cluster
        self._most = most
        self._when_full = when_full
        self._tell = tell
        self._rejected = rejected
        self._courier = Courier(keeper, self._carry, clock=SystemClock(), tell=tell)
        self._parcels: dict[Letter, Parcel] = {}  # with the client, and in the outbox
        self._blocked: list[Letter] = []  # to be kept, when there is room
        self._closing = False
        self._asked = self._looked = self._weighed = 0.0  # when that was done last
        self._used = 0  # bytes in the outbox
        self._complained = Every(SystemClock(), QUIET)
        self._lanes_behind: set[Lane] = set()
        self._look_behind()

    def work(self) -> None:
        while not self._closing:
            self._turn()
        self._end()

    def _turn(self) -> None:
        letters, answers = self._news(self._patience())
        self._hear(answers)
        self._keep(letters)
        if not (self._known or self._ask()):
            return
        try:
            claimed = self._courier.turn(BUSY)
            late = time.monotonic() - self._looked > LOOK
            if self._lanes_behind and (claimed or late):
                self._look_behind()
        except StoreError as error:
            # What is kept is kept; whoever has something to keep is told by itself.
            if self._complained.due():
                log.error("the outbox cannot be used now: %s", error)

    def _patience(self) -> float:
        idle = self._known and not (self._blocked or self._courier.busy or self._lanes_behind)
        return 1.0 if idle else LOOK

    def _news(self, patience: float) -> tuple[list[Letter], list[_Answer]]:
        letters, answers = self._blocked, list[_Answer]()
        self._blocked = []
        with suppress(Empty):
            one = self._line._inbox.get(timeout=patience)
            while True:
                if one is None:
                    self._closing = True
                elif isinstance(one, Letter):
                    letters.append(one)
                else:
                    answers.append(one)
                one = self._line._inbox.get_nowait()
        return letters, answers

    # --- what Kafka has answered, but for plain acknowledgements -------------------------

    def _hear(self, answers: Iterable[_Answer]) -> None:
        refused: list[tuple[Letter, Refusal]] = []
        for letter, answer in answers:
            permanent = isinstance(answer, Refusal) and answer.permanent
            parcel = self._parcels.pop(letter, None)
            with self._line._lock:
                self._line.land(letter)
            if parcel is not None:
                self._courier.answered(parcel, answer)
            elif isinstance(answer, Receipt):
                letter.tell(answer)
            elif permanent:
                refused.append((letter, answer))
            else:
                self._not_kept([letter], answer.text)
            if permanent and isinstance(answer, Refusal):
                self._rejected(answer.text)
        if refused:
            self._reject(refused)

    def _reject(self, refused: Sequence[tuple[Letter, Refusal]]) -> None:
        kept = True
        try:
            self._keeper.keep_rejected(
                [letter.output for letter, _ in refused], [refusal.text for _, refusal in refused]
            )
        except StoreError as error:
            kept = False
            log.error("what Kafka refuses cannot be kept: %s", error)
        for letter, refusal in refused:
            letter.tell(refusal)
            self._failed(letter, PublishRejected(refusal.text), kept=kept)

    # --- what is to be kept --------------------------------------------------------------

    def _keep(self, letters: Sequence[Letter]) -> None:
        for start in range(0, len(letters), BATCH):
            chosen: list[Letter] = []
            try:
                room = self._room()
            except StoreError as error:
                self._not_kept(letters[start:], f"it cannot be kept: {error}")
                return
            for place in range(start, min(start + BATCH, len(letters))):
                more = self._with_lane(letters[place])
                room -= sum(one.size for one in more)
                if more and room < 0:
                    self._write(chosen)
                    self._no_room(more, letters[place:])
                    return
                chosen += more
            self._write(chosen)

    def _with_lane(self, letter: Letter) -> list[Letter]:
        """What is to be kept because of this one: all of its lane that is under way, and it."""
        with self._line._lock:
            if letter.over or letter.keeping or letter.told:
                return []
            way = self._line.way(letter.lane)
            found = [one for one in way.flying if not (one.keeping or one.over)]
            if found:
                way.kept += len(found)
                way.moving = False
            if letter not in way.flying:
                found.append(letter)
            for one in found:
                one.keeping = True
            return found

    def _write(self, letters: Sequence[Letter]) -> None:
        if not letters:
            return
        reason = self._reason()
        with self._line._lock:
            ways = {one: self._line.way(one.lane) for one in letters}
            held = [one for one in letters if one in ways[one].flying]
        # What is not with the client follows at once, unless something that waits is before it.
        follow = [one for one in letters if one not in ways[one].flying and not ways[one].behind]
        behind = [one for one in letters if one not in ways[one].flying and ways[one].behind]
        try:
            numbers = self._keeper.keep(
                [one.output for one in (*held, *follow)], [one.output for one in behind], reason
            )
        except StoreError as error:
            self._not_kept(letters, f"{reason}; and it cannot be kept: {error}")
            return
        self._used += sum(one.size for one in letters)
        for letter, number in zip((*held, *follow), numbers, strict=True):
            parcel = self._parcels[letter] = Parcel(Waiting(number, letter.output, True))
            self._courier.adopt(parcel)
        with self._line._lock:
            for letter in follow:
                ways[letter].queued -= 1
                if ways[letter].behind or not self._line.fly(letter):
                    self._courier.send_later(self._parcels.pop(letter))
                    self._fall_behind(letter)
            for letter in behind:
                ways[letter].queued -= 1
                self._fall_behind(letter)
        if behind:
            self._courier.wake()
        for letter in letters:
            letter.tell(Kept())
            self._failed(letter, KafkaUnavailable(reason), kept=True)

    def _fall_behind(self, letter: Letter) -> None:
        self._line.way(letter.lane).behind += 1
        self._lanes_behind.add(letter.lane)

    def _reason(self) -> str:
        why = self._producer.last_words
        text = f"not acknowledged by Kafka within {self._line.patience:g} s"
        return f"{text}: {why}" if why else text

    def _room(self) -> int:
        """Bytes that may still be kept. Others keep, too, and take away: looked at anew."""
        if time.monotonic() - self._weighed > 1.0:
            self._used = self._keeper.used
            self._weighed = time.monotonic()
        return self._most - self._used

    def _no_room(self, letters: Sequence[Letter], rest: Sequence[Letter]) -> None:
        """These do not fit; `rest` is who asked, from the first of them on."""
        self._let_be(letters)
        if self._when_full == "block" and not self._closing:
            self._blocked += rest
        else:
            text = "and the outbox is full (outbox_size): make room with `kworker outbox`"
            self._not_kept(rest, f"{self._reason()}; {text}")

    def _not_kept(self, letters: Sequence[Letter], reason: str) -> None:
        """Whoever waits is told; what the client has, it goes on trying to send."""
        self._let_be(letters)
        for letter in letters:
            with self._line._lock:
                way = self._line.way(letter.lane)
                if letter not in way.flying and not letter.over:
                    way.queued -= 1
                self._line.tidy(letter.lane)
                if letter.told:
                    continue
            letter.tell(Refusal("unavailable", f"{letter.output.topic}: {reason}", False))
            self._failed(letter, KafkaUnavailable(reason), kept=False)

    def _let_be(self, letters: Sequence[Letter]) -> None:
        """They are not kept after all."""
        with self._line._lock:
            for letter in letters:
                way = self._line.way(letter.lane)
                if letter.keeping and letter in way.flying:
                    way.kept -= 1
                letter.keeping = False

    def _failed(self, letter: Letter, error: Exception, *, kept: bool) -> None:
        tell_failed(self._tell, letter.output, error, kept=kept)

    # --- what waits in the outbox --------------------------------------------------------

    def _carry(self, parcel: Parcel) -> bool:
        """Hand one that waited to the client, in front of all that come after it."""
        letter = Letter(parcel.output)
        letter.keeping = True
        self._parcels[letter] = parcel
        with self._line._lock:
            if self._line.fly(letter):
                return True
        del self._parcels[letter]
        return False

    def _look_behind(self) -> None:
        """Which lanes are behind: what others have left, too, and maybe send."""
        found = Counter(self._keeper.behind())
        found.update(Lane(one.topic, one.key) for one in self._courier.todo)
        with self._line._lock:
            for lane in self._lanes_behind - found.keys():
                self._line.way(lane).behind = 0
                self._line.tidy(lane)
            for lane, count in found.items():
                self._line.way(lane).behind = count
        self._lanes_behind = set(found)
        self._looked = time.monotonic()

    def _ask(self) -> bool:
        """Whether the outbox is this cluster's. Until then nothing that waits there is sent."""
        timeout, pause = ASKING
        if time.monotonic() - self._asked < pause:
            return False
        cluster = self._producer.cluster_id(timeout)
        self._asked = time.monotonic()
        if cluster is None:
            return False
        try:
            self._keeper.bind(cluster)
        except StoreError as error:
            log.error("nothing can be published any more: %s", error)
            self._line.stop(str(error))
            return False
        self._known = True
        return True

    def _end(self) -> None:
        """Keep what is under way, whoever asked for it, and let go."""
        self._keep([*self._blocked, *self._line.unkept()])
        self._producer.close(0.0)
        _, answers = self._news(0.0)
        final = [(one, answer) for one, answer in answers if _final(answer)]
        try:
            self._hear(final)
            self._courier.post(BUSY)
        finally:
            self._keeper.close()


_Answer = tuple[Letter, Receipt | Refusal]
_Inbox = SimpleQueue[Letter | _Answer | None]


def _final(answer: Receipt | Refusal) -> bool:
    return isinstance(answer, Receipt) or answer.permanent
