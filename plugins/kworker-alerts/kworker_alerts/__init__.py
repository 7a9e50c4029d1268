"""Messages to people about what goes wrong in kworker's workers and publishers."""

from .plugin import Alerts

__all__ = ["Alerts"]
