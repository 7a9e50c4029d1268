"""kworker: workers on Kafka that lose nothing and repeat nothing they remember."""

from .app import App
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
from .outcome import HandlerTimeout, Outage, Reject, RetryLater, Skip
from .retry import Retry

__all__ = [
    "App",
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
    "Undecodable",
    "UsageError",
    "handler",
    "hookimpl",
]
