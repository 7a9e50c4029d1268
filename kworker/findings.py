"""What `kworker check` finds: judgements about facts, each with why it matters and what to do.

Nothing here asks anybody: whoever checks gathers the facts and hands them over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from . import durations
from .errors import KworkerError, StoreError, TopicsMissing
from .handlers import Handler
from .kafka.api import Rights, TopicInfo
from .topics import GroupTopics, Plan

Level = Literal["error", "warning", "note", "ok"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `code`: what a worker would end with; 0 if it can run.

    `check` names what was looked at; `why` and `do` are empty where all is well.
    """

    check: str
    level: Level
    what: str
    why: str = ""
    do: str = ""
    code: int = 0


def fine(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", what)


def failed(check: str, error: KworkerError, why: str) -> Finding:
    """What a worker would refuse to start for, in its own words."""
    what, _, do = str(error).rpartition("; ")
    if not what:
        what, do = do, "mend that and check again"
    return Finding(check, "error", what, why, do, error.exit_code)


# --- this host -----------------------------------------------------------------------------

_SAFE = (3, 51, 3)
_MENDED = ((3, 44, 6), (3, 50, 7))  # in these lines, from these on

SHORTEST = 64 * 2**20  # bytes that a disk should have free


def sqlite(version: tuple[int, ...]) -> Finding:
    """About the SQLite that Python brings: https://sqlite.org/wal.html#walresetbug."""
    name = f"SQLite {'.'.join(map(str, version))}"
    line = next((one for one in _MENDED if one[:2] == version[:2]), None)
    if version >= _SAFE or (line is not None and version >= line):
        return fine("sqlite", name)
    return Finding(
        "sqlite",
        "note",
        f"{name} has a bug by which two connections that write at the same moment may damage a "
        "database in WAL mode",
        "kworker is safe from it, since its processes write in turns; another program that writes "
        "to the store's file while a worker runs is not",
        "let no other program write to the store, or take a Python with SQLite 3.51.3 or newer",
    )


def file_system(path: str, kind: str | None, network: bool) -> Finding:
    """About where the store is. `kind` None: the system does not tell."""
    if network:
        error = StoreError(f"{path} is on a network file system ({kind})")
        return Finding(
            "file system",
            "error",
            str(error),
            "SQLite's log is shared through memory of one host, and such file systems lose locks: "
            "the store would be damaged",
            "name a file on a local disk with --db",
            error.exit_code,
        )
    return fine("file system", f"{path} is on {kind or 'a file system of a kind not told here'}")


def disk(path: str, free: int) -> Finding:
    """About the room for the store, in bytes."""
    if free < SHORTEST:
        return Finding(
            "disk",
            "warning",
            f"{free // 2**20} MiB are free where {path} is",
            "a worker that cannot record what it has done takes nothing more",
            "free some space, or name a file on another disk with --db",
        )
    return fine("disk", f"{free // 2**20} MiB are free")


def open_files(limit: int) -> Finding:
    """About how many files and connections a process may have open."""
    if limit < 512:
        return Finding(
            "open files",
            "warning",
            f"a process may open {limit} files",
            "every broker is a connection or two, and so is every file of the store",
            "raise the limit (ulimit -n 4096, or LimitNOFILE= of systemd)",
        )
    return fine("open files", f"up to {limit}")


# --- the cluster ---------------------------------------------------------------------------

_OLDEST = (2, 5)

_HOSTS = (
    (
        r"\.servicebus\.windows\.net$",
        "Azure Event Hubs",
        "it takes no lz4, which is what kworker sends by default, and closes idle connections",
        "set compression.type to none or gzip, metadata.max.age.ms and connections.max.idle.ms to "
        "180000, security.protocol SASL_SSL with sasl.mechanisms PLAIN; create the topics by hand",
    ),
    (
        r"\.confluent\.cloud$",
        "Confluent Cloud",
        "it wants TLS and an API key, and makes topics with three replicas alone",
        "set sasl.mechanisms PLAIN, the key as sasl.username, its secret as sasl.password",
    ),
    (
        r"\.kafka(-serverless)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$",
        "Amazon MSK",
        "its ports tell how one logs in: 9092 none, 9094 TLS, 9096 SCRAM, 9098 IAM",
        "for 9096 set security.protocol SASL_SSL with sasl.mechanisms SCRAM-SHA-512; IAM needs "
        "OAUTHBEARER with a signed token",
    ),
    (
        r"\.(redpanda|vectorized)\.(com|cloud)$",
        "Redpanda",
        "its cloud wants TLS and SCRAM",
        "set security.protocol SASL_SSL with sasl.mechanisms SCRAM-SHA-256",
    ),
    (
        r"\.aivencloud\.com$",
        "Aiven",
        "it has a certificate authority of its own",
        "set ssl.ca.location to the ca.pem of its console",
    ),
)  # fmt: skip


def hosts(bootstrap_servers: str) -> Iterator[Finding]:
    """What is known of the service at these addresses."""
    for pattern, name, why, do in _HOSTS:
        names = (one.strip().rpartition(":")[0].lower() for one in bootstrap_servers.split(","))
        if any(re.search(pattern, one) for one in names):
            yield Finding("service", "note", f"this is {name}", why, do)


def release(found: str | None) -> Finding:
    """About the broker's version, as far as it shows."""
    if found is None:
        return fine("kafka version", "not told by this broker")
    if tuple(map(int, found.split("."))) < _OLDEST:
        return Finding(
            "kafka version",
            "warning",
            f"the broker speaks as Kafka {found} does",
            "before 2.5 a group's offsets in a transaction are not fenced",
            "use a newer Kafka, or at_least_once alone",
        )
    return fine("kafka version", f"{found} or newer, by what it understands")


def clock(newest: float | None, now: float) -> Finding:
    """About this host's clock. `newest`: the latest timestamp in the topics, if there is any.

    A broker does not tell what time it has; a message from the future shows that some clock
    is wrong.
    """
    if newest is not None and newest - now > 5.0:
        return Finding(
            "clock",
            "warning",
            f"the newest message is {durations.canonical(round(newest - now))} ahead of this "
            "host's clock",
            "delays of retries, `expires` and `start_from` compare times of several hosts",
            "let NTP set the clock of this host, and those of brokers and producers",
        )
    return fine("clock", "no message is ahead of it")


def rights(found: Rights | None, names: GroupTopics, *, creates: bool) -> Iterator[Finding]:
    """About what this user may do. `creates`: the worker is to create missing topics."""
    if found is None:
        yield fine("rights", "not told by this broker")
        return
    lacking = []
    for topic, may in found.topics.items():
        needed = {"READ", "WRITE"} if names.owns(topic) else {"READ"}
        if topic == names.dlq:
            needed = {"WRITE"}
        if missing := needed - may:
            lacking.append(f"{' and '.join(sorted(missing))} on topic {topic}")
    if "READ" not in found.group:
        lacking.append(f"READ on group {names.group}")
    if creates and "CREATE" not in found.cluster:
        lacking.append("CREATE on the cluster (create_topics = missing)")
    for one in lacking:
        yield Finding(
            "rights",
            "error",
            f"this user lacks {one}",
            "a worker could not take messages, commit, or send copies",
            "give the right with an ACL, or use another user",
            4,
        )
    if not lacking:
        yield fine("rights", f"on {len(found.topics)} topics and group {names.group}")


# --- topics --------------------------------------------------------------------------------


def plan(found: Plan, *, creates: bool, accepts: bool) -> Iterator[Finding]:
    """About what is missing, and what is worse than the group needs."""
    for new in found.missing:
        yield Finding(
            "topics",
            "note" if creates else "error",
            f"topic {new.name} does not exist",
            "a worker creates it (create_topics = missing)"
            if creates
            else "a worker refuses to start without it",
            "nothing" if creates else "kworker topics apply TARGET --execute",
            0 if creates else TopicsMissing.exit_code,
        )
    for flaw in found.worse:
        yield Finding(
            "topics",
            "warning" if accepts else "error",
            f"{flaw.topic}: {flaw.config} is {flaw.found}, and {flaw.needed} is needed",
            flaw.harm,
            f"kafka-configs --alter --topic {flaw.topic} --add-config {flaw.config}={flaw.needed}, "
            "or --accept-topics",
            0 if accepts else TopicsMissing.exit_code,
        )
    for note in found.notes:
        yield Finding(
            "topics", "note", note, "retries would be slower", "add partitions if that matters"
        )


def replication(topics: Iterable[TopicInfo]) -> Iterator[Finding]:
    """About how safe acknowledged messages are; those whose configuration is not told, left out."""
    for topic in topics:
        if not topic.configs:
            continue
        in_sync = int(topic.configs.get("min.insync.replicas", 1))
        if in_sync > topic.replication:
            yield Finding(
                "replication",
                "error",
                f"{topic.name}: min.insync.replicas is {in_sync}, and it has {topic.replication} "
                f"replica{'s' * (topic.replication != 1)}",
                "nothing can ever be written to it",
                f"lower min.insync.replicas of {topic.name}, or give it more replicas",
                TopicsMissing.exit_code,
            )
        elif topic.replication < 3 or in_sync < 2:
            yield Finding(
                "replication",
                "warning",
                f"{topic.name} has {topic.replication} replica{'s' * (topic.replication != 1)}, "
                f"min.insync.replicas {in_sync}",
                "a message that Kafka has acknowledged may be gone with one disk",
                "in production, three replicas and min.insync.replicas=2",
            )
        if topic.configs.get("unclean.leader.election.enable") == "true":
            yield Finding(
                "replication",
                "warning",
                f"{topic.name}: unclean.leader.election.enable is true",
                "a replica that lacks acknowledged messages may become the leader",
                f"set it to false for {topic.name}",
            )


def partitions(topics: Iterable[TopicInfo], workers: int) -> Iterator[Finding]:
    """About how far the work can be shared out."""
    known = list(topics)
    widest = max((one.partitions for one in known), default=0)
    if known and widest < workers:
        yield Finding(
            "partitions",
            "note",
            f"{widest} partition{'s' * (widest != 1)} for {workers} workers on this host",
            "a partition is one worker's: the others would idle",
            f"use --workers {widest} and more --concurrency, or add partitions",
        )
    elif known:
        told = ", ".join(f"{one.name} {one.partitions}" for one in known)
        yield fine("partitions", told)


# --- the group -----------------------------------------------------------------------------


def newcomers(
    handlers: Iterable[Handler], known: Collection[str], live: Mapping[str, bool]
) -> Iterator[Finding]:
    """About handlers that the group has not had so far, as this host's store knows them.

    `live` says of a topic whether the group has a position in it.
    """
    for one in handlers:
        topics = [topic for topic in one.topics if live.get(topic)]
        if topics and not {one.name, *one.aliases} & set(known):
            yield Finding(
                "handlers",
                "note",
                f"{one.name} is new to this group, which stands somewhere in {', '.join(topics)}",
                "it starts at the group's committed offset: what came before is not handed to it",
                "nothing; or aliases=[…] if it was renamed; or a group of its own to read all",
            )


def worst(found: Iterable[Finding]) -> int:
    """The exit code of them all."""
    return max((one.code for one in found), default=0)


__all__ = [
    "Finding",
    "Level",
    "clock",
    "disk",
    "failed",
    "file_system",
    "fine",
    "hosts",
    "newcomers",
    "open_files",
    "partitions",
    "plan",
    "release",
    "replication",
    "rights",
    "sqlite",
    "worst",
]
