"""`kworker outbox`: what publishers could not send, and what becomes of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from ..clock import SystemClock
from ..errors import KafkaUnavailable, UsageError
from . import cluster, commands, options, output, shown, tables
from .positions import Moment

if TYPE_CHECKING:
    from ..kafka.api import Receipt, Refusal
    from ..outbox import Parcel
    from ..settings import Configuration
    from ..stores.api import Keeper, Waiting
    from ..stores.tools import Choice, Unsent, View

F = TypeVar("F", bound=Callable[..., Any])

_STATES = ("waiting", "rejected")
_SETTINGS = ("db",)
_QUIET = 5.0  # seconds without an answer after which Kafka is taken to be away
_TURN = 0.05  # seconds


@commands.group()
def command() -> None:
    """What could not be sent to Kafka, and waits in this host's store.

    \b
    kworker outbox list shop.orders:app
    kworker outbox search shop.orders:app customer-7
    kworker outbox show shop.orders:app 17
    kworker outbox retry shop.orders:app --state rejected --execute
    kworker outbox drop --db .kworker/shop.db 17 --execute

    What is `waiting` is sent by itself when Kafka is back: by the process that kept it, or by
    a worker of the group on this host. What is `rejected` waits for you. TARGET may be left
    out where --db, --group or the settings say which store is meant.
    """


def _filtered(function: F) -> F:
    """The options that choose; the function gets `choice`."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        from ..stores.tools import Choice

        key = given.pop("key")
        choice = Choice(
            key=None if key is None else key.encode("utf-8", "surrogateescape"),
            **{name: given.pop(name) for name in ("topic", "state", "since", "until", "limit")},
        )
        return function(choice=choice, **given)

    command: Any = gathered
    for option in reversed(
        (
            click.option("--topic", metavar="NAME", help="Of messages to this topic."),
            click.option("--key", metavar="KEY", help="Of messages with this key."),
            click.option("--state", type=click.Choice(_STATES), help="Of those in this state."),
            click.option("--since", type=Moment(), help="Kept at or after then (ISO, -2h)."),
            click.option("--until", type=Moment(), help="Kept before then (ISO, -2h)."),
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="N", help="The oldest N of them."
            ),
        )
    ):
        command = option(command)
    return command  # type: ignore[no-any-return]


@command.command("list")
@_filtered
@options.as_json
@options.with_app(*_SETTINGS, required=False)
def list_command(given: options.Given, choice: Choice, as_json: bool) -> None:
    """List what waits to be sent, and what Kafka has rejected, oldest first.

    \b
    kworker outbox list shop.orders:app
    kworker outbox list --group shop --state rejected --since -1d
    kworker outbox list --db .kworker/shop.db --json
    """
    with _box(given) as box:
        found = box.view.unsent(choice)
    _tell("outbox.list", found, as_json, f"nothing waits in {box.path}")


@command.command("search")
@_filtered
@options.as_json
@options.with_app(*_SETTINGS, required=False)
@click.argument("words", metavar="WORDS...", nargs=-1)
def search_command(
    given: options.Given, words: tuple[str, ...], choice: Choice, as_json: bool
) -> None:
    """Find messages by words that occur in their value, key, headers or error, all of them.

    \b
    kworker outbox search shop.orders:app customer-7
    kworker outbox search shop.orders:app "too large" --topic orders --json

    Of one word alone it is WORDS, and --db, --group or the settings say which store is meant.
    """
    if not words:
        given, words = _untargeted(given)
    if not words:
        raise UsageError("WORDS are missing: say what to search for")
    with _box(given) as box:
        found = box.view.search(" ".join(words), choice)
    _tell("outbox.search", found, as_json, f"nothing in {box.path} has {' '.join(words)!r}")


@command.command("show")
@options.as_json
@options.with_app(*_SETTINGS, required=False)
@click.argument("id", required=False, metavar="ID")
def show_command(given: options.Given, id: str | None, as_json: bool) -> None:
    """Show one message with its value and headers. ID as `outbox list` shows it, or its
    message id.

    \b
    kworker outbox show shop.orders:app 17
    kworker outbox show --db .kworker/shop.db 17 --json
    """
    if id is None:
        given, (id, *_) = _untargeted(given)
    with _box(given) as box:
        [found] = box.named([id])
    if as_json:
        whole = {
            **_json(found),
            "value": shown.as_json(found.value),
            "headers": [[name, shown.as_json(value)] for name, value in found.headers],
        }
        output.document("outbox.show", message=whole)
    else:
        _show(found)


