"""`kworker dlq`: the dead letters of an app's group, and what becomes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import headers as names
from ..clock import SystemClock
from ..errors import KworkerError, UsageError
from ..observe.log import printable
from . import cluster, commands, options, output, shown, tables
from .positions import Moment, Rate

if TYPE_CHECKING:
    from ..deadletter import DeadLetter, Result
    from ..kafka import Kafka
    from ..message import Record
    from ..topics import GroupTopics

F = TypeVar("F", bound=Callable[..., Any])

_FOUND = 10
_SETTINGS = ("connect_timeout", *cluster.TEMPLATES)


@commands.group()
def command() -> None:
    """The messages that an app's handlers have given up.

    \b
    kworker dlq list shop.orders:app
    kworker dlq groups shop.orders:app
    kworker dlq show shop.orders:app shop.dlq/0/17
    kworker dlq replay shop.orders:app --error Timeout --execute
    kworker dlq discard shop.orders:app shop.dlq/0/17 --execute
    kworker dlq export shop.orders:app --file dead-letters.ndjson
    """


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which dead letters are meant, as typed."""

    handler: str | None
    error: str | None
    fingerprint: str | None
    key: str | None
    header: tuple[str, ...]
    text: str | None
    since: float | None
    until: float | None
    limit: int | None

    def choose(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those that pass, the oldest of them up to the limit."""
        return [one for one in letters if self.passes(one)][: self.limit]

    def given(self) -> bool:
        return self != _Filter(None, None, None, None, (), None, None, None, None)

    def wants(self, record: Record) -> bool:
        """Whether a record passes by what stands in it: its headers and its value."""
        return all(_holds(record, one) for one in self.header) and (
            self.text is None
            or self.text.encode("utf-8", "surrogateescape") in (record.value or b"")
        )

    def passes(self, letter: DeadLetter) -> bool:
        return (
            (self.handler is None or letter.handler == self.handler)
            and (self.error is None or self.error.casefold() in _error(letter).casefold())
            and (
                self.fingerprint is None or (letter.fingerprint or "").startswith(self.fingerprint)
            )
            and (self.key is None or letter.key == self.key.encode("utf-8", "surrogateescape"))
            and (self.since is None or (letter.timestamp or 0.0) >= self.since)
            and (self.until is None or (letter.timestamp or 0.0) < self.until)
        )


def _holds(record: Record, header: str) -> bool:
    """Whether it has that header: NAME=VALUE, or NAME alone for any value."""
    name, equals, value = header.partition("=")
    wanted = value.encode("utf-8", "surrogateescape")
    return any(one == name and (not equals or found == wanted) for one, found in record.headers)


def _filtered(function: F) -> F:
    """The options that choose; the function gets `wanted`."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        wanted = _Filter(**{name: given.pop(name) for name in _Filter.__slots__})
        return function(wanted=wanted, **given)

    command: Any = gathered
    for option in reversed(
        (
            click.option("--handler", metavar="NAME", help="Of this handler."),
            click.option("--error", metavar="TEXT", help="With this in the error's type or text."),
            click.option("--fingerprint", metavar="HASH", help="Whose fingerprint begins so."),
            click.option("--key", metavar="KEY", help="Of messages with this key."),
            click.option(
                "--header",
                multiple=True,
                metavar="NAME[=VALUE]",
                help="With this header, ours or the producer's. Repeatable.",
            ),
            click.option("--text", metavar="TEXT", help="With this text in the value."),
            click.option("--since", type=Moment(), help="Given up at or after then (ISO, -2h)."),
            click.option("--until", type=Moment(), help="Given up before then (ISO, -2h)."),
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="N", help="The oldest N of them."
            ),
        )
    ):
        command = option(command)
    return command  # type: ignore[no-any-return]


