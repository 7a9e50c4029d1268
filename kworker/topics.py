"""The topics a group owns: their names, and making sure that they exist and keep their promises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import durations
from .errors import HandlerError, SettingsError, TopicsMissing
from .kafka.api import Admin, NewTopic, TopicInfo
from .names import topic_fault

_DELAY = re.compile(r"[0-9]+(?:ms|[dhms])")
_LONGEST_DELAY = "9" * 10 + "ms"

_WEEK = 7 * 86_400.0
_FOR_EVER = -1
_ROOM_FOR_HEADERS = 64 * 1024
_LARGEST_LIMIT = 2**31 - 1
_SOURCE_PARTITIONS = 4
_BROKERS_DEFAULT = -1

USUAL = ("{group}.retry.{delay}", "{group}.replay", "{group}.dlq")

APPLY = "kworker topics apply TARGET --execute"


@dataclass(frozen=True, slots=True)
class GroupTopics:
    """The names of the topics that belong to one group.

    Each template holds `{group}`, so that no two groups share a topic; the retry template
    holds `{delay}` too, once and between dots, dashes or underscores, so that a name says
    which delay it stands for. Raises SettingsError for names that Kafka refuses and for
    templates that make the same name.
    """

    group: str
    retry_template: str
    replay_template: str
    dlq_template: str
    replay: str = field(init=False)
    dlq: str = field(init=False)
    _prefix: str = field(init=False, repr=False)
    _suffix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for setting, template in self._templates():
            if "{group}" not in template:
                raise SettingsError(
                    f"{setting} = {template!r} lacks {{group}}: two groups would take each "
                    "other's messages; write it like 'team.{group}.name'"
                )
        before, found, after = self.retry_template.partition("{delay}")
        if not found or "{delay}" in after or not (_apart(before[-1:]) and _apart(after[:1])):
            raise SettingsError(
                f"retry_topic = {self.retry_template!r} needs {{delay}} once and set apart by "
                "dots, dashes or underscores, like '{group}.retry.{delay}'"
            )
        settle = object.__setattr__
        settle(self, "_prefix", before.replace("{group}", self.group))
        settle(self, "_suffix", after.replace("{group}", self.group))
        settle(self, "replay", self.replay_template.replace("{group}", self.group))
        settle(self, "dlq", self.dlq_template.replace("{group}", self.group))
        for (setting, template), name in zip(
            self._templates(),
            (f"{self._prefix}{_LONGEST_DELAY}{self._suffix}", self.replay, self.dlq),
            strict=True,
        ):
            fault = topic_fault(name)
            if fault:
                raise SettingsError(
                    f"group {self.group!r} makes no legal topic of {setting} = {template!r}: "
                    f"{fault}; change one of the two"
                )
        self._refuse_collisions()

    def _templates(self) -> tuple[tuple[str, str], ...]:
        return (
            ("retry_topic", self.retry_template),
            ("replay_topic", self.replay_template),
            ("dlq_topic", self.dlq_template),
        )

    def _refuse_collisions(self) -> None:
        if _metric(self.replay) == _metric(self.dlq):
            raise SettingsError(
                f"replay_topic and dlq_topic make {self.replay!r} and {self.dlq!r}, which are "
                "the same to Kafka; change one of them"
            )
        for name in (self.replay, self.dlq):
            if self._delay_text(_metric(name), _metric(self._prefix), _metric(self._suffix)):
                raise SettingsError(
                    f"{name!r} would be taken for a retry topic, as retry_topic = "
                    f"{self.retry_template!r} makes them; change one of the templates"
                )

    def retry(self, delay: float) -> str:
        """The retry topic for a delay in seconds: 60 is `shop.retry.1m`."""
        return f"{self._prefix}{durations.canonical(delay)}{self._suffix}"

    def delay_of(self, name: str) -> float | None:
        """The delay in seconds that a retry topic of this group stands for, declared by a
        handler or not; None for any other topic."""
        text = self._delay_text(name, self._prefix, self._suffix)
        if text is None:
            return None
        delay = durations.seconds(text)
        return delay if delay and durations.canonical(delay) == text else None

    def owns(self, name: str) -> bool:
        """Whether the topic is this group's retry, replay or dead-letter topic."""
        return name in (self.replay, self.dlq) or self.delay_of(name) is not None

    def internal(self, name: str) -> bool:
        """Whether the topic is Kafka's own, or some group's for retries, replays or dead
        letters, as its name says: by our templates or by the usual ones. No regular
        expression takes such a topic."""
        return name.startswith("__") or any(
            re.fullmatch(_pattern(template), name)
            for template in (*USUAL, *(template for _, template in self._templates()))
        )

    @staticmethod
    def _delay_text(name: str, prefix: str, suffix: str) -> str | None:
        if not (name.startswith(prefix) and name.endswith(suffix)):
            return None
        text = name[len(prefix) : len(name) - len(suffix)]
        return text if _DELAY.fullmatch(text) else None


