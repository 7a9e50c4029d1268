"""What can go wrong, by who can act. Each is one line: what, where, what now."""

from __future__ import annotations


class BrokerError(Exception):
    """Anything kworker-broker says on purpose."""


class BrokerUnavailable(BrokerError):
    """A Kafka cannot be had on this machine: no Java, or no jars; says how to get them."""


class BrokerFailed(BrokerError):
    """A node that could be had did not start, or did not do what it was told in time."""
