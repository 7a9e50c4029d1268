"""Where handlers are: the stacks of threads, and of coroutines that wait."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import Any


def of_thread(thread: int) -> str:
    """The stack of a thread by its identifier, as Python's tracebacks look; "" if it is gone."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def of_task(task: asyncio.Task[Any]) -> str:
    """Where a task waits, through everything that it awaits. (`Task.get_stack` ends at the
    first coroutine.)"""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        lines += traceback.format_list(
            [traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)]
        )
        awaited = awaited.cr_await
    return "".join(lines)


def of(caller: int | asyncio.Task[Any] | None) -> str:
    """The stack of a thread, by its identifier, or of a task."""
    if caller is None:
        return ""
    return of_thread(caller) if isinstance(caller, int) else of_task(caller)
