"""Writes the pages that are grown from the code: `python docs/generate.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from kworker import hookspecs, settings

HERE = Path(__file__).parent

HEAD = """# Settings

*Written by `docs/generate.py` from the one place where settings are declared.*

Command line, then `KWORKER_*` variables, then `kworker.toml`, then `[tool.kworker]` in
pyproject.toml, then `App(…)`, then the default: the closer to the operator, the stronger. A setting
is a flag of `kworker run`, a variable, a key of `kworker.toml` and a keyword of `App`:
`--commit-every 2s`, `KWORKER_COMMIT_EVERY=2s`, `commit_every = "2s"`,
`App("shop", commit_every="2s")`.

Durations are written `"5s"`, `"1m"`, `"250ms"`; plain numbers are seconds. Sizes are written
`"64MiB"`; plain numbers are bytes. An unknown key in a file is refused, an unknown variable is
warned of.

| setting | takes | default | |
|---|---|---|---|
"""

TAIL = """
## Kafka's own properties

What librdkafka calls by a dotted name is passed on as it is, for all clients (`[kafka]`), for
consumers (`[kafka.consumer]`) or for producers (`[kafka.producer]`) in `kworker.toml`, for all by
`-X sasl.username=shop`, and from the environment by `KWORKER_KAFKA__SASL_USERNAME`; a variable that
ends with `_FILE` (`KWORKER_KAFKA__SASL_PASSWORD_FILE`) names a file that holds the value. What is
secret by its name is never printed. Properties that would break a promise (`enable.auto.commit`,
`group.id`, …) are refused, with the reason; Java's names are answered with librdkafka's.
"""


def settings_page() -> str:
    rows = [
        f"| `{one.name}` | {_takes(one)} | {_default(one)} | {one.about.help} |"
        for one in settings.declared().values()
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def hooks_table() -> str:
    """The rows of the table of hooks, the last of `docs/plugins.md`."""
    rows = []
    for name, kind in hookspecs.KINDS.items():
        hook = getattr(hookspecs, name)
        about = " ".join((inspect.getdoc(hook) or "").split("\n\n")[0].split())
        parameters = ", ".join(inspect.signature(hook).parameters)
        rows.append(f"| `{name}({parameters})` | {kind} | {about} |\n")
    return "".join(rows)


def plugins_page(page: str) -> str:
    """The page with the table of hooks as the code has it."""
    head, line, _ = page.partition("| hook | kind | |\n|---|---|---|\n")
    return head + line + hooks_table()


def _takes(one: settings.Declared) -> str:
    if one.choices:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    return "on or off" if one.switch else one.metavar.lower()


def _default(one: settings.Declared) -> str:
    return "" if one.default_text is None else f"`{one.default_text}`"


if __name__ == "__main__":
    (HERE / "look-up" / "settings.md").write_text(settings_page(), encoding="utf-8")
    plugins = HERE / "plugins.md"
    plugins.write_text(plugins_page(plugins.read_text(encoding="utf-8")), encoding="utf-8")
