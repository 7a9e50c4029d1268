"""A real Kafka, one node or three, from Python packages alone."""

from .cluster import Cluster
from .errors import BrokerError, BrokerFailed, BrokerUnavailable
from .node import Node

__all__ = ["BrokerError", "BrokerFailed", "BrokerUnavailable", "Cluster", "Node"]