class _Room:
    """The dead-letter topic of one app's group."""

    def __init__(self, given: options.Given) -> None:
        app, configuration = given.load()
        self.topics: GroupTopics = cluster.topics_of(app, configuration)
        self.kafka: Kafka = cluster.connect(configuration)

    def letters(self, wanted: _Filter | None = None) -> list[DeadLetter]:
        """All dead letters, without those whose records do not pass; the filter's other
        questions are asked by `choose`."""
        from .. import deadletter

        with tables.progress(f"reading {self.topics.dlq}") as progress:
            if wanted is None:
                return deadletter.read(self.kafka, self.topics, progress)
            return deadletter.read(self.kafka, self.topics, progress, wanted.wants)

    def find(self, letters: Sequence[DeadLetter], id: str) -> DeadLetter:
        from .. import deadletter

        found = deadletter.find(letters, id)
        if found is None:
            raise UsageError(
                f"no dead letter {id!r} in {self.topics.dlq!r}; `kworker dlq list TARGET --all` "
                "shows the ids there are"
            )
        return found

    def named(self, ids: Sequence[str], wanted: _Filter) -> list[DeadLetter]:
        """What something may be done about: those named, else all that say whose they are;
        of these the open ones. What is left alone is told."""
        letters = self.letters(wanted)
        named = [self.find(letters, id) for id in ids]
        for one in named:
            if one.state != "open":
                output.note(f"{one.position} was {one.state} before and is left alone")
        if not ids:
            named = [one for one in letters if one.mark is not None]
            if foreign := len(letters) - len(named):
                output.note(f"{foreign} records do not say whose dead letters they are: left alone")
        return list({one.position: one for one in named if one.state == "open"}.values())


def _one_way(ids: tuple[str, ...], wanted: _Filter) -> None:
    if ids and wanted.given():
        raise UsageError("give either ids or filters: together they say two things")


@command.command("list")
@_filtered
@click.option("--all", "everything", is_flag=True, help="Also what was replayed or discarded.")
@click.option("--fail-if-any", is_flag=True, help="Exit with 10 when there are any.")
@options.as_json
@options.with_app(*_SETTINGS)
def list_command(
    given: options.Given, wanted: _Filter, everything: bool, fail_if_any: bool, as_json: bool
) -> None:
    """List the dead letters that were neither replayed nor discarded, oldest first.

    \b
    kworker dlq list shop.orders:app
    kworker dlq list shop.orders:app --error Timeout --since -2h
    kworker dlq list shop.orders:app --header source=shell --text '"id": 17'
    kworker dlq list shop.orders:app --fail-if-any --json

    Exit codes: 0, 3 the topic is missing, 4 Kafka unreachable, 10 --fail-if-any found some.
    """
    room = _Room(given)
    letters = [one for one in room.letters(wanted) if everything or one.state == "open"]
    letters = wanted.choose(letters)
    if as_json:
        output.document("dlq.list", messages=[_json(one) for one in letters])
    elif letters:
        _table(letters, everything)
    else:
        output.note(f"no dead letters in {room.topics.dlq}{' that match' * wanted.given()}")
    if letters and fail_if_any:
        click.get_current_context().exit(_FOUND)


@command.command("groups")
@_filtered
@options.as_json
@options.with_app(*_SETTINGS)
def groups_command(given: options.Given, wanted: _Filter, as_json: bool) -> None:
    """Count the dead letters by what failed: handler, kind of error and place in the code.

    \b
    kworker dlq groups shop.orders:app
    kworker dlq groups shop.orders:app --since -1d --json
    """
    from .. import deadletter

    room = _Room(given)
    letters = wanted.choose([one for one in room.letters(wanted) if one.state == "open"])
    groups = deadletter.groups(letters)
    if as_json:
        output.document(
            "dlq.groups",
            groups=[
                {
                    "fingerprint": one.fingerprint,
                    "error_type": one.error_type,
                    "handler": one.handler,
                    "count": one.count,
                    "first": shown.iso(one.first),
                    "last": shown.iso(one.last),
                }
                for one in groups
            ],
        )
    elif groups:
        tables.table(
            ("FINGERPRINT", "COUNT", "FIRST", "LAST", "HANDLER", "ERROR"),
            [
                (
                    one.fingerprint or "-",
                    str(one.count),
                    shown.time(one.first),
                    shown.time(one.last),
                    one.handler or "-",
                    one.error_type or "-",
                )
                for one in groups
            ],
        )
    else:
        output.note(f"no dead letters in {room.topics.dlq}{' that match' * wanted.given()}")


@command.command("show")
@options.with_app(*_SETTINGS)
@click.argument("id", metavar="ID")
@options.as_json
def show_command(given: options.Given, id: str, as_json: bool) -> None:
    """Show one dead letter with its value, headers and stack trace. ID as `dlq list` shows it.

    \b
    kworker dlq show shop.orders:app shop.dlq/0/17
    kworker dlq show shop.orders:app shop.dlq/0/17 --json
    """
    from .. import deadletter

    room = _Room(given)
    letter = room.find(room.letters(), id)
    record = deadletter.record_of(room.kafka, letter)
    if record is None:
        raise UsageError(f"the dead letter {id!r} no longer exists: its topic has let it go")
    known = names.reserved(record.headers)
    if as_json:
        output.document(
            "dlq.show",
            message=_whole(letter, record),
        )
    else:
        _show(letter, record, known)


