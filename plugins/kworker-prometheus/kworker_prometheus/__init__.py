"""Prometheus metrics of kworker's workers: installed, it is there."""

from .metrics import METRICS, Metric
from .plugin import Prometheus

plugin = Prometheus()

__all__ = ["METRICS", "Metric", "Prometheus", "plugin"]
