"""Our own plugins: they know hooks and facts, and nothing else."""

from __future__ import annotations

import logging


def own() -> tuple[object, ...]:
    """The plugins that every worker has: its log, in detail where that is asked for."""
    from .journal import Details, Journal

    if logging.getLogger("kworker.worker").isEnabledFor(logging.DEBUG):
        return Journal(), Details()
    return (Journal(),)
