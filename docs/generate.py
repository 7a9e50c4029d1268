"""Writes the pages that are grown from the code: `python docs/generate.py`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kworker import hookspecs, settings
from kworker.cli import commands
from kworker.cli.main import COMMANDS, group

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


COMMANDS_HEAD = """# Commands

*Written by `docs/generate.py` from the commands; `kworker COMMAND --help` says the same.*

Data goes to stdout, everything else to stderr. `--json` gives one document, with its name and
version as `schema`. What writes or deletes in bulk only says what it would do until `--execute`.
Positions are `earliest`, `latest`, `+N`, `-N`, an offset, a time in ISO 8601, or `-2h`. TARGET is
`package.module:app`, `package.module`, or with `--factory` a function that makes the app. While
`kworker dev` runs in a folder, commands there use its broker unless `-b` names another, and say so.

Commands take those [settings](settings.md) as flags that matter to them; of these, only their names
are given here.
"""

_COMMON = {"verbose", "quiet", "properties", "app_dir", "factory"}


def commands_page() -> str:
    parts = [COMMANDS_HEAD]
    for path, command in _commands(group, ()):
        examples, said = commands.told_apart(command.help or "")
        parts.append(f"## kworker {' '.join(path)}\n")
        parts += [f"{' '.join(one.split())}\n" for one in said]
        parts.append("```sh\n" + "\n".join(one.strip() for one in examples) + "\n```\n")
        if rows := [_option(one) for one in command.params if _own(one)]:
            parts.append("| | |\n|---|---|\n" + "\n".join(rows) + "\n")
        flags = [f"`{one.opts[-1]}`" for one in command.params if _is_setting(one)]
        if len(flags) == len(settings.declared()):
            parts.append("Settings: all of them.\n")
        elif flags:
            parts.append(f"Settings: {', '.join(flags)}.\n")
    return "\n".join(parts)


def _commands(
    above: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in COMMANDS if not path else above.list_commands(click.Context(above)):
        command = above.get_command(click.Context(above), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _is_setting(one: click.Parameter) -> bool:
    declared = settings.declared().get(one.name or "")
    return declared is not None and declared.flag in one.opts


def _own(one: click.Parameter) -> bool:
    hidden = isinstance(one, click.Option) and (one.hidden or not one.help)
    return not (hidden or _is_setting(one) or one.name in _COMMON or "--help" in one.opts)


def _option(one: click.Parameter) -> str:
    if not isinstance(one, click.Option):
        return f"| `{one.make_metavar(click.Context(group))}` | |"
    metavar = "" if one.is_flag or one.metavar is None else f" {one.metavar}"
    names = ", ".join(f"`{name}`" for name in one.opts)
    about = " ".join((one.help or "").split()).replace("|", "\\|")
    return f"| {names}{metavar.replace('|', chr(92) + '|')} | {about} |"


METRICS_HEAD = """# Metrics

*Written by `docs/generate.py` from the one place where kworker-prometheus declares them.*

At `/metrics` of [`--health`](../do/watch.md), where
[kworker-prometheus](../../plugins/kworker-prometheus/README.md) is installed. With `--workers` each
has one more label, `worker`: the number of the process.

| metric | kind | labels | |
|---|---|---|---|
"""


def metrics_page() -> str:
    from kworker_prometheus import METRICS

    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} "
        f"| {one.about} |\n"
        for one in METRICS
    ]
    return METRICS_HEAD + "".join(rows)


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


def guarantees_page(page: str) -> str:
    """The page with the rows of the last runs of `make faults` and `make mutants`."""
    rows = _json("guarantees.json")
    table = [
        "| scenario | mode | faults | messages | lost | handled again | of at most | out of order "
        "| recovered, s | run | date | seed |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|---|--:|",
        *(_scenario(row) for row in rows),
    ]
    bugs = [
        "| a worker that | was caught by | which said |",
        "|---|---|---|",
        *(_mutant(one) for one in _json("mutants.json")),
    ]
    page = _between(page, "scenarios", [_summary(rows), "", *table])
    return _between(page, "mutants", bugs)


def readme_page(page: str) -> str:
    """The README with the short form of the table."""
    rows = _json("guarantees.json")
    return _between(page, "faults", [_summary(rows)])


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sums of all scenarios in a sentence or two."""
    if not rows:
        return "Not run yet."
    kept = [row for row in rows if row["mode"] != "at_most_once"]
    faults = sum(sum(row["faults"].values()) for row in rows)
    messages = sum(row["messages"] for row in rows)
    lost, again, bound, disorder = (
        sum(row[name] for row in kept) for name in ("lost", "again", "bound", "disorder")
    )
    told = (
        f"{len(rows)} scenarios, {faults} faults, {messages:,} messages "
        f"(the last on {max(row['date'] for row in rows)}): lost {lost}, out of order {disorder}, "
        f"handled again {again}, where the modes allow {bound}."
    )
    short = sum(row["length"] == "short" for row in rows)
    if short:
        told += f" {short} of them as `make test` runs them, shorter than `make faults` does."
    if len(kept) < len(rows):
        gone = sum(row["lost"] for row in rows if row["mode"] == "at_most_once")
        told += (
            f" Under `at_most_once`, where a crash loses what is in flight: {gone}, each counted."
        )
    return told


def _scenario(row: Mapping[str, Any]) -> str:
    name, _, case = row["test"].rpartition("::")[2].partition("[")
    words = re.sub(r"^test_", "", name).replace("_", " ")
    case = f" ({case.rstrip(']')})" if case else ""
    faults = ", ".join(f"{count} {what}" for what, count in row["faults"].items()) or "none"
    recovered = "" if row["recovered"] is None else f"{row['recovered']:.1f}"
    cells = (
        words + case, row["mode"], faults, f"{row['messages']:,}", row["lost"], row["again"],
        row["bound"], row["disorder"], recovered, row["length"], row["date"],
        "" if row["seed"] is None else row["seed"],
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _mutant(one: Mapping[str, Any]) -> str:
    name = one["test"].rpartition("/")[2].partition("::")[0]
    said = one["said"].replace("|", "\\|").replace("`", "'")
    caught = name if one["caught"] else f"MISSED by {name}"
    return f"| {one['bug']} | `{caught}` | `{said}` |"


def _between(page: str, mark: str, lines: Sequence[str]) -> str:
    head, begin, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    return head + begin + "\n".join(lines) + "\n" + end + tail if begin else page


def _json(name: str) -> list[dict[str, Any]]:
    file = HERE / name
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return found


if __name__ == "__main__":
    (HERE / "look-up" / "commands.md").write_text(commands_page(), encoding="utf-8")
    (HERE / "look-up" / "settings.md").write_text(settings_page(), encoding="utf-8")
    (HERE / "look-up" / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    plugins = HERE / "plugins.md"
    plugins.write_text(plugins_page(plugins.read_text(encoding="utf-8")), encoding="utf-8")
    guarantees = HERE / "guarantees.md"
    guarantees.write_text(guarantees_page(guarantees.read_text(encoding="utf-8")), encoding="utf-8")
    readme = HERE.parent / "README.md"
    readme.write_text(readme_page(readme.read_text(encoding="utf-8")), encoding="utf-8")
