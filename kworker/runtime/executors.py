"""Inline loops of threads or coroutines behind one face; exceptions become outcomes here."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeGuard

from .. import durations
from ..context import Context, Timebox
from ..facts import HandlerInfo
from ..failures import words
from ..handlers import Handler
from ..message import AnyMessage, Headers
from ..outcome import (
    DONE,
    Done,
    Dropped,
    Expired,
    Failed,
    HandlerTimeout,
    Outage,
    Outcome,
    Postponed,
    Skip,
    Skipped,
)
from .batches import Bisection
from .lanes import Run
from .work import Work

log = logging.getLogger("kworker.runtime")

SWALLOWED = "a plugin failed before the handler was called, and another one swallowed that"
HELD = 0.002  # seconds that results are held back so that others travel with them


class Performed(NamedTuple):
    """Results of a run on their way back to the loop; `over`: there are no more."""

    results: list[tuple[Work, Outcome]]
    run: Run
    over: bool


Answer = Callable[[Performed], None]
Down = Callable[[str], bool]  # whether what a handler needs is down; asked on any thread


class Hooks(NamedTuple):
    """What plugins do where handlers are called; None where none does.

    `started` is told before a call; `around` gives the context managers to call it in;
    `outgoing` the headers to add to what it publishes.
    """

    started: Callable[[AnyMessage, HandlerInfo], None] | None = None
    around: Callable[[AnyMessage, HandlerInfo], list[Any]] | None = None
    outgoing: Callable[[str, str, Headers], Headers] | None = None


NO_HOOKS = Hooks()


class Executor(Protocol):
    """Calls handlers somewhere else and answers with what became of each message."""

    def start(self, run: Run) -> None:
        """Perform the run's works in order, as soon as somebody is idle."""

    def close(self) -> None:
        """Let idle threads end; what runs is not waited for."""


