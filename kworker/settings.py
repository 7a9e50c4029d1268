"""The settings: each declared once, read from where an operator may put it, and explained.

Flags of `kworker run`, `KWORKER_*` variables, keys of `kworker.toml`, keywords of `App(…)`,
their help and the errors about them all grow from `Settings`.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import re
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypedDict,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from . import durations, offsets
from .errors import SettingsError


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of one kind are read and written by people.

    `read` takes what a file or program gives, `parse` the text of a flag or variable; both
    raise ValueError with the reason.
    """

    metavar: str
    read: Callable[[Any], Any]
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to know about a setting besides its name and type."""

    default: Any
    help: str
    short: str | None = None  # a short flag, as "-b"
    metavar: str | None = None
    minimum: int = 0  # of whole numbers


def _duration(value: Any) -> float:
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not a duration; write it as 5s, 1m, 250ms or 2h")
    return durations.seconds(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is not a size; write it as 500kB, 32MiB or plain bytes")
    return durations.size(value)


def _show_size(value: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def _start(value: Any) -> str:
    if isinstance(value, datetime.date):  # as TOML has them; a date begins at midnight
        return value.isoformat()
    if value not in ("earliest", "latest"):
        try:
            offsets.moment(value if isinstance(value, str) else "", 0.0)
        except ValueError:
            raise ValueError(
                f"{value!r} is not one of earliest, latest, a time as 2026-01-31T12:00:00Z, or -2h"
            ) from None
    return str(value)


def _address(value: Any) -> str:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if value.startswith("unix:") and value != "unix:":
            return value
        if host.strip("[]") and port.isascii() and port.isdigit() and int(port) < 65536:
            return value
    raise ValueError(f"{value!r} is no address; write it as 127.0.0.1:8080")


def _names(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"{value!r} is no list of names; write it as first,second")
    names = tuple(dict.fromkeys(one.strip() for one in given if one.strip()))
    if not names:
        raise ValueError("it is empty")
    return names


# What a type checker sees is what a loaded setting is; in code, too, "5s" and "64MiB" are read.
Duration = Annotated[float, Kind("DURATION", _duration, _duration, durations.canonical)]
Names = Annotated[tuple[str, ...], Kind("NAME,NAME", _names, _names, ",".join)]
Start = Annotated[str, Kind("earliest|latest|TIME", _start, _start)]
Address = Annotated[str, Kind("HOST:PORT", _address, _address)]
Size = Annotated[int, Kind("SIZE", _size, _size, _show_size)]


UNIQUE = "auto"
"""The group that means: a group of its own for each worker, so that each gets every message."""


class Settings(TypedDict, total=False):
    """Every setting of kworker. The only declaration of each."""

    bootstrap_servers: Annotated[
        str,
        Setting("localhost:9092", "Where to find Kafka: host:port, comma-separated.", "-b"),
    ]
    group: Annotated[
        str | None,
        Setting(
            None,
            "The consumer group; the app's name unless given. auto: one for each worker.",
            "-g",
        ),
    ]
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Setting("classic", "How the group shares out partitions; consumer: the broker does it."),
    ]
    instance_id: Annotated[
        str | None,
        Setting(None, "A name of this process alone, for static membership of the group."),
    ]
    delivery: Annotated[
        Literal["at_least_once", "exactly_once", "at_most_once"],
        Setting("at_least_once", "What is promised of each message; one mode a group."),
    ]
    concurrency: Annotated[
        int, Setting(1, "Handlers that run at once in a process; 1 runs in order.", "-c", minimum=1)
    ]
    workers: Annotated[
        int,
        Setting(1, "Processes; more than 1 get a parent that restarts the dead.", "-w", minimum=1),
    ]
    handlers: Annotated[
        Names | None, Setting(None, "Serve these handlers alone, under a group of their own.")
    ]
    topics: Annotated[Names | None, Setting(None, "Serve these of the handlers' topics alone.")]
    exclude_topics: Annotated[
        Names | None, Setting(None, "Serve all of the handlers' topics but these.")
    ]
    max_messages: Annotated[
        int | None,
        Setting(None, "Stop when a process has handled so many messages.", minimum=1),
    ]
    max_runtime: Annotated[
        Duration | None, Setting(None, "Stop after a process has run for so long.")
    ]
    start_from: Annotated[
        Start, Setting("earliest", "Where a group without offsets begins; a time may be -2h.")
    ]
    on_lost_position: Annotated[
        Literal["earliest", "stop"],
        Setting("earliest", "What to do when the next message no longer exists."),
    ]
    dedup_retention: Annotated[
        Duration, Setting(7 * 86_400.0, "How long the ids of handled messages are remembered.")
    ]
    db: Annotated[
        str | None,
        Setting(None, "The store's file; .kworker/{group}.db unless given.", metavar="PATH"),
    ]
    shutdown_timeout: Annotated[
        Duration, Setting(25.0, "How long a stop waits for handlers that still run.")
    ]
    connect_timeout: Annotated[Duration, Setting(30.0, "How long to wait for Kafka at start.")]
    create_topics: Annotated[
        Literal["never", "missing"],
        Setting("never", "Whether missing retry, replay and dead-letter topics are created."),
    ]
    accept_topics: Annotated[
        bool, Setting(False, "Warn about topics that are worse than needed, and use them.")
    ]
    retry_topic: Annotated[
        str, Setting("{group}.retry.{delay}", "How retry topics are named.", metavar="TEMPLATE")
    ]
    replay_topic: Annotated[
        str, Setting("{group}.replay", "How the replay topic is named.", metavar="TEMPLATE")
    ]
    dlq_topic: Annotated[
        str, Setting("{group}.dlq", "How the dead-letter topic is named.", metavar="TEMPLATE")
    ]
    unknown_handler_wait: Annotated[
        Duration,
        Setting(900.0, "How long a copy for a handler that is not here waits for a deploy."),
    ]
    on_oversized_copy: Annotated[
        Literal["wait", "reference"],
        Setting("wait", "A copy too large for its topic: wait, or keep its coordinates alone."),
    ]
    publish_wait: Annotated[
        Duration, Setting(5.0, "How long publishing waits for Kafka's acknowledgement.")
    ]
    on_permanent_failure: Annotated[
        Literal["raise", "stop"],
        Setting("raise", "Whether a publisher stops at the first message that Kafka rejects."),
    ]
    outbox_size: Annotated[
        Size, Setting(1 << 30, "Bytes that a publisher keeps in the outbox, at most.", minimum=0)
    ]
    outbox_when_full: Annotated[
        Literal["reject", "block"],
        Setting("reject", "What publishing does when the outbox is full: raise, or wait."),
    ]
    commit_every: Annotated[Duration, Setting(1.0, "Time between commits.")]
    revoke_timeout: Annotated[
        Duration,
        Setting(
            25.0,
            "How long a partition that moves away waits for its handlers; below half of "
            "max.poll.interval.ms.",
        ),
    ]
    transaction_timeout: Annotated[
        Duration,
        Setting(5.0, "How long a handler may hold its Transaction before it is rolled back."),
    ]
    max_in_flight: Annotated[
        int, Setting(10_000, "Messages a process holds at once, at most.", minimum=1)
    ]
    max_in_flight_bytes: Annotated[
        Size, Setting(64 * 2**20, "Bytes of messages a process holds at once, at most.", minimum=1)
    ]
    log_format: Annotated[
        Literal["console", "json"] | None,
        Setting(None, "How logs are written; console on a terminal, else json."),
    ]
    health: Annotated[
        Address | None, Setting(None, "Where /livez, /readyz and /metrics are served.")
    ]
    health_token: Annotated[
        str | None,
        Setting(
            None, "What who asks there must bring; needed beyond this machine.", metavar="TOKEN"
        ),
    ]


@dataclass(frozen=True, slots=True)
class Declared:
    """One setting as `Settings` declares it."""

    name: str
    about: Setting
    kind: Kind
    choices: tuple[str, ...]
    switch: bool  # it is on or off
    optional: bool  # None is a value of it

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "KWORKER_" + self.name.upper()

    @property
    def metavar(self) -> str:
        return self.about.metavar or self.kind.metavar

    @property
    def default_text(self) -> str | None:
        """The default as one would write it, None where there is none."""
        return None if self.about.default is None else self.kind.show(self.about.default)


class Properties(dict[str, str]):
    """Raw librdkafka properties. Its text form hides what is secret."""

    def __repr__(self) -> str:
        return repr({name: masked(name, value) for name, value in self.items()})

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a process runs with: every setting, where each came from, and Kafka's own keys.

    `kafka` is for all clients, the others for one kind, each as the operator gave it; their
    origins stand under `kafka.NAME`, `kafka.consumer.NAME` and `kafka.producer.NAME`.
    `warnings` are for the log; nothing else happens about them.
    """

    values: Settings
    origins: Mapping[str, str]
    kafka: Properties
    kafka_consumer: Properties
    kafka_producer: Properties
    warnings: tuple[str, ...] = ()


