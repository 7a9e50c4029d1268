"""OpenTelemetry traces of kworker's workers: installed, it is there."""

from .plugin import Tracing

plugin = Tracing()

__all__ = ["Tracing", "plugin"]
