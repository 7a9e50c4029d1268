"""The modes by their names: what each refuses, and how each is made."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import SettingsError
from ...handlers import Register
from ...kafka import Kafka
from ..failpoints import Arm
from .api import Delivery, Hands
from .at_least_once import AtLeastOnce
from .at_most_once import AtMostOnce
from .exactly_once import ExactlyOnce
from .slots import Slot

MODES = ("at_least_once", "exactly_once", "at_most_once")


def refuse(mode: str, register: Register, *, unique: bool) -> None:
    """Raise SettingsError, with the reason, for what the mode cannot keep its promise with."""
    if mode == "at_least_once":
        return
    holding = next((one.name for one in register if one.holds), None)
    if mode == "at_most_once" and holding is not None:
        raise SettingsError(
            f"delivery={mode}: {holding} has retry_order='hold', but what waits for a retry is "
            "committed already, and its key would go on without it after a crash; let it have "
            "another mode, in a group of its own"
        )
    sharing = next((one.name for one in register if one.takes_transaction), None)
    if sharing is not None:
        raise SettingsError(
            f"delivery={mode}: {sharing} takes a Transaction, which is committed by itself, not "
            "with Kafka; let it have at_least_once, in a group of its own"
        )
    if unique:
        raise SettingsError(
            f"delivery={mode}: a unique group commits nothing, so there is nothing to promise; "
            "leave delivery out, or give the group a name"
        )


def mark(mode: str) -> str:
    """What the client id of a member says of its mode, so that others can tell."""
    return "" if mode == "at_least_once" else f"+{mode}"


def refuse_mixed(mode: str, group: str, client_ids: Iterable[str]) -> None:
    """Raise SettingsError where a group has members of another mode."""
    for client_id in client_ids:
        found = next((one for one in MODES if f"+{one}" in client_id), "at_least_once")
        if client_id.startswith("kworker-") and found != mode:
            raise SettingsError(
                f"delivery={mode}: group {group} has a member with {found} ({client_id}), and a "
                "group has one mode; stop those first (one that was killed is a member until its "
                "session ends), or give this one another --group"
            )


def refuse_embedded(mode: str) -> None:
    """Raise SettingsError where the embedded broker cannot do what the mode needs."""
    if mode == "exactly_once":
        raise SettingsError(
            "delivery=exactly_once: the embedded broker has no transactions; give the address of "
            "a Kafka with -b, or use `kworker dev --broker kafka`"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a delivery is made of. `shared` are the parts that every mode takes."""

    group: str
    instance_id: str | None
    concurrency: int
    connection: Kafka
    arm: Arm
    answer: Callable[[Any], None]
    now: Callable[[], float]
    shared: dict[str, Any]


def make(mode: str, hands: Hands, parts: Parts) -> Delivery:
    """The delivery of that mode. Raises KafkaUnavailable."""
    if mode == "exactly_once":
        return _exactly_once(hands, parts)
    if mode == "at_most_once":
        return AtMostOnce(concurrency=parts.concurrency, hands=hands, **parts.shared)
    return AtLeastOnce(hands=hands, **parts.shared)


def _exactly_once(hands: Hands, parts: Parts) -> Delivery:
    name = f"{parts.group}.{parts.instance_id or socket.gethostname()}"
    slot = Slot(name)
    given = {name: part for name, part in parts.shared.items() if name != "send"}
    return ExactlyOnce(
        hands=hands,
        transactions=parts.arm(
            "transactions", parts.connection.transactions(f"{name}.{slot.number}")
        ),
        answer=parts.answer,
        released=slot.release,
        now=parts.now,
        **given,
    )
