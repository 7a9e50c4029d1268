"""A copy that cannot be written: its partition waits and is told, and the others flow."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from .conftest import Labs
from .harness import FULL, Lab, Truth, classes, until

BULK = 3_000  # bytes, which no compression makes fewer
LOOKING = ("-X", "topic.metadata.refresh.interval.ms=2000")
FLOWING = 40

PERMISSIVE = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


def too_large(lab: Lab, topic: str) -> Callable[[], None]:
    """The topic takes no more than the half of such a message, for now."""

    def limit(size: int) -> None:
        entry = classes.ConfigEntry(
            "max.message.bytes",
            str(size),
            incremental_operation=classes.AlterConfigOpType.SET,
        )
        resource = classes.ConfigResource(
            classes.ResourceType.TOPIC, topic, incremental_configs=[entry]
        )
        [future] = lab.admin().incremental_alter_configs([resource]).values()
        future.result(10)

    limit(BULK // 2)
    return lambda: limit(1_048_576)


def missing(lab: Lab, topic: str) -> Callable[[], None]:
    """The topic is deleted under the worker, and made anew later."""
    lab.admin().delete_topics([topic])[topic].result(10)
    until(lambda: topic not in lab.topics(), 10, "it is gone")
    return lambda: [lab.create_topic(topic, partitions=2)].clear()


def forbidden(lab: Lab, topic: str) -> Callable[[], None]:
    """Nobody may write to the topic, until they may."""
    rule = (
        classes.ResourceType.TOPIC, topic, classes.ResourcePatternType.LITERAL, "User:ANONYMOUS",
        "*", classes.AclOperation.WRITE, classes.AclPermissionType.DENY,
    )  # fmt: skip
    [made] = lab.admin().create_acls([classes.AclBinding(*rule)]).values()
    made.result(10)

    def allow() -> None:
        [gone] = lab.admin().delete_acls([classes.AclBindingFilter(*rule)]).values()
        gone.result(10)

    return allow


@pytest.fixture
def guarded(own_kafka: Callable[..., Any], lab_on: Labs) -> Lab:
    """A lab on a cluster that knows rights."""
    return lab_on(own_kafka(**PERMISSIVE).bootstrap_servers)


CASES = [
    pytest.param(deed, kind, id=f"{name} {deed.__name__}".replace("_", " "))
    for deed in (missing, too_large, forbidden)
    for kind, name in (("reject", "dead letters"), ("chain", "retries"))
]


@pytest.mark.parametrize(("deed", "kind"), CASES if FULL else CASES[:1])
def test_a_copy_that_cannot_be_written_holds_up_its_partition_alone_and_is_written_at_last(
    guarded: Lab, deed: Callable[[Lab, str], Callable[[], None]], kind: str
) -> None:
    lab = guarded
    lab.env |= {"TOPIC": lab.create_topic("pressed", partitions=2), "PACE": "1", "DELAYS": "500ms"}
    source = lab.env["TOPIC"]
    truth = Truth(lab.bootstrap, source, "pressed")
    worker = lab.start("storm:app", *LOOKING, "--commit-every", "100ms", "--concurrency", "4")
    truth.send("first", partition=0)
    truth.flush()
    until(lambda: lab.committed([source]).get((source, 0)) == 1, 30, "the worker is at work")
    target = lab.dlq_topic if kind == "reject" else f"{lab.group}.retry.500ms"

    mend = deed(lab, target)
    lab.fault(f"{target.partition('.')[2]} {deed.__name__.replace('_', ' ')}")
    truth.send("stuck", kind, partition=0, bulk=random.randbytes(BULK).hex())
    truth.flush()
    until(lambda: f"{source}/0 waits: {target} does not take" in worker.output, 40, "it is told")
    for number in range(FLOWING):
        truth.send(f"k{number}", partition=number % 2)
    sent = truth.flush()
    until(lambda: settled(lab) >= 1 + FLOWING, 30, "the others are handled")
    until(lambda: lab.committed([source])[source, 1] == FLOWING // 2, 10, "and committed")

    assert lab.committed([source])[source, 0] == 1, "nothing is committed past what waits"
    assert worker.running
    mend()
    lab.wait_for_lag_0([source], 90)
    worker.signal(signal.SIGTERM)
    assert worker.wait(25) == 0
    verdict = lab.verdict(sent, handlers=["storm"])
    if deed is too_large and kind == "reject":  # it went without what made it too large
        [letter] = verdict.unfaithful
        assert letter.endswith("lacks kworker-error-message, kworker-error-stacktrace")
        verdict = replace(verdict, unfaithful=())
    assert verdict.problems == []
    assert verdict.repeated == []


def settled(lab: Lab) -> int:
    return sum(effect.phase == "end" for effect in lab.effects())