@command.command("replay")
@click.option("--execute", is_flag=True, help="Replay them; without it, only say which.")
@click.option("--rate", type=Rate(), metavar="RATE", help="At most so many, as 100/s or 30/m.")
@click.option(
    "--max-replays",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Leave alone what was replayed N times before.",
)
@_filtered
@options.with_app(*_SETTINGS)
@click.argument("ids", metavar="[ID]...", nargs=-1)
def replay_command(
    given: options.Given,
    ids: tuple[str, ...],
    wanted: _Filter,
    execute: bool,
    rate: float | None,
    max_replays: int,
) -> None:
    """Have dead letters handled once more: those named, those that pass the filters, or all
    that were neither replayed nor discarded.

    \b
    kworker dlq replay shop.orders:app shop.dlq/0/17 --execute
    kworker dlq replay shop.orders:app --handler shop.orders.charge --rate 100/s --execute

    A replay is recorded in the dead-letter topic, so one that was interrupted goes on with
    the rest. Exit codes: 0 done, 1 some cannot be replayed, 4 Kafka takes no more.
    """
    from .. import deadletter

    _one_way(ids, wanted)
    room = _Room(given)
    named = room.named(ids, wanted)
    if tired := sum(one.replays >= max_replays and wanted.passes(one) for one in named):
        often = f"{max_replays} time{'' if max_replays == 1 else 's'}"
        output.note(f"{_count(tired)} left alone: replayed {often} before (--max-replays)")
    chosen = wanted.choose([one for one in named if one.replays < max_replays])
    if not execute:
        _would(chosen, f"be replayed to {room.topics.replay}")
        return
    with tables.progress(f"replaying to {room.topics.replay}") as progress:
        result = deadletter.replay(
            room.kafka, room.topics, chosen, SystemClock(), progress, rate=rate
        )
    _did(result, chosen, "replayed", f" to {room.topics.replay}")


@command.command("discard")
@click.option("--execute", is_flag=True, help="Discard them; without it, only say which.")
@_filtered
@options.with_app(*_SETTINGS)
@click.argument("ids", metavar="[ID]...", nargs=-1)
def discard_command(
    given: options.Given, ids: tuple[str, ...], wanted: _Filter, execute: bool
) -> None:
    """Say that nobody needs these dead letters any more: those named, those that pass the
    filters, or all that were neither replayed nor discarded.

    \b
    kworker dlq discard shop.orders:app shop.dlq/0/17 --execute
    kworker dlq discard shop.orders:app --until -30d --execute

    They stay in the dead-letter topic, with a record beside them that says so, and are
    listed with --all. Exit codes: 0 done, 1 some cannot be discarded, 4 Kafka takes no more.
    """
    from .. import deadletter

    _one_way(ids, wanted)
    room = _Room(given)
    chosen = wanted.choose(room.named(ids, wanted))
    if not execute:
        _would(chosen, "be discarded")
        return
    with tables.progress(f"discarding in {room.topics.dlq}") as progress:
        result = deadletter.discard(room.kafka, room.topics, chosen, SystemClock(), progress)
    _did(result, chosen, "discarded", "")


@command.command("export")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Write to this file, in place of what it held; else to stdout.",
)
@click.option("--all", "everything", is_flag=True, help="Also what was replayed or discarded.")
@_filtered
@options.with_app(*_SETTINGS)
@click.argument("ids", metavar="[ID]...", nargs=-1)
def export_command(
    given: options.Given,
    ids: tuple[str, ...],
    wanted: _Filter,
    everything: bool,
    path: Path | None,
) -> None:
    """Write dead letters with their values and headers, a JSON object a line: those named,
    those that pass the filters, or all that were neither replayed nor discarded.

    \b
    kworker dlq export shop.orders:app --file dead-letters.ndjson
    kworker dlq export shop.orders:app --handler shop.orders.charge --limit 10

    Keys, values and headers are text, or {"base64": ...} where they are not UTF-8.
    """
    from .. import deadletter

    _one_way(ids, wanted)
    room = _Room(given)
    letters = room.letters(wanted)
    if ids:
        chosen = [room.find(letters, id) for id in dict.fromkeys(ids)]
    else:
        chosen = wanted.choose([one for one in letters if everything or one.state == "open"])
    written = 0
    with _into(path) as write, tables.progress("exporting") as progress:
        for letter, record in deadletter.records(room.kafka, chosen):
            write(output.text("dlq.export", **_whole(letter, record)))
            written += 1
            progress(written, len(chosen))
    if written < len(chosen):
        output.note(f"{len(chosen) - written} no longer exist: their topic has let them go")
    if path is not None:
        output.note(f"exported {_count(written)} to {path}")


