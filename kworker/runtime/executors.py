"""Inline loops of threads or coroutines behind one face; exceptions become outcomes here."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from ..context import Context
from ..handlers import Handler
from ..outcome import Done, Dropped, Failed, Outcome, Skip, Skipped
from .lanes import Run
from .settle import words
from .work import Work

log = logging.getLogger("kworker.runtime")

HELD = 0.002  # seconds that results are held back so that others travel with them


class Performed(NamedTuple):
    """Results on their way back to the loop; `run` is set when that run is over."""

    results: list[tuple[Work, Outcome]]
    run: Run | None


Answer = Callable[[Performed], None]


class Executor(Protocol):
    """Calls handlers somewhere else and answers with what became of each message."""

    def start(self, run: Run) -> None:
        """Perform the run's works in order, as soon as somebody is idle."""

    def close(self) -> None:
        """Let idle threads end; what runs is not waited for."""


def executor_for(handlers: tuple[Handler, ...], concurrency: int, answer: Answer) -> Executor:
    """Coroutines where every handler is one, else threads.

    Beside `def` handlers, an `async def` one runs on the event loop while a thread waits
    for it: so the threads alone bound how many handlers run at once.
    """
    if handlers and all(handler.is_async for handler in handlers):
        return Coroutines(concurrency, answer)
    return Threads(concurrency, answer)


def prepare(work: Work) -> tuple[Context | None, dict[str, Any]]:
    """Decode a work's message and bind its handler's parameters. Raises Undecodable.

    The context is made only for a handler that asks for it.
    """
    handler, record = work.scope.handler, work.record
    assert handler is not None
    message = work.message_of(handler.decode(record.value, record.headers), work.calls + 1)
    work.seen_as = message
    if not handler.takes_context:
        return None, handler.arguments(message, None)
    context = Context(message, handler.name, lambda: work.ledger.ours)
    return context, handler.arguments(message, context)


DONE = Done()


def done(context: Context | None) -> Done:
    """What a handler that ended well leaves to be published."""
    outputs = context.outputs if context is not None else ()
    return Done(outputs) if outputs else DONE


def failure(error: BaseException) -> Outcome:
    """What an exception out of a handler stands for."""
    if isinstance(error, Skip):
        return Skipped(words(error) or "skipped by its handler")
    return Failed(error)


class Threads:
    """At most `concurrency` threads, started when there is work for them."""

    def __init__(self, concurrency: int, answer: Answer) -> None:
        self._answer = answer
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        self._limit = concurrency
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._loop = _EventLoop()

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
            told = time.monotonic()
            for work in run.works:
                run.results.append((work, self._perform(work)))
                if time.monotonic() - told > HELD:
                    self._answer(Performed(run.take(), None))
                    told = time.monotonic()
            self._answer(Performed(run.take(), run))
            self._idle.release()

    def _perform(self, work: Work) -> Outcome:
        if not work.ledger.starting:
            return Dropped()
        handler = work.scope.handler
        assert handler is not None
        try:
            context, arguments = prepare(work)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            return Failed(error, called=False)
        work.started = time.monotonic()
        try:
            if handler.is_async:
                self._loop.run(handler.function(**arguments))
            else:
                handler.function(**arguments)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return failure(error)
        finally:
            work.seconds += time.monotonic() - work.started
            work.started = None
        return done(context)


class Coroutines:
    """`concurrency` coroutines on one event loop, in a thread of its own."""

    def __init__(self, concurrency: int, answer: Answer) -> None:
        self._answer = answer
        self._limit = concurrency
        self._runs: deque[Run] = deque()
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = _EventLoop()

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
            results: list[tuple[Work, Outcome]] = []
            for work in run.works:
                if results:
                    # What is finished does not wait for a handler that may take long.
                    self._answer(Performed(results, None))
                results = [(work, await self._perform(work))]
            self._answer(Performed(results, run))

    async def _perform(self, work: Work) -> Outcome:
        if not work.ledger.starting:
            return Dropped()
        handler = work.scope.handler
        assert handler is not None
        try:
            context, arguments = prepare(work)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            return Failed(error, called=False)
        work.started = time.monotonic()
        try:
            await handler.function(**arguments)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            return failure(error)
        finally:
            work.seconds += time.monotonic() - work.started
            work.started = None
        return done(context)


class _EventLoop:
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
        return asyncio.run_coroutine_threadsafe(coroutine, self._running()).result()

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
