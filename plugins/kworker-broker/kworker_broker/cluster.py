"""A Kafka cluster of this machine, on the loopback, gone when its owner is."""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from . import client, ports
from .jars import Jars
from .launch import Launch, prepare
from .node import Node, PortTaken
from .processes import Keeper

_ATTEMPTS = 5

# Each node's identity and place in the cluster, which `start` gives it.
_OWNED = frozenset(
    {
        "advertised.listeners",
        "controller.listener.names",
        "controller.quorum.voters",
        "listeners",
        "log.dirs",
        "node.id",
        "process.roles",
    }
)

_LOG4J = """\
appender.f.type=File
appender.f.name=F
appender.f.fileName=${sys:kafka.log.file}
appender.f.layout.type=PatternLayout
appender.f.layout.pattern=%d{ISO8601} %-5p %c{1} - %m%n
rootLogger.level=info
rootLogger.appenderRef.f.ref=F
"""


class Cluster:
    """One or three nodes, each a process of its own, with data in a temporary folder.

    Made by `start`. `close`, the end of a `with`, the end of the interpreter and the owner's
    death, be it by SIGKILL, end the nodes and remove the data. A forked child does not own it.
    """

    def __init__(self, nodes: Sequence[Node], folder: Path, keeper: Keeper) -> None:
        self.nodes = tuple(nodes)
        self.folder = folder
        self._keeper = keeper
        self._owner = os.getpid()
        self._open = True
        atexit.register(self.close)

    @classmethod
    def start(cls, nodes: int = 1, **server_properties: object) -> Cluster:
        """Start a cluster and wait until every node is seen by a client.

        Server properties are written with underscores for dots (`message_max_bytes=1000`) or as
        they are (`**{"message.max.bytes": 1000}`) and win over this module's. The first start on
        a machine downloads Kafka's jars (about 45 MB) and takes half a minute.
        Raises BrokerUnavailable where none can be had, BrokerFailed when one does not start, and
        ValueError for a property that `start` owns.
        """
        if nodes not in (1, 3):
            raise ValueError(f"a cluster has one node or three, not {nodes}")
        given = _properties(server_properties)
        launch = prepare(cls._rehearse)
        return cls._start(nodes, given, launch)

    @classmethod
    def _rehearse(cls, launch: Launch) -> None:
        with cls._start(1, {}, launch) as cluster:
            cluster.nodes[0].terminate()

    @classmethod
    def _start(cls, count: int, given: Mapping[str, str], launch: Launch) -> Cluster:
        for _ in range(_ATTEMPTS - 1):
            try:
                return cls._start_once(count, given, launch)
            except PortTaken:  # between the choice and the bind: choose again
                continue
        return cls._start_once(count, given, launch)

    @classmethod
    def _start_once(cls, count: int, given: Mapping[str, str], launch: Launch) -> Cluster:
        folder = Path(tempfile.mkdtemp(prefix="kworker-broker-"))
        cluster = cls(
            _nodes(count, given, launch, folder, keeper := Keeper(folder)), folder, keeper
        )
        try:
            for node in cluster.nodes:
                node.start()
            cluster.wait_until_ready()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all nodes, dead or alive, in the form clients take."""
        return ",".join(node.address for node in self.nodes)

    def wait_until_ready(self) -> None:
        """Wait until every node answers and sees every other. Raises BrokerFailed."""
        for node in self.nodes:
            node.wait_until_ready({other.number for other in self.nodes})

    def warm_up(self) -> None:
        """Have the topics made that the first group and transaction would wait for (seconds)."""
        client.warm_up(self.bootstrap_servers)

    def close(self) -> None:
        """End every node at once and remove the data. The second time, nothing."""
        if not self._open or os.getpid() != self._owner:
            return
        self._open = False
        atexit.unregister(self.close)
        for node in self.nodes:
            node.kill()
        self._keeper.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _properties(given: Mapping[str, object]) -> dict[str, str]:
    properties = {}
    for name, value in given.items():
        name = name.replace("_", ".")
        if name in _OWNED:
            raise ValueError(f"server property {name} is set by Cluster.start itself; leave it out")
        properties[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return properties


def _nodes(
    count: int,
    given: Mapping[str, str],
    launch: Launch,
    folder: Path,
    keeper: Keeper,
) -> list[Node]:
    chosen = ports.free(2 * count)
    places = list(zip(range(1, count + 1), chosen[:count], chosen[count:], strict=True))
    voters = ",".join(f"{number}@127.0.0.1:{control}" for number, _, control in places)
    cluster_id = _uuid()
    (folder / "log4j2.properties").write_text(_LOG4J)
    nodes = []
    for number, port, control in places:
        home = folder / f"node-{number}"
        _format(home / "data", number, cluster_id, launch.jars)
        properties = {
            **_defaults(count),
            **given,
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "log.dirs": str(home / "data"),
        }
        (home / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in properties.items())
        )
        nodes.append(
            Node(
                number,
                port=port,
                folder=home,
                command=launch.command(folder / "log4j2.properties"),
                environ=launch.environ,
                keeper=keeper,
            )
        )
    return nodes


def _format(data: Path, number: int, cluster_id: str, jars: Jars) -> None:
    """What Kafka's StorageTool does, without the second that starting it takes."""
    data.mkdir(parents=True)
    shutil.copy(jars.formatted, data)
    (data / "meta.properties").write_text(
        f"version=1\ncluster.id={cluster_id}\nnode.id={number}\ndirectory.id={_uuid()}\n"
    )


def _uuid() -> str:
    """A random UUID as Kafka writes it; never beginning with a dash, as Kafka's own never do."""
    while (text := base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _defaults(count: int) -> dict[str, str]:
    """Groups and faults in seconds instead of minutes; topics only when they are created."""
    copies, needed = str(count), "2" if count == 3 else "1"
    properties = {
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "auto.create.topics.enable": "false",
        "broker.session.timeout.ms": "1000" if count == 1 else "2000",
        "broker.heartbeat.interval.ms": "200",
        "default.replication.factor": copies,
        "min.insync.replicas": needed,
        "unclean.leader.election.enable": "false",
        "log.retention.check.interval.ms": "1000",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": "3000",
        "group.consumer.session.timeout.ms": "6000",
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "500",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "4",
    }
    for log in ("transaction.state.log", "share.coordinator.state.topic"):
        properties[f"{log}.replication.factor"] = copies
        properties[f"{log}.min.isr"] = needed
        properties[f"{log}.num.partitions"] = "4"
    if count == 3:
        properties["controller.quorum.election.timeout.ms"] = "1000"
        properties["controller.quorum.fetch.timeout.ms"] = "1000"
    return properties