@command.command("retry")
@click.option("--execute", is_flag=True, help="Send them; without it, only say which.")
@_filtered
@options.with_app("connect_timeout", *_SETTINGS, required=False)
@click.argument("ids", metavar="[ID]...", nargs=-1)
def retry_command(
    given: options.Given, ids: tuple[str, ...], choice: Choice, execute: bool
) -> None:
    """Send messages now: those named, those that pass the filters, or all. Each goes out under
    its own id, those of one key in their order.

    \b
    kworker outbox retry shop.orders:app --execute
    kworker outbox retry shop.orders:app 17 18 --execute
    kworker outbox retry --db .kworker/shop.db --topic orders --state rejected --execute

    One that is interrupted leaves the rest where it is. Exit codes: 0 all are sent, 1 Kafka
    rejects some, 4 it cannot be reached or takes no more.
    """
    given, ids = _ids_of(given, ids)
    with _box(given) as box:
        chosen = box.chosen(ids, choice)
        if not execute:
            _would(chosen, "be sent")
            return
        if chosen:
            _send(box, chosen)
        else:
            output.data("0 messages sent")


@command.command("drop")
@click.option("--execute", is_flag=True, help="Drop them; without it, only say which.")
@_filtered
@options.with_app(*_SETTINGS, required=False)
@click.argument("ids", metavar="[ID]...", nargs=-1)
def drop_command(given: options.Given, ids: tuple[str, ...], choice: Choice, execute: bool) -> None:
    """Forget messages for good: those named, those that pass the filters, or all.

    \b
    kworker outbox drop shop.orders:app 17 --execute
    kworker outbox drop shop.orders:app --state rejected --until -7d --execute

    What a process has on its way to Kafka at this moment is left alone.
    """
    given, ids = _ids_of(given, ids)
    with _box(given) as box:
        chosen = box.chosen(ids, choice)
        if not execute:
            _would(chosen, "be dropped, for good")
            return
        with box.opened() as keeper, tables.progress("dropping") as progress:
            taken = keeper.take([one.id for one in chosen], in_order=False)
            for done, numbers in _batches(taken):
                keeper.posted(numbers, {}, patience=10.0)
                progress(done, len(taken))
    output.data(f"dropped {_messages(len(taken))}")
    _left_alone(len(chosen) - len(taken))


class _Box:
    """The outbox that is meant."""

    def __init__(self, path: Path, view: View, configuration: Configuration) -> None:
        self.path = path
        self.view = view
        self.configuration = configuration

    def named(self, ids: Sequence[str]) -> list[Unsent]:
        """Those of these ids. Raises UsageError for one that is not there."""
        found = []
        for id in ids:
            one = self.view.unsent_named(id)
            if not one:
                raise UsageError(
                    f"no message {id!r} in {self.path}: it was sent or dropped meanwhile, or "
                    "`kworker outbox list` shows it otherwise"
                )
            found += one
        return sorted({one.id: one for one in found}.values(), key=lambda one: one.id)

    def chosen(self, ids: Sequence[str], choice: Choice) -> list[Unsent]:
        if ids and choice.given:
            raise UsageError("give either ids or filters: together they say two things")
        return self.named(ids) if ids else self.view.unsent(choice)

    @contextmanager
    def opened(self) -> Iterator[Keeper]:
        from ..stores import open_keeper

        view = self.view
        keeper = open_keeper(self.path, group=view.group, cluster=view.cluster or None)
        with closing(keeper):
            yield keeper


@contextmanager
def _box(given: options.Given) -> Iterator[_Box]:
    with cluster.view(given) as (path, view, configuration):
        yield _Box(path, view, configuration)


def _untargeted(given: options.Given) -> tuple[options.Given, tuple[str, ...]]:
    """TARGET may be left out, so of one word it is the other one that was meant."""
    if given.target is None:
        raise UsageError("ID is missing: say which message, as `kworker outbox list` shows it")
    return replace(given, target=None), (given.target,)


def _ids_of(given: options.Given, ids: tuple[str, ...]) -> tuple[options.Given, tuple[str, ...]]:
    """The ids that were typed; the first of them where TARGET would be, if it was left out."""
    if given.target is None or not _is_id(given.target):
        return given, ids
    return replace(given, target=None), (given.target, *ids)


def _is_id(word: str) -> bool:
    try:
        return word.isdigit() or bool(UUID(word))
    except ValueError:
        return False


# --- sending -------------------------------------------------------------------------------