def _pattern(template: str) -> str:
    """A regular expression for the names that a template makes, for whatever group."""
    text = re.escape(template).replace(r"\{group\}", ".+")
    return text.replace(r"\{delay\}", _DELAY.pattern)


def _apart(neighbour: str) -> bool:
    """Whether what stands beside a delay cannot be taken for a part of it."""
    return neighbour in ("", ".", "-", "_")


def _metric(name: str) -> str:
    """The name as Kafka compares it: in its metrics a dot is an underscore, so it refuses to
    create `a.b` beside `a_b`."""
    return name.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A promise that an existing topic breaks: what its configuration says and should say."""

    topic: str
    config: str
    found: str
    needed: str
    harm: str

    def __str__(self) -> str:
        return (
            f"{self.topic}: {self.config} is {self.found} and needs to be {self.needed} "
            f"({self.harm})"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What stands between a cluster and what a group needs of it.

    `sources` and `create` are topics to be made, `worse` what existing ones break, `notes`
    what is worth knowing and breaks nothing.
    """

    sources: tuple[NewTopic, ...] = ()
    create: tuple[NewTopic, ...] = ()
    worse: tuple[Flaw, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[NewTopic, ...]:
        """All topics to be made, sources first."""
        return self.sources + self.create

    def refusal(self, group: str) -> str:
        """Why the group cannot run with what is there, in one line."""
        return (
            f"topics of group {group!r} are worse than it needs: "
            f"{'; '.join(map(str, self.worse))}; alter them, or go on with --accept-topics"
        )


def plan(
    sources: Iterable[str],
    delays: Iterable[float],
    names: GroupTopics,
    admin: Admin,
    *,
    create_sources: bool = False,
    copies: bool = True,
) -> Plan:
    """What has to be done before the group can run; asks the cluster and changes nothing.

    `sources` are the topics that handlers take, `delays` the seconds of all retry topics
    that they declare; without `copies` there are dead letters alone. A promise is what a copy
    may rely on: that it is taken (size, no compaction), kept until it is due and handled
    (retention), and as safe as its source (replicas). The number of partitions is none: fewer
    only make retries slower, which is a
    note. Where the broker tells no configurations, only existence is looked at.
    Raises TopicsMissing for sources that do not exist, unless they may be created;
    HandlerError where a source is one of the group's own topics; KafkaUnavailable.
    """
    sources = sorted(set(sources))
    for name in sources:
        if names.owns(name):
            raise HandlerError(
                f"a handler takes {name!r}, which belongs to the group {names.group!r} itself: "
                "its copies would come round for ever; give the handler another topic"
            )
    kept = {names.retry(delay): _WEEK + 2 * delay for delay in sorted(set(delays))}
    if copies:
        kept[names.replay] = _WEEK
    kept[names.dlq] = _FOR_EVER
    found = admin.describe([*sources, *kept])
    absent = [name for name in sources if name not in found]
    if absent and not create_sources:
        raise TopicsMissing(
            f"{_listed('topic', absent)} that handlers take {_do(absent)} not exist; create "
            f"{_them(absent)}, or let `kworker topics apply TARGET --create-sources --execute` "
            f"do it with {_SOURCE_PARTITIONS} partitions"
        )
    new_sources = tuple(NewTopic(name, _SOURCE_PARTITIONS, _BROKERS_DEFAULT, {}) for name in absent)
    models = [found[name] for name in sources if name in found]
    wanted = [_like(models, name, retention) for name, retention in kept.items()]
    existing = [(new, found[new.name]) for new in wanted if new.name in found]
    return Plan(
        sources=new_sources,
        create=tuple(new for new in wanted if new.name not in found),
        worse=tuple(flaw for new, info in existing for flaw in _flaws(new, info)),
        notes=tuple(note for new, info in existing for note in _notes(new, info)),
    )


def ensure(
    sources: Iterable[str],
    delays: Iterable[float],
    names: GroupTopics,
    admin: Admin,
    *,
    create: bool,
    create_sources: bool = False,
    accept: bool = False,
    copies: bool = True,
) -> Plan:
    """See to it that the group's topics exist and keep their promises.

    Returns what was found and, with `create`, made; with `accept`, existing topics that are
    worse are left as they are: the caller warns of the plan's `worse` and `notes`. Other
    workers may do the same at the same time. Raises TopicsMissing, with the topics' names
    and the way out, and what `plan` raises.
    """
    sources, delays = set(sources), set(delays)
    result = plan(
        sources, delays, names, admin, create_sources=create and create_sources, copies=copies
    )
    if result.worse and not accept:
        raise TopicsMissing(result.refusal(names.group))
    if result.missing and not create:
        absent = [new.name for new in result.missing]
        raise TopicsMissing(
            f"{_listed('topic', absent)} of group {names.group!r} {_do(absent)} not exist; run "
            f"`{APPLY}`, or start with --create-topics missing"
        )
    if result.sources:
        _create(result.sources, admin)
        # Only now is it known what the broker gives a topic by default, which is what the
        # group's own topics are made like.
        made, result = result.sources, plan(sources, delays, names, admin, copies=copies)
    else:
        made = ()
    _create(result.create, admin)
    return Plan(made, result.create, result.worse, result.notes)


def _create(topics: Iterable[NewTopic], admin: Admin) -> None:
    topics = tuple(topics)
    if not topics:
        return
    refused = {name: why for name, why in admin.create(topics).items() if why is not None}
    if refused:
        told = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise TopicsMissing(
            f"{_listed('topic', list(refused))} cannot be created: {told}; create "
            f"{_them(list(refused))} by other means (`kworker topics plan TARGET` says how they "
            "have to be)"
        )


def _like(sources: list[TopicInfo], name: str, retention: float) -> NewTopic:
    """A topic of the group, as safe as the safest of its sources and as wide as the widest."""
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": str(round(retention * 1000) if retention >= 0 else _FOR_EVER),
        "retention.bytes": str(_FOR_EVER),
    }
    limits = _numbers(sources, "max.message.bytes")
    if limits:
        largest = min(max(limits) + _ROOM_FOR_HEADERS, _LARGEST_LIMIT)
        configs["max.message.bytes"] = str(largest)
    in_sync = _numbers(sources, "min.insync.replicas")
    if in_sync:
        configs["min.insync.replicas"] = str(max(in_sync))
    return NewTopic(
        name,
        max((info.partitions for info in sources), default=_SOURCE_PARTITIONS),
        max((info.replication for info in sources), default=_BROKERS_DEFAULT),
        configs,
    )


