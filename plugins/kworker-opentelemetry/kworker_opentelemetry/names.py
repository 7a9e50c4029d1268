"""The names of attributes: OpenTelemetry's messaging conventions, version 1.44, and a few of ours.

Written down here because the library keeps them in a private module while they are in development.
"""

from __future__ import annotations

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
OFFSET = "messaging.kafka.offset"
TOMBSTONE = "messaging.kafka.message.tombstone"
ERROR_TYPE = "error.type"

HANDLER = "kworker.handler"
ATTEMPT = "kworker.attempt"
REPLAY = "kworker.replay"