@contextmanager
def _into(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Where lines go; a file is there when it is whole, or as it was."""
    if path is None:
        yield output.data
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:

            def write(line: str) -> None:
                file.write(f"{line}\n")

            yield write
        part.replace(path)
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}; name another file") from error
    finally:
        part.unlink(missing_ok=True)


def _would(chosen: Sequence[DeadLetter], what: str) -> None:
    if chosen:
        _table(chosen, False)
    hint = "; add --execute to do it" if chosen else ""
    output.data(f"{_count(len(chosen))} would {what}{hint}")


def _did(result: Result, chosen: Sequence[DeadLetter], what: str, where: str) -> None:
    for letter, why in result.refused:
        output.error(f"{letter.position} cannot be {what}: {why}")
    output.data(f"{what} {result.done} of {_count(len(chosen))}{where}")
    if result.refused:
        click.get_current_context().exit(KworkerError.exit_code)


def _whole(letter: DeadLetter, record: Record) -> dict[str, Any]:
    known = names.reserved(record.headers)
    return {
        **_json(letter),
        "state": letter.state,
        "first_failed_at": known.get(names.FIRST_FAILED_AT),
        "headers": [[name, shown.as_json(value)] for name, value in record.headers],
        "value": shown.as_json(record.value),
        "stacktrace": known.get(names.ERROR_STACKTRACE),
    }


def _json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": str(letter.position),
        "message_id": letter.message_id,
        "handler": letter.handler,
        "topic": letter.position.topic,
        "partition": letter.position.partition,
        "offset": letter.position.offset,
        "key": shown.as_json(letter.key),
        "disposition": letter.disposition,
        "error_type": letter.error_type,
        "error_message": letter.error_message,
        "fingerprint": letter.fingerprint,
        "attempt": letter.attempt,
        "failed_at": shown.iso(letter.timestamp),
        "original": {
            "topic": letter.original_topic,
            "partition": letter.original_partition,
            "offset": letter.original_offset,
        },
        "replays": letter.replays,
    }


def _table(letters: Sequence[DeadLetter], states: bool) -> None:
    facts = {
        "ID": [str(one.position) for one in letters],
        "FAILED AT": [shown.time(one.timestamp) for one in letters],
        "STATE": [one.state for one in letters],
        "HANDLER": [one.handler or "-" for one in letters],
        "KEY": [shown.short(shown.as_text(one.key)) for one in letters],
        "DISPOSITION": [one.disposition or "-" for one in letters],
        "ATTEMPT": ["-" if one.attempt is None else str(one.attempt) for one in letters],
        "ERROR": [shown.short(_error(one)) or "-" for one in letters],
    }
    if not states:
        del facts["STATE"]
    tables.table(tuple(facts), list(zip(*facts.values(), strict=True)))


def _show(letter: DeadLetter, record: Record, known: dict[str, str]) -> None:
    place = (letter.original_topic, letter.original_partition, letter.original_offset)
    facts = {
        "id": str(letter.position),
        "state": letter.state,
        "message id": letter.message_id,
        "handler": letter.handler,
        "disposition": letter.disposition,
        "error": _error(letter),
        "fingerprint": letter.fingerprint,
        "attempt": None if letter.attempt is None else str(letter.attempt),
        "replays": str(letter.replays),
        "first failed": known.get(names.FIRST_FAILED_AT),
        "failed at": shown.iso(letter.timestamp),
        "original": "/".join("?" if part is None else str(part) for part in place),
        "key": shown.as_text(letter.key),
        "damage": record.damage,
    }
    width = max(map(len, facts)) + 2
    for name, text in facts.items():
        if text:
            output.data(f"{name:<{width}}{printable(text)}")
    _block(
        "headers",
        [f"{name}: {shown.as_text(value)}" for name, value in names.producers(record.headers)],
    )
    if record.value is None:
        _block("value", ["(none: a tombstone)"])
    else:
        text = shown.as_json(record.value)
        lines = text.split("\n") if isinstance(text, str) else [f"base64 {text['base64']}"]
        _block(f"value, {len(record.value)} bytes", lines)
    _block("stack trace", known.get(names.ERROR_STACKTRACE, "").rstrip("\n").split("\n"))


def _block(title: str, lines: Sequence[str]) -> None:
    if not any(lines):
        return
    output.data(f"\n{title}")
    for line in lines:
        output.data(f"  {printable(line)}")


def _error(letter: DeadLetter) -> str:
    return ": ".join(filter(None, (letter.error_type, letter.error_message)))


def _count(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