def _numbers(topics: list[TopicInfo], config: str) -> list[int]:
    return [int(info.configs[config]) for info in topics if config in info.configs]


def _flaws(needed: NewTopic, found: TopicInfo) -> Iterable[Flaw]:
    if "compact" in found.configs.get("cleanup.policy", ""):
        yield Flaw(
            found.name,
            "cleanup.policy",
            found.configs["cleanup.policy"],
            "delete",
            "copies of one key would replace each other, and those without a key be refused",
        )
    for config, harm in (
        ("retention.ms", "copies could be deleted before they are handled"),
        ("retention.bytes", "copies could be deleted before they are handled"),
        ("max.message.bytes", "copies of the largest messages would be refused for ever"),
        ("min.insync.replicas", "copies would be less safe than their originals"),
    ):
        if _less(needed.configs, found.configs, config):
            yield Flaw(found.name, config, found.configs[config], needed.configs[config], harm)
    if found.configs and found.replication < needed.replication:
        yield Flaw(
            found.name,
            "replication factor",
            str(found.replication),
            str(needed.replication),
            "copies would be less safe than their originals",
        )


def _less(needed: Mapping[str, str], found: Mapping[str, str], config: str) -> bool:
    """Whether the found number promises less; -1 stands for no limit."""
    if config not in needed or config not in found:
        return False
    least, given = int(needed[config]), int(found[config])
    if given == _FOR_EVER:
        return False
    return least == _FOR_EVER or given < least


def _notes(needed: NewTopic, found: TopicInfo) -> Iterable[str]:
    if found.partitions < needed.partitions:
        yield (
            f"{found.name} has {found.partitions} of {needed.partitions} partitions: fewer "
            "workers can share its messages"
        )


def _listed(noun: str, names: list[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _do(names: list[str]) -> str:
    return "do" if len(names) > 1 else "does"


def _them(names: list[str]) -> str:
    return "them" if len(names) > 1 else "it"
