"""A broker without Kafka, for `kworker dev` and for trying things out.

It is librdkafka's mock cluster, in a process of its own: a signal that reaches its thread
would end it. It keeps about 5 MB a partition, knows no topic ids, configurations or
transactions, gives every topic 4 partitions, and forgets everything when it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ..errors import KafkaUnavailable

_READY = 15.0  # seconds: an interpreter starts and imports the client


class EmbeddedBroker:
    """A running embedded broker. It ends with `close`, or with the process that started it."""

    def __init__(self, process: subprocess.Popen[str], bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._process = process

    def close(self) -> None:
        """End the broker; what it held is gone."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start() -> EmbeddedBroker:
    """Start an embedded broker and wait until it listens on 127.0.0.1.

    Raises KafkaUnavailable when it does not come up.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C goes to the whole foreground group; the broker is to outlive the worker.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    stopwatch = threading.Timer(_READY, process.kill)
    stopwatch.start()
    try:
        address = _pipe(process.stdout).readline().strip()
    finally:
        stopwatch.cancel()
    broker = EmbeddedBroker(process, address)
    if not address:
        broker.close()
        raise KafkaUnavailable(
            "the embedded broker did not come up; give the address of a Kafka with -b"
        )
    return broker


def _pipe(pipe: Any) -> Any:
    assert pipe is not None
    return pipe


def main() -> int:
    """The child: a cluster, until whoever holds the other end of stdin lets go of it."""
    parent = os.getppid()
    # Before the cluster's threads are made: they inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    cluster = _quick_cluster() or _plain_cluster()
    sys.stdout.write(cluster[0] + "\n")
    sys.stdout.flush()
    while os.getppid() == parent:
        # A copy of the pipe's other end may live on in a forked process: ask both.
        if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(0, 1024):
            break
    # Nothing is worth keeping, and the cluster's threads need not be asked.
    os._exit(0)


def _plain_cluster() -> tuple[str, Any]:
    """A cluster behind a client's test property; groups wait 3 s for their first members."""
    from confluent_kafka import Producer

    client = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1})
    brokers = client.list_topics(timeout=10).brokers.values()
    return ",".join(f"{broker.host}:{broker.port}" for broker in brokers), client


def _quick_cluster() -> tuple[str, Any] | None:
    """A cluster whose groups form at once, through the client's C library.

    None where the library is not where the wheels put it, or lacks what is needed: that
    interface is not promised to last.
    """
    try:
        library = ctypes.CDLL(str(_library()))
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        words = ctypes.create_string_buffer(512)
        configuration = _function(library, "rd_kafka_conf_new", pointer)()
        _function(
            library, "rd_kafka_conf_set", ctypes.c_int, pointer, text, text, text, ctypes.c_size_t
        )(configuration, b"log_level", b"2", words, 512)
        client = _function(
            library, "rd_kafka_new", pointer, ctypes.c_int, pointer, text, ctypes.c_size_t
        )(0, configuration, words, 512)
        cluster = _function(library, "rd_kafka_mock_cluster_new", pointer, pointer, ctypes.c_int)(
            client, 1
        )
        if not client or not cluster:
            return None
        _function(
            library,
            "rd_kafka_mock_group_initial_rebalance_delay_ms",
            None,
            pointer,
            ctypes.c_int32,
        )(cluster, 0)
        address = _function(library, "rd_kafka_mock_cluster_bootstraps", text, pointer)(cluster)
        return address.decode(), cluster
    except (OSError, AttributeError, LookupError):
        return None


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _library() -> Path:
    """The very library that the client has loaded."""
    import confluent_kafka

    package = Path(confluent_kafka.__file__).parent
    found = [
        *(package.parent / "confluent_kafka.libs").glob("librdkafka-*.so*"),
        *(package / ".dylibs").glob("librdkafka*.dylib"),
    ]
    return found[0] if found else _nowhere()


def _nowhere() -> Path:
    raise LookupError("the client's C library is not where its wheels put it")


if __name__ == "__main__":
    sys.exit(main())
