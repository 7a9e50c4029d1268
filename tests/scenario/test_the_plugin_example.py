"""The example's package, installed with pip as anyone would, is listed and works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .test_examples import EXAMPLES, KWORKER, PATIENCE, ROOT, dev


def test_the_example_of_a_plugin_can_be_installed_is_listed_and_warns(tmp_path: Path) -> None:
    sources, site = tmp_path / "06_plugin", tmp_path / "site"
    shutil.copytree(EXAMPLES / "06_plugin", sources)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--disable-pip-version-check", "--target", str(site),
         str(sources)],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    # What is not packed up cannot be imported from here by accident.
    shop = tmp_path / "shop"
    shop.mkdir()
    shutil.copy(sources / "shop.py", shop)
    environ = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "NO_COLOR": "1", "SLOW_SECONDS": "0.2",
    }  # fmt: skip

    with dev(shop, environ, "shop:app") as running:
        listed = running.command(*KWORKER, "plugins", "shop:app")
        answered = running.command(*KWORKER, "slow")
        running.publish("orders", '{"seconds": 0.4}')
        running.wait(lambda text: "shop.charge took 0.4 s" in text)

    assert "slow                             kworker-slow-example 0.1.0" in listed
    assert "message_settled register_commands" in listed
    assert answered == "a handler is slow above 0.2 s (SLOW_SECONDS)\n"
