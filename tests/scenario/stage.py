"""What stories about single messages need: send exactly these bytes, hear what handlers saw."""

from __future__ import annotations

import base64
import ctypes
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Message, Producer

from ..faults.harness import Lab, dump, place_of
from ..faults.oracle import Place

APPS = Path(__file__).parent / "apps"

Pairs = Sequence[tuple[str, bytes | None]]


class Stage(Lab):
    """A lab whose handlers tell what they saw (`apps/telling.py`)."""

    def __init__(self, bootstrap: str, group: str, folder: Path) -> None:
        super().__init__(bootstrap, group, folder)
        self.apps = APPS
        self.env["TOLD"] = str(folder / "told.log")

    def told(self, **which: Any) -> list[dict[str, Any]]:
        """What handlers saw, in order; only what agrees with `which`."""
        log = Path(self.env["TOLD"])
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
        return [one for one in found if all(one[name] == value for name, value in which.items())]

    def send(
        self,
        topic: str,
        value: bytes | dict[str, Any] | None,
        *,
        key: bytes | None = b"k",
        headers: Pairs | None = None,
        timestamp: float | None = None,
        partition: int = 0,
    ) -> Place:
        """One message, acknowledged; where it stands. `timestamp` in seconds."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "message.max.bytes": 10_000_000})
        done: list[Message] = []
        problems: list[Any] = []
        producer.produce(
            topic,
            json.dumps(value).encode() if isinstance(value, dict) else value,
            key,
            partition,
            headers=list(headers) if headers is not None else None,
            timestamp=0 if timestamp is None else round(timestamp * 1000),
            on_delivery=lambda error, message: (
                done.append(message) if error is None else problems.append(error)
            ),
        )
        producer.flush(20)
        assert done, f"not acknowledged: {problems}"
        return place_of(done[0])

    def letters(self) -> list[Letter]:
        """All dead letters, as they stand in the topic."""
        return letters(self.bootstrap, self.dlq_topic)

    def letter(self, original: Place, handler: str | None = None) -> Letter:
        """The one dead letter of the message that stood there."""
        found = [
            one
            for one in self.letters()
            if one.original == original and handler in (None, one.ours["kworker-handler"])
        ]
        assert len(found) == 1, f"{len(found)} dead letters for {original}"
        return found[0]


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of one of the group's topics: its bytes, the producer's headers, and ours."""

    place: Place
    key: bytes | None
    value: bytes | None
    theirs: list[tuple[str, bytes | None]]
    ours: dict[str, str]
    timestamp: float  # seconds since the epoch

    @property
    def original(self) -> Place:
        return (
            self.ours["kworker-original-topic"],
            int(self.ours["kworker-original-partition"]),
            int(self.ours["kworker-original-offset"]),
        )


def letters(bootstrap: str, topic: str) -> list[Letter]:
    """Every record of a topic; fails where one of our headers occurs twice."""
    found = []
    for record in dump(bootstrap, topic):
        pairs: Any = record.headers() or []
        ours = [(name, value) for name, value in pairs if name.startswith("kworker-")]
        assert len(ours) == len(dict(ours)), f"a header of ours twice: {ours}"
        found.append(
            Letter(
                place_of(record),
                record.key(),
                record.value(),
                [pair for pair in pairs if not pair[0].startswith("kworker-")],
                {name: value.decode("utf-8") for name, value in ours},
                record.timestamp()[1] / 1000,
            )
        )
    return found


@contextmanager
def staged(bootstrap: str, folder: Path, group: str | None = None) -> Iterator[Stage]:
    """A stage for as long as the block lasts."""
    stage = Stage(bootstrap, group or f"stage-{uuid.uuid4().hex[:8]}", folder)
    try:
        yield stage
    finally:
        stage.close()


def raw(told: str | None) -> bytes | None:
    """Bytes as handlers tell them."""
    return None if told is None else base64.b64decode(told)


def send_with_header_name(
    bootstrap: str, topic: str, key: bytes, value: bytes, name: bytes, partition: int = 0
) -> None:
    """Send a message with a header whose name is any bytes, which no Python client does.

    Goes through the C interface of the very library that confluent-kafka brings.
    """
    library = _librdkafka()
    error = ctypes.create_string_buffer(512)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap.encode(), error, len(error))
    producer = library.rd_kafka_new(0, settings, error, len(error))
    assert producer, error.value
    headers = library.rd_kafka_headers_new(1)
    library.rd_kafka_header_add(headers, name, len(name), b"x", 1)
    # rd_kafka_producev: pairs of type and arguments, ended by 0. 1 topic, 3 partition, 4 value,
    # 5 key, 10 headers.
    refused = library.rd_kafka_producev(
        ctypes.c_void_p(producer),
        ctypes.c_int(1), ctypes.c_char_p(topic.encode()),
        ctypes.c_int(3), ctypes.c_int32(partition),
        ctypes.c_int(4), ctypes.c_char_p(value), ctypes.c_size_t(len(value)),
        ctypes.c_int(5), ctypes.c_char_p(key), ctypes.c_size_t(len(key)),
        ctypes.c_int(7), ctypes.c_int(2),
        ctypes.c_int(10), ctypes.c_void_p(headers),
        ctypes.c_int(0),
    )  # fmt: skip
    assert refused == 0, f"not queued: librdkafka error {refused}"
    assert library.rd_kafka_flush(producer, 20_000) == 0, "not acknowledged within 20 s"
    library.rd_kafka_destroy(producer)


@cache
def _librdkafka() -> Any:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    [path] = folder.glob("librdkafka*.so*")
    library: Any = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = ctypes.c_void_p
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    library.rd_kafka_conf_set.argtypes = [pointer, text, text, text, size]
    library.rd_kafka_new.argtypes = [ctypes.c_int, pointer, text, size]
    library.rd_kafka_headers_new.argtypes = [size]
    library.rd_kafka_header_add.argtypes = [pointer, text, ctypes.c_ssize_t, text, ctypes.c_ssize_t]
    library.rd_kafka_flush.argtypes = [pointer, ctypes.c_int]
    library.rd_kafka_destroy.argtypes = [pointer]
    return library