def load(
    code: Settings | Mapping[str, Any],
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    folder: Path | str,
    properties: Iterable[str] = (),
) -> Configuration:
    """The settings that hold: the closer to the operator, the stronger.

    `flags` (None: not given) outrank KWORKER_* in `environ`, these the kworker.toml of
    `folder`, this the [tool.kworker] of its pyproject.toml, this `code`, this the defaults.
    `properties` are the key=value texts of `-X`. Raises SettingsError for what is unknown or
    malformed, naming the setting, the value and where it stands.
    """
    warnings: list[str] = []
    sources = [
        _from_code(code),
        *_from_files(Path(folder)),
        _from_environ(environ, warnings),
        _from_flags(flags, properties),
    ]

    values: dict[str, Any] = {one.name: one.about.default for one in declared().values()}
    origins = dict.fromkeys(values, "default")
    kafka = Properties(), Properties(), Properties()
    for source in sources:
        for name, given in source.values.items():
            values[name], origins[name] = given
        for scope, kind, more in zip(kafka, _SCOPES, source.kafka, strict=True):
            for name, given in more.items():
                scope[name], origins[f"{kind}{name}"] = given
    return Configuration(cast(Settings, values), origins, *kafka, warnings=tuple(warnings))


@functools.cache
def declared() -> Mapping[str, Declared]:
    """The settings by name, in the order of their declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return types.MappingProxyType({name: _declared(name, hint) for name, hint in hints.items()})


def check(code: Mapping[str, Any], origin: str = "App(…)") -> Settings:
    """What code gives, read. Raises SettingsError for what is unknown or malformed."""
    return cast(
        Settings, {name: _read(_known(name, origin), given, origin) for name, given in code.items()}
    )


SECRET = re.compile(
    r"pass(word|phrase)|secret|token|jaas|oauth|credential|assertion|pem$|(^|[._])key([._]|$)", re.I
)
_PUBLIC = re.compile(r"oauthbearer\.(method|scope|token\.endpoint\.url)$|\.location$")


def masked(name: str, value: str) -> str:
    """A property's value, or stars where the name says that it is a secret."""
    return "******" if SECRET.search(name) and not _PUBLIC.search(name) else value


