"""What an app provides: made before the first message, closed after the last."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from .. import source
from ..errors import ProviderError
from ..handlers import finds
from ..resources import Provider

log = logging.getLogger("kworker.runtime")

RunAsync = Callable[[Coroutine[Any, Any, Any]], "Future[Any]"]


class Resources:
    """What an app's providers made, from `open` to `close`.

    Providers run in one thread of their own, from beginning to end; those that are async run
    on the handlers' event loop, each in one task.
    """

    def __init__(self, providers: Sequence[Provider], run_async: RunAsync) -> None:
        self._providers = providers
        self._run_async = run_async
        self._values: list[tuple[Any, Any]] = []
        self._endings: list[tuple[Provider, Callable[[], None]]] = []
        self._opened: SimpleQueue[BaseException | None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> Sequence[tuple[Any, Any]]:
        """Make everything, in order; the values by key. Raises ProviderError for one that
        raises, when what was made before it is closed."""
        if self._providers:
            self._thread = threading.Thread(
                target=self._live, name="kworker-resources", daemon=True
            )
            self._thread.start()
            error = self._opened.get()
            if error is not None:
                raise error
        return self._values

    def close(self, within: float) -> None:
        """Run what follows each `yield`, the last made first, for so many seconds at most.
        Safe to call twice."""
        self._closing.set()
        if self._thread is None:
            return
        self._thread.join(max(0.0, within))
        if self._thread.is_alive() and self._endings:
            provider, _ = self._endings[-1]
            log.error(
                "%s: provider %s did not end in time; what was made before it is not closed",
                provider.where, provider.name,
            )  # fmt: skip
        self._thread = None

    def _live(self) -> None:
        error: BaseException | None = None
        for provider in self._providers:
            try:
                self._values.append((provider.key, self._make(provider)))
            except BaseException as raised:  # noqa: BLE001 - a provider is the user's code
                words = " ".join(str(raised).split())
                error = ProviderError(
                    f"{source.where_raised(raised) or provider.where}: provider {provider.name} "
                    f"raised {type(raised).__name__}{f': {words}' if words else ''}; "
                    "nothing was handled"
                )
                error.__cause__ = raised
                break
        if error is None:
            self._opened.put(None)
            self._closing.wait()
        while self._endings:
            provider, end = self._endings[-1]
            try:
                end()
            except BaseException:
                log.exception("%s: provider %s raised at its end", provider.where, provider.name)
            self._endings.pop()
        if error is not None:
            self._opened.put(error)

    def _make(self, provider: Provider) -> Any:
        arguments = {name: finds(key, self._values) for name, key in provider.wants.items()}
        if not provider.is_generator:
            made = provider.function(**arguments)
            return self._run_async(made).result() if provider.is_async else made
        if provider.is_async:
            return self._make_async(provider, provider.function(**arguments))
        generator = provider.function(**arguments)
        value = next(generator, _NOTHING)
        if value is _NOTHING:
            raise RuntimeError(_NEVER)
        self._endings.append((provider, lambda: _end(generator)))
        return value

    def _make_async(self, provider: Provider, generator: AsyncGenerator[Any, None]) -> Any:
        made: Future[tuple[Any, Callable[[], None]]] = Future()
        life = self._run_async(_live(generator, made))
        value, let_go = made.result()

        def end() -> None:
            let_go()
            life.result()

        self._endings.append((provider, end))
        return value


_NOTHING = object()  # what a generator gives that does not yield


def _end(generator: Any) -> None:
    if next(generator, _NOTHING) is not _NOTHING:
        generator.close()
        raise RuntimeError(_TWICE)


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)


async def _live(
    generator: AsyncGenerator[Any, None], made: Future[tuple[Any, Callable[[], None]]]
) -> None:
    """All of a generator's life in one task: what it enters and leaves may insist on that."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    try:
        value = await anext(generator, _NOTHING)
        if value is _NOTHING:
            raise RuntimeError(_NEVER)
    except BaseException as error:  # noqa: BLE001 - a provider is the user's code
        made.set_exception(error)
        return
    made.set_result((value, lambda: _wake(loop, over)))
    await over.wait()
    if await anext(generator, _NOTHING) is not _NOTHING:
        await generator.aclose()
        raise RuntimeError(_TWICE)


_NEVER = "it yielded nothing"
_TWICE = "it yielded twice; a provider yields once"
