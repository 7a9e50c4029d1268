"""Where kworker can be extended, on one page.

**Observers** are told facts in the order of life and can do no harm: one that raises is
logged and the rest are told. They run on the worker's loop, so they must be quick; only
`message_started` is told where the handler is called.
**Providers** answer a question. They are asked when a worker or a command starts, unless they
say otherwise; None means "not mine", and the first other answer holds. One that raises is refused
by its name.
**Wrappers** stand around a handler's call, in its thread or task.

Asked and told are kworker's own plugins first, then those of `App(plugins=[…])` as they
stand there, then installed ones by name. An implementation may take any of a hook's
parameters and leave out the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from .facts import HandlerInfo, Snapshot, WorkerInfo
from .message import AnyMessage, Headers, Partition
from .outcome import Outcome

if TYPE_CHECKING:
    import click

    from .stores.api import Store

hookspec = pluggy.HookspecMarker("kworker")
hookimpl = pluggy.HookimplMarker("kworker")

F = TypeVar("F", bound=Callable[..., Any])

KINDS: dict[str, str] = {}
"""Every hook of this page, in its order, and of which kind it is."""


def _observer(function: F) -> F:
    KINDS[function.__name__] = "observer"
    return hookspec(function)


def _provider(function: F) -> F:
    KINDS[function.__name__] = "provider"
    return hookspec(function)


def _wrapper(function: F) -> F:
    KINDS[function.__name__] = "wrapper"
    return hookspec(function)


# --- observers -----------------------------------------------------------------------------


@_observer
def worker_started(worker: WorkerInfo) -> None:
    """The worker has found its topics, opened its store and joins its group."""


@_observer
def worker_beat(snapshot: Snapshot) -> None:
    """Once a second while the worker runs: how it stands, and how far it is behind."""


@_observer
def worker_stopping(worker: WorkerInfo) -> None:
    """The worker was told to stop, or fails: it takes nothing more, and lets what runs end."""


@_observer
def worker_stopped(worker: WorkerInfo) -> None:
    """The worker takes part in its group no longer: what a plugin holds is to be let go. Told
    last, but not by a process that is killed or told to end at once.
    """


@_observer
def partitions_assigned(partitions: Sequence[Partition]) -> None:
    """These partitions are this worker's now."""


@_observer
def partitions_revoked(partitions: Sequence[Partition], lost: bool) -> None:
    """These partitions have gone to another worker; `lost`: before this one could finish."""


@_observer
def message_started(message: AnyMessage, handler: HandlerInfo) -> None:
    """A handler is about to be called with the message, for the `message.attempt`-th time.

    Told in the thread that calls it, or on the event loop: several at once, and each holds
    up the call that it is told of.
    """


@_observer
def message_settled(
    message: AnyMessage, handler: HandlerInfo, outcome: Outcome, seconds: float
) -> None:
    """A handler has ended well, or skipped, and it is recorded; `seconds` it ran."""


@_observer
def message_retrying(
    message: AnyMessage, handler: HandlerInfo, error: BaseException, attempt: int, delay: float
) -> None:
    """Call number `attempt` failed; the next comes in `delay` seconds."""


@_observer
def message_dead_lettered(
    message: AnyMessage, handler: HandlerInfo, disposition: str, error: BaseException | None
) -> None:
    """The dead-letter topic has acknowledged the message."""


@_observer
def message_skipped(message: AnyMessage, handler: HandlerInfo, reason: str) -> None:
    """A message was not handed to its handler, since it was done before (`duplicate`); or its
    handler skipped it, for that reason."""


@_observer
def outage_started(handler: HandlerInfo, reason: str) -> None:
    """What the handler needs is down; its messages wait, and one at a time is tried."""


@_observer
def outage_ended(handler: HandlerInfo) -> None:
    """One that was tried did not end in an outage; the others follow."""


@_observer
def position_lost(partition: Partition, expected: int, found: int, missing: int | None) -> None:
    """The next message to read is gone; reading goes on at `found`. None: nobody can count."""


@_observer
def partition_stuck(partition: Partition, reason: str) -> None:
    """A partition waits, and its commit stands still, until `reason` is mended.

    It may be told again while it lasts; when it is over, `stuck` of the next snapshot says so.
    """


@_observer
def offsets_committed(offsets: Mapping[Partition, int]) -> None:
    """Kafka has stored these positions of the group."""


@_observer
def publish_failed(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    error: Exception,
    kept: bool,
) -> None:
    """A message was not acknowledged; `kept`: it is in the outbox.

    There it waits to be sent again, or, where `error` is a PublishRejected, for a person. Told
    once a message, by publishers in a thread of theirs, by workers of what they find in their
    group's outbox.
    """


@_observer
def publish_resumed(topic: str, count: int) -> None:
    """So many messages of the topic that had been kept are acknowledged now."""


# --- providers -----------------------------------------------------------------------------


@_provider
def provide_codec(annotation: Any) -> Callable[[bytes, Headers], Any] | None:
    """What decodes the payloads of that annotation: a function of a message's bytes and
    headers, called in the handler's thread.

    Asked before the codecs of kworker, for every annotation of a payload (of `Order | None`
    for `Order`: a tombstone is no codec's business), so it answers only for what is its own.
    What the function raises dead-letters the message as undecodable; only an `Outage` lets
    it wait.
    """


@_provider
def provide_value(annotation: Any) -> Callable[[AnyMessage], Any] | None:
    """What fills a handler's parameters of that annotation: a function of the message.

    It is called before each call of the handler, where the handler is; what it raises counts
    as the handler's failure. A parameter that is filled so is never the payload, and none is
    asked about that the app fills itself, by `@app.provide`.
    """


@_provider
def provide_store(url: str, group: str, cluster: str) -> Store | None:
    """The store at `scheme://…`, as given by `--db`, opened for this group and cluster.

    Called on the worker's loop, to which the store belongs from then on.
    """


@_provider
def outgoing_headers(topic: str, id: str, headers: Headers) -> Headers | None:
    """What is to stand in a message that is published, beside the headers its sender gave.

    Asked for each message, where it is published: in the handler's thread or task, so that the
    context there can travel along. The answers of all plugins are added. One that raises is
    told like an observer that does, and the message goes without.
    """


@_provider
def provide_metrics(workers: Mapping[int, bytes] | None) -> tuple[str, bytes] | None:
    """What `/metrics` answers: its content type and its bytes. Asked each time, in a thread of
    the server's; see `--health`.

    `workers` is None in a worker. In the parent of `--workers` it is what each of them
    answered, by its number, to be made one page of.
    """


@_provider
def register_commands(cli: click.Group) -> None:
    """Add commands to `kworker`: `cli.add_command(…)`. Every installed plugin is asked.

    A command that has the name of one of kworker's is left out, and that is told.
    """


# --- wrappers ------------------------------------------------------------------------------


@_wrapper
def around_handler(
    message: AnyMessage, handler: HandlerInfo
) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any] | None:
    """A context manager to be entered around one call of a handler; None for none.

    The call of an `async def` takes an asynchronous one as well as a plain one, that of a
    `def` a plain one alone. Several nest, the first outermost. What it raises counts as the
    handler's failure; it cannot turn a failure into a success: what it swallows counts too.
    """