# --- sources -------------------------------------------------------------------------------


class _Given(NamedTuple):
    value: Any
    origin: str


Scopes = tuple[dict[str, _Given], dict[str, _Given], dict[str, _Given]]
"""Properties for all clients, for consumers, for producers."""

_SCOPES = ("kafka.", "kafka.consumer.", "kafka.producer.")


class _Source(NamedTuple):
    """What one place gives: settings, and properties."""

    values: dict[str, _Given]
    kafka: Scopes


def _from_code(code: Mapping[str, Any]) -> _Source:
    origin = "App(…)"
    read = check(code, origin)
    return _Source({name: _Given(value, origin) for name, value in read.items()}, ({}, {}, {}))


def _from_flags(flags: Mapping[str, Any], properties: Iterable[str]) -> _Source:
    values = {}
    for name, given in flags.items():
        if given is not None:
            one = _known(name, "the command line")
            values[name] = _Given(_parse(one, given, one.flag), one.flag)
    kafka: dict[str, _Given] = {}
    for text in properties:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            # Not shown: it may be half of a secret.
            raise SettingsError("-X takes KEY=VALUE, as in -X security.protocol=SSL")
        kafka[name.strip()] = _Given(value, "-X")
    return _Source(values, (kafka, {}, {}))


_PREFIX = "KWORKER_"
_PROPERTY = "KWORKER_KAFKA__"
_IN_FILE = "_file"  # at the end of a property's variable: what it names holds the value
_NOT_SETTINGS = (
    "KWORKER_TEST", "KWORKER_FAILPOINT", "KWORKER_BROKER_", "KWORKER_REQUIRE_",
    "KWORKER_WITHOUT_PLUGINS",
)  # fmt: skip


