"""`python -m kworker_broker`: a Kafka on the loopback until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys

from .cluster import Cluster
from .errors import BrokerError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kworker_broker", description=__doc__)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    nodes: int = parser.parse_args().nodes
    # Blocked before any thread starts, so that the wait below is the one who gets them.
    signals = {signal.SIGINT, signal.SIGTERM}
    try:
        with Cluster.start(nodes) as cluster:
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            print(cluster.bootstrap_servers, flush=True)  # noqa: T201 - its one answer
            signal.sigwait(signals)
    except BrokerError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