class _Chosen:
    """Of an outbox those that were chosen, a few at a time."""

    def __init__(self, keeper: Keeper, numbers: Sequence[int]) -> None:
        self._keeper = keeper
        self._left = list(numbers)

    def claim(self, limit: int) -> list[Waiting] | None:
        some, self._left = self._left[:limit], self._left[limit:]
        return self._keeper.read(some)

    def posted(
        self, sent: Sequence[int], rejected: Mapping[int, str], *, patience: float = 0.0
    ) -> bool:
        return self._keeper.posted(sent, rejected, patience=patience)


def _send(box: _Box, chosen: Sequence[Unsent]) -> None:
    """Send these, and say what became of them."""
    from queue import Empty, SimpleQueue

    from .. import plugins
    from ..outbox import Courier

    kafka = cluster.connect(box.configuration)
    answers: SimpleQueue[tuple[Parcel, Receipt | Refusal]] = SimpleQueue()
    rejected: list[str] = []
    with box.opened() as keeper, tables.progress("sending") as progress:
        keeper.bind(kafka.admin().cluster_id())
        taken = keeper.take([one.id for one in chosen])
        producer = kafka.producer(delivery_timeout=None)

        def offer(parcel: Parcel) -> bool:
            return producer.offer(
                parcel.topic, parcel.key, parcel.value, parcel.headers,
                lambda answer: answers.put((parcel, answer)),
            )  # fmt: skip

        courier = Courier(
            _Chosen(keeper, taken), offer, clock=SystemClock(),
            tell=plugins.Plugins(plugins.installed()).tell,
        )  # fmt: skip
        done, moved = 0, time.monotonic()
        try:
            while courier.pending and time.monotonic() - moved < _QUIET:
                courier.turn(_TURN)
                try:
                    parcel, answer = answers.get(timeout=_TURN)
                except Empty:
                    continue
                while True:
                    courier.answered(parcel, answer)
                    done, moved = done + 1, time.monotonic()
                    if not hasattr(answer, "offset"):
                        rejected.append(answer.text)
                    if answers.empty():
                        break
                    parcel, answer = answers.get()
                progress(done, len(taken))
            why = producer.last_words
        finally:
            producer.close(0.0)
            courier.post(_TURN)
    output.data(f"sent {_messages(done - len(rejected))}")
    _left_alone(len(chosen) - len(taken))
    if done < len(taken):
        raise KafkaUnavailable(
            f"Kafka has not acknowledged {_messages(len(taken) - done)} within {_QUIET:g} s"
            f"{f': {why}' if why else ''}; they stay in {box.path}"
        )
    if rejected:
        output.note(f"{_messages(len(rejected))} rejected, the first: {rejected[0]}")
        click.get_current_context().exit(1)


def _left_alone(count: int) -> None:
    if count:
        output.note(
            f"{_messages(count)} left alone: another process has them, or an earlier one of "
            "their key, on the way"
        )


def _batches(numbers: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    for start in range(0, len(numbers), 1000):
        some = numbers[start : start + 1000]
        yield start + len(some), some


# --- telling -------------------------------------------------------------------------------


def _tell(schema: str, found: Sequence[Unsent], as_json: bool, nothing: str) -> None:
    if as_json:
        output.document(schema, messages=[_json(one) for one in found])
    elif found:
        _table(found)
    else:
        output.note(nothing)


def _json(one: Unsent) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "message_id": one.message_id,
        "topic": one.topic,
        "key": shown.as_json(one.key),
        "state": one.state,
        "error": one.error,
        "attempts": one.attempts,
        "created_at": one.created_at,
    }


def _table(found: Sequence[Unsent]) -> None:
    tables.table(
        ("ID", "STATE", "TOPIC", "KEY", "ATTEMPTS", "CREATED AT", "ERROR"),
        [
            (
                str(one.id),
                one.state,
                one.topic,
                shown.short(shown.as_text(one.key)),
                str(one.attempts),
                one.created_at,
                shown.short(one.error or "-"),
            )
            for one in found
        ],
    )


def _show(one: Unsent) -> None:
    lines = [
        ("id", str(one.id)),
        ("message id", one.message_id),
        ("topic", one.topic),
        ("key", shown.as_text(one.key)),
        ("state", one.state),
        ("error", one.error or "-"),
        ("attempts", str(one.attempts)),
        ("created at", one.created_at),
        *((f"header {name}", shown.as_text(value)) for name, value in one.headers),
        ("value", shown.as_text(one.value)),
    ]
    tables.table(("WHAT", "IS"), lines)


def _would(chosen: Sequence[Unsent], what: str) -> None:
    if chosen:
        _table(chosen)
    hint = "; add --execute to do it" if chosen else ""
    output.data(f"{_messages(len(chosen))} would {what}{hint}")


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