def _from_environ(environ: Mapping[str, str], warnings: list[str]) -> _Source:
    by_variable = {one.variable: one for one in declared().values()}
    values: dict[str, _Given] = {}
    scopes: Scopes = ({}, {}, {})
    common, consumer, producer = scopes
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or variable.startswith(_NOT_SETTINGS):
            continue
        if variable.startswith(_PROPERTY):
            scope, name = common, variable.removeprefix(_PROPERTY).lower()
            if name.startswith("consumer__"):
                scope, name = consumer, name.removeprefix("consumer__")
            elif name.startswith("producer__"):
                scope, name = producer, name.removeprefix("producer__")
            if name.endswith(_IN_FILE):
                name = name.removesuffix(_IN_FILE)
                if variable.removesuffix(_IN_FILE.upper()) in environ:
                    raise SettingsError(
                        f"{variable} and {variable.removesuffix(_IN_FILE.upper())} say the same "
                        "property twice; leave one out"
                    )
                scope[_dotted(name)] = _Given(_content(variable, environ[variable]), variable)
            else:
                scope[_dotted(name)] = _Given(environ[variable], variable)
        elif variable in by_variable:
            one = by_variable[variable]
            values[one.name] = _Given(_parse(one, environ[variable], variable), variable)
        else:
            guess = _guess(variable, by_variable)
            warnings.append(f"the variable {variable} is no setting and is ignored{guess}")
    return _Source(values, scopes)


def _dotted(name: str) -> str:
    return name.replace("_", ".")


def _content(variable: str, path: str) -> str:
    """What stands in a file that a variable names, without the newline that editors add."""
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        # Not the file's content, and not the path: it may be the secret itself.
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingsError(
            f"{variable}: the file that it names cannot be read: {why}; give the path of a file "
            "that holds the value alone"
        ) from None


def _from_files(folder: Path) -> Iterator[_Source]:
    """The weaker first."""
    pyproject = _toml(folder / "pyproject.toml")
    if pyproject is not None:
        tool = pyproject[0].get("tool")
        table = tool.get("kworker") if isinstance(tool, dict) else None
        if table is not None:
            yield _from_table(table, "pyproject.toml", pyproject[1], "tool.kworker")
    own = _toml(folder / "kworker.toml")
    if own is not None:
        yield _from_table(own[0], "kworker.toml", own[1], "")


def _toml(path: Path) -> tuple[dict[str, Any], str] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} cannot be read: {error}") from error
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path.name} is not valid TOML: {error}") from error


def _from_table(table: Any, file: str, text: str, section: str) -> _Source:
    if not isinstance(table, dict):
        raise SettingsError(f"{section} in {file} must be a table: write [{section}]")
    values: dict[str, _Given] = {}
    scopes: Scopes = ({}, {}, {})
    for name, value in table.items():
        origin = _place(file, text, section, name)
        if name == "kafka":
            inner = f"{section}.kafka".lstrip(".")
            if not isinstance(value, dict):
                raise SettingsError(f"kafka in {origin} must be a table: write [{inner}]")
            for key, one in value.items():
                if key in ("consumer", "producer"):
                    if not isinstance(one, dict):
                        where = _place(file, text, inner, key)
                        raise SettingsError(
                            f"kafka.{key} in {where} must be a table: write [{inner}.{key}]"
                        )
                    scope = scopes[1 if key == "consumer" else 2]
                    scope.update(_properties(one, file, text, f"{inner}.{key}"))
                else:
                    scopes[0].update(_properties({key: one}, file, text, inner))
        else:
            values[name] = _Given(_read(_known(name, origin), value, origin), origin)
    return _Source(values, scopes)


