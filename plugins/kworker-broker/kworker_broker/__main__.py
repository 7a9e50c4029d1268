"""`python -m kworker_broker`: a Kafka on the loopback until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from queue import SimpleQueue

from .cluster import Cluster
from .errors import BrokerError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kworker_broker", description=__doc__)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    nodes: int = parser.parse_args().nodes
    # A queue, whose `put` may interrupt its own `get`; whichever thread a signal comes to, the
    # main one hears of it here.
    told: SimpleQueue[int] = SimpleQueue()
    try:
        with Cluster.start(nodes) as cluster:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _: told.put(number))
            print(cluster.bootstrap_servers, flush=True)  # noqa: T201 - its one answer
            told.get()
    except BrokerError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
