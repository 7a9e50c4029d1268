"""What all tests share."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("kworker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kworker")

# Those of this checkout have tests of their own; here they would be beside every app.
os.environ.setdefault("KWORKER_WITHOUT_PLUGINS", "prometheus,opentelemetry")

# A shell that runs the tests in its background has INT ignored, and what they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