def executor_for(
    handlers: tuple[Handler, ...],
    concurrency: int,
    answer: Answer,
    down: Down,
    events: EventLoop | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Executor:
    """Coroutines where every handler is one, else threads; coroutines run on `events`.

    Beside `def` handlers, an `async def` one runs on the event loop while a thread waits
    for it: so the threads alone bound how many handlers run at once.
    """
    if handlers and all(handler.is_async for handler in handlers):
        return Coroutines(concurrency, answer, down, events, hooks)
    return Threads(concurrency, answer, down, events, hooks)


class Threads:
    """At most `concurrency` threads, started when there is work for them."""

    def __init__(
        self,
        concurrency: int,
        answer: Answer,
        down: Down,
        events: EventLoop | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._answer = answer
        self._down = down
        self._hooks = hooks
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        self._limit = concurrency
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._loop = events or EventLoop()

    def start(self, run: Run) -> None:
        if not self._idle.acquire(blocking=False) and self._threads < self._limit:
            self._threads += 1
            name = f"kworker-handler-{self._threads}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._runs.put(run)

    def close(self) -> None:
        for _ in range(self._threads):
            self._runs.put(None)
        self._loop.close()

    def _serve(self) -> None:
        while (run := self._runs.get()) is not None:
            # Before the first look at its ledger: whoever withdraws that looks the other way round.
            run.active = True
            run.caller = threading.get_ident()
            told = time.monotonic()
            for result in self._performed(run.works, run):
                run.results.append(result)
                if time.monotonic() - told > HELD:
                    self._answer(Performed(run.take(), run, False))
                    told = time.monotonic()
            self._answer(Performed(run.take(), run, True))
            self._idle.release()

    def _performed(self, works: list[Work], run: Run) -> Iterator[tuple[Work, Outcome]]:
        """Some works of a run, each with what became of it."""
        handler = run.scope.handler
        if handler is not None and handler.batch is not None:
            return self._together(works, run)
        if _is_plain(handler, self._hooks) and not handler.is_async:
            return self._plainly(works, handler, run)
        return ((work, self._perform(work, run)) for work in works)

    def _plainly(
        self, works: list[Work], handler: Handler, run: Run
    ) -> Iterator[tuple[Work, Outcome]]:
        """As `_perform` does it, in a third of the time: nothing is made for a message but its
        value, for most handlers take that alone and nobody stands around them."""
        assert handler.takes_value is not None
        decode, function, parameter = handler.decode, handler.function, handler.takes_value
        outcome: Outcome
        for work in works:
            if (outside := _not_called(work, run, self._down)) is not None:
                yield work, outside
                continue
            record = work.record
            try:
                work.value = value = decode(record.value, record.headers)
            except BaseException as error:  # noqa: BLE001 - validators are the user's code
                yield work, _undecoded(error, run)
                continue
            work.started = begun = time.monotonic()
            try:
                function(**{parameter: value})
                outcome = DONE
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                outcome = failure(error, run)
            work.seconds += time.monotonic() - begun
            work.started = None
            yield work, outcome

    def _together(self, works: list[Work], run: Run) -> Iterator[tuple[Work, Outcome]]:
        """A batch: in one call, and in more where that fails."""
        bisection = Bisection(works)
        while (part := bisection.part()) is not None:
            call, known = several(part, run, self._down, self._hooks)
            yield from known
            if call is None:
                continue
            call.begin()
            try:
                if call.handler.is_async:
                    known = call.outcomes(self._loop.run(call.bounded()))
                else:
                    known = call.outcomes(call.plain())
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                known = bisection.failed(call.works, error, call.done, partial(failure, run=run))
            finally:
                call.end()
            yield from known

    def _perform(self, work: Work, run: Run) -> Outcome:
        outside = _not_called(work, run, self._down)
        if outside is not None:
            return outside
        try:
            call = Call(work, self._hooks)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            return _undecoded(error, run)
        call.begin()
        try:
            if call.handler.is_async:
                return call.ended(self._loop.run(call.bounded()))
            return call.ended(call.plain())
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return failure(error, run)
        finally:
            call.end()


class Coroutines:
    """`concurrency` coroutines on one event loop, in a thread of its own."""

    def __init__(
        self,
        concurrency: int,
        answer: Answer,
        down: Down,
        events: EventLoop | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._answer = answer
        self._down = down
        self._hooks = hooks
        self._limit = concurrency
        self._runs: deque[Run] = deque()
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = events or EventLoop()

    def start(self, run: Run) -> None:
        self._loop.call(self._enter, run)

    def close(self) -> None:
        self._loop.close()

    def _enter(self, run: Run) -> None:
        self._runs.append(run)
        if len(self._serving) < self._limit:
            task = asyncio.get_running_loop().create_task(self._serve())
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self) -> None:
        while self._runs:
            run = self._runs.popleft()
            run.active = True
            run.caller = asyncio.current_task()
            handler = run.scope.handler
            perform = self._plainly if _is_plain(handler, self._hooks) else self._perform
            told = time.monotonic()
            if handler is not None and handler.batch is not None:
                await self._together(run)
                continue
            for work in run.works:
                run.results.append((work, await perform(work, run)))
                if time.monotonic() - told > HELD:
                    self._answer(Performed(run.take(), run, False))
                    told = time.monotonic()
            self._answer(Performed(run.take(), run, True))

    async def _together(self, run: Run) -> None:
        """A batch: in one call, and in more where that fails."""
        bisection = Bisection(run.works)
        while (part := bisection.part()) is not None:
            call, known = several(part, run, self._down, self._hooks)
            run.results.extend(known)
            if call is None:
                continue
            call.begin()
            try:
                known = call.outcomes(await call.bounded())
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                known = bisection.failed(call.works, error, call.done, partial(failure, run=run))
            finally:
                call.end()
            run.results.extend(known)
        self._answer(Performed(run.take(), run, True))

    async def _plainly(self, work: Work, run: Run) -> Outcome:
        """As `_perform` does it, in a third of the time; see `Threads`."""
        if (outside := _not_called(work, run, self._down)) is not None:
            return outside
        record, handler = work.record, run.scope.handler
        assert handler is not None and handler.takes_value is not None
        try:
            work.value = value = handler.decode(record.value, record.headers)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            return _undecoded(error, run)
        work.started = begun = time.monotonic()
        try:
            await handler.function(**{handler.takes_value: value})
            return DONE
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return failure(error, run)
        finally:
            work.seconds += time.monotonic() - begun
            work.started = None

    async def _perform(self, work: Work, run: Run) -> Outcome:
        if (outside := _not_called(work, run, self._down)) is not None:
            return outside
        try:
            call = Call(work, self._hooks)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            return _undecoded(error, run)
        call.begin()
        try:
            return call.ended(await call.bounded())
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return failure(error, run)
        finally:
            call.end()


class Call:
    """One call of a handler: its parameters bound, its time measured and bounded."""

    __slots__ = ("arguments", "context", "handler", "hooks", "message", "work")

    def __init__(self, work: Work, hooks: Hooks) -> None:
        """Raises Undecodable, and Expired for a message that is too old."""
        handler = work.scope.handler
        assert handler is not None
        message = _message(work)
        self.work = work
        self.message = message
        self.hooks = hooks
        self.handler = handler
        self.context: Context | None = None
        if handler.timeout is not None:
            work.timebox = Timebox(handler.timeout)
        if handler.takes_context or handler.publish_to is not None:
            # Made only for those who ask: most do not, and it costs.
            ledger = work.ledger
            self.context = Context(
                message, handler.name, lambda: ledger.ours, work.timebox, hooks.outgoing
            )
        self.arguments = handler.arguments(message, self.context)

    def begin(self) -> None:
        if self.hooks.started is not None:
            self.hooks.started(self.message, self.work.scope.fact)
        self.work.started = time.monotonic()

    def end(self) -> None:
        work = self.work
        assert work.started is not None
        work.seconds += time.monotonic() - work.started
        work.started = None
        work.timebox = None

    def plain(self) -> Any:
        """Call the function, in whatever plugins put around it."""
        if self.hooks.around is None:
            return self.handler.function(**self.filled())
        error: BaseException | None = None
        with ExitStack() as stack:
            for manager in self.around():
                stack.enter_context(manager)
            try:
                return self.handler.function(**self.filled())
            except BaseException as raised:
                error = raised
                raise
        raise error or RuntimeError(SWALLOWED)  # a failure stays one

    async def awaited(self) -> Any:
        """The same for a coroutine function; what stands around it may be plain."""
        if self.hooks.around is None:
            return await self.handler.function(**self.filled())
        error: BaseException | None = None
        async with AsyncExitStack() as stack:
            for manager in self.around():
                if hasattr(manager, "__aenter__"):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            try:
                return await self.handler.function(**self.filled())
            except BaseException as raised:
                error = raised
                raise
        raise error or RuntimeError(SWALLOWED)

    def around(self) -> Iterable[Any]:
        """What plugins put around the call."""
        assert self.hooks.around is not None
        return self.hooks.around(self.message, self.work.scope.fact)

    def filled(self) -> dict[str, Any]:
        """The arguments, with those that plugins provide."""
        for name, make in self.handler.by_plugins:
            self.arguments[name] = make(self.message)
        return self.arguments

    async def bounded(self) -> Any:
        """Await the handler's coroutine, cancelled when its time is over."""
        timebox = self.work.timebox
        if timebox is None or timebox.seconds is None:
            return await self.awaited()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timebox.seconds) as limit:
                timebox.on_restart(lambda seconds: limit.reschedule(loop.time() + seconds))
                return await self.awaited()
        except TimeoutError as error:
            if not limit.expired():
                raise
            told = durations.canonical(timebox.seconds)
            raise HandlerTimeout(f"{self.handler.name} was cancelled after {told}") from error

    def ended(self, result: Any) -> Outcome:
        """What a handler that ended well leaves behind."""
        context = self.context
        if context is None:
            return DONE
        if self.handler.publish_to is not None and result is not None:
            context.publish(self.handler.publish_to, result, key=self.work.record.key)
        outputs = context.outputs
        return Done(outputs) if outputs else DONE


class BatchCall(Call):
    """One call of a handler with several messages; what is told of a call is told of the first."""

    __slots__ = ("messages", "works")

    def __init__(self, works: Sequence[Work], messages: Sequence[AnyMessage], hooks: Hooks) -> None:
        self.works = works
        self.messages = messages
        self.work, self.message = works[0], messages[0]
        self.hooks = hooks
        handler = self.work.scope.handler
        assert handler is not None
        self.handler = handler
        self.context = None
        if handler.timeout is not None:
            self.work.timebox = Timebox(handler.timeout)
        self.arguments = handler.arguments_of(messages)

    def begin(self) -> None:
        if self.hooks.started is not None:
            for work, message in zip(self.works, self.messages, strict=True):
                self.hooks.started(message, work.scope.fact)
        self.work.started = time.monotonic()

    def end(self) -> None:
        assert self.work.started is not None
        share = (time.monotonic() - self.work.started) / len(self.works)
        for work in self.works:
            work.seconds += share
        self.work.started = None
        self.work.timebox = None

    def around(self) -> Iterable[Any]:
        assert self.hooks.around is not None
        for work, message in zip(self.works, self.messages, strict=True):
            yield from self.hooks.around(message, work.scope.fact)

    @property
    def done(self) -> Outcome | None:
        """What a message becomes when the handler names others that failed; None where that is
        known only from what it returns."""
        return DONE if self.handler.publish_to is None else None

    def outcomes(self, result: Any) -> list[tuple[Work, Outcome]]:
        """What a call that ended well leaves behind: to publish, one result for each message.
        Raises TypeError for anything else."""
        topic, works = self.handler.publish_to, self.works
        if topic is None or result is None:
            return [(work, DONE) for work in works]
        if not isinstance(result, Sequence) or len(result) != len(works):
            raise TypeError(
                f"{self.handler.name} gets batches and publishes to {topic}: it returns a list "
                f"with one result for each of its {len(works)} messages, None for nothing"
            )
        known: list[tuple[Work, Outcome]] = []
        for work, message, one in zip(works, self.messages, result, strict=True):
            if one is None:
                known.append((work, DONE))
                continue
            context = Context(message, self.handler.name, lambda: True, None, self.hooks.outgoing)
            context.publish(topic, one, key=work.record.key)
            known.append((work, Done(context.outputs)))
        return known


def several(
    works: Sequence[Work], run: Run, down: Down, hooks: Hooks
) -> tuple[BatchCall | None, list[tuple[Work, Outcome]]]:
    """The call with those that can be handled, None where none can; what became of the rest."""
    known: list[tuple[Work, Outcome]] = []
    able: list[Work] = []
    messages: list[AnyMessage] = []
    for work in works:
        if (outside := _not_called(work, run, down)) is not None:
            known.append((work, outside))
            continue
        try:
            messages.append(_message(work))
            able.append(work)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            known.append((work, _undecoded(error, run)))
    return (BatchCall(able, messages, hooks) if able else None), known


def _message(work: Work) -> AnyMessage:
    """The message as its handler gets it. Raises Undecodable, and Expired for one too old."""
    handler, record = work.scope.handler, work.record
    assert handler is not None
    if handler.expires is not None:
        _refuse_expired(work, handler.expires)
    message = work.message_of(handler.decode(record.value, record.headers), work.calls + 1)
    work.seen_as = message
    return message


def _is_plain(handler: Handler | None, hooks: Hooks) -> TypeGuard[Handler]:
    """Whether a call is the decoded value, the function and nothing else."""
    return (
        handler is not None
        and handler.takes_value is not None
        and hooks == NO_HOOKS
        and handler.timeout is None
        and handler.expires is None
        and handler.publish_to is None
        and not (handler.takes_message or handler.takes_context)
        and not (handler.given or handler.by_plugins)
    )


def _not_called(work: Work, run: Run, down: Down) -> Outcome | None:
    """Why this one is not called now; None where it is."""
    if not work.ledger.starting:
        return Dropped()
    if run.down or (down(work.scope.name) and not run.probe):
        return Postponed()
    return None


def _undecoded(error: BaseException, run: Run) -> Failed:
    """What an exception before the handler's call stands for."""
    run.down = isinstance(error, Outage)
    return Failed(error, called=False)


def failure(error: BaseException, run: Run) -> Outcome:
    """What an exception out of a handler stands for."""
    run.down = isinstance(error, Outage)
    if isinstance(error, Skip):
        return Skipped(words(error) or "skipped by its handler")
    return Failed(error)


def _refuse_expired(work: Work, after: float) -> None:
    if work.sent_at is not None and (age := time.time() - work.sent_at) > after:
        raise Expired(f"sent {age:.0f} s ago, and it expires after {durations.canonical(after)}")


class EventLoop:
    """One asyncio event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_serve, args=(self._loop,), name="kworker-event-loop", daemon=True
                ).start()
            return self._loop

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        self._running().call_soon_threadsafe(function, *arguments)

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine there and wait for it here."""
        return self.submit(coroutine).result()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running())

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped; asyncio lets a task's SystemExit end it."""
    while True:
        try:
            loop.run_forever()
        except BaseException:
            log.exception("an exception came out of the handlers' event loop; it goes on")
        else:
            return