def _properties(
    table: Mapping[str, Any], file: str, text: str, section: str, above: str = ""
) -> Iterator[tuple[str, _Given]]:
    """A table of properties as librdkafka takes them: `sasl.username = …` is a nested table
    to TOML and one dotted name here; numbers and truths become text."""
    for key, value in table.items():
        name = f"{above}{key}"
        where = _place(file, text, section, name)
        if isinstance(value, dict):
            yield from _properties(value, file, text, section, f"{name}.")
        elif isinstance(value, bool):
            yield name, _Given("true" if value else "false", where)
        elif isinstance(value, (str, int, float)):
            yield name, _Given(str(value), where)
        else:
            raise SettingsError(f"{name} in {where} must be text, a number, true or false")


def _place(file: str, text: str, section: str, name: str) -> str:
    """`file:line` of a key, or the file alone where the line is not plain to see.

    tomllib keeps no positions; this looks for the key at a line's start in its section.
    """
    key = re.compile(rf"""["']?{re.escape(name)}["']?\s*[=.]""")
    header = re.compile(r"\[+\s*([^\]]+?)\s*\]+")
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if found := header.match(line):
            current = found[1].replace('"', "").replace("'", "")
            if current == f"{section}.{name}".lstrip("."):
                return f"{file}:{number}"
        elif current == section and key.match(line):
            return f"{file}:{number}"
    return file


# --- one value -----------------------------------------------------------------------------


def _known(name: str, origin: str) -> Declared:
    one = declared().get(name)
    if one is None:
        guess = _guess(name, declared()) or "; `kworker run --help` lists them"
        raise SettingsError(f"unknown setting {name!r} in {origin}{guess}")
    return one


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


def _read(one: Declared, value: Any, origin: str) -> Any:
    """A value that a file or a program gave."""
    if value is None and one.optional:
        return None
    return _checked(one, one.kind.read, value, origin)


def _parse(one: Declared, value: Any, origin: str) -> Any:
    """A value that came as text; what a flag has made of it already is read."""
    return _checked(one, one.kind.parse if isinstance(value, str) else one.kind.read, value, origin)


def _checked(one: Declared, read: Callable[[Any], Any], value: Any, origin: str) -> Any:
    try:
        result = read(value)
        if isinstance(result, int) and not one.switch and result < one.about.minimum:
            raise ValueError(f"{value!r} is too small: at least {one.about.minimum} is needed")
    except ValueError as error:
        raise SettingsError(f"{one.name} in {origin}: {error}") from error
    return result


def _declared(name: str, hint: Any) -> Declared:
    type_, *notes = get_args(hint)
    about = next(note for note in notes if isinstance(note, Setting))
    kind = next((note for note in notes if isinstance(note, Kind)), None)
    optional = False
    if get_origin(type_) in (Union, types.UnionType):
        (type_,) = (one for one in get_args(type_) if one is not type(None))
        optional = True
        if get_origin(type_) is Annotated:
            type_, kind = get_args(type_)
    choices = get_args(type_) if get_origin(type_) is Literal else ()
    if kind is None:
        kind = _choice(choices) if choices else _KINDS[type_]
    return Declared(name, about, kind, choices, type_ is bool, optional)


def _choice(choices: tuple[str, ...]) -> Kind:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return cast(str, value)

    return Kind("|".join(choices), read, read)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    if not value.strip():
        raise ValueError("it is empty")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _parse_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def _parse_truth(text: str) -> bool:
    truths = {"true": True, "1": True, "yes": True, "on": True}
    truths |= {"false": False, "0": False, "no": False, "off": False}
    try:
        return truths[text.strip().lower()]
    except KeyError:
        raise ValueError(f"{text!r} is not true or false") from None


_KINDS = {
    str: Kind("TEXT", _text, _text),
    int: Kind("N", _whole, _parse_whole),
    bool: Kind("", _truth, _parse_truth, lambda value: str(value).lower()),
}
