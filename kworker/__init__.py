"""kworker: workers on Kafka that lose nothing and repeat nothing they remember."""

from typing import TYPE_CHECKING, Any

from .app import App
from .batch import Batch
from .context import Context
from .errors import (
    CannotGoOn,
    HandlerError,
    KafkaUnavailable,
    KworkerError,
    ProviderError,
    PublishRejected,
    SettingsError,
    StoreError,
    TargetError,
    TopicsMissing,
    Undecodable,
    UsageError,
)
from .handlers import handler
from .hookspecs import hookimpl
from .message import Message
from .outcome import BatchFailure, HandlerTimeout, Outage, Reject, RetryLater, Skip
from .retry import Retry
from .settings import UNIQUE

if TYPE_CHECKING:
    from .transaction import Transaction


def __getattr__(name: str) -> Any:
    """`Transaction` is there when it is asked for: who does not needs no sqlite3."""
    if name == "Transaction":
        from .transaction import Transaction

        return Transaction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "UNIQUE",
    "App",
    "Batch",
    "BatchFailure",
    "CannotGoOn",
    "Context",
    "HandlerError",
    "KafkaUnavailable",
    "KworkerError",
    "Message",
    "ProviderError",
    "PublishRejected",
    "Reject",
    "Retry",
    "Outage",
    "HandlerTimeout",
    "RetryLater",
    "SettingsError",
    "Skip",
    "StoreError",
    "TargetError",
    "TopicsMissing",
    "Transaction",
    "Undecodable",
    "UsageError",
    "handler",
    "hookimpl",
]
