"""The pages keep their word: snippets run, commands exist, links lead somewhere."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from kworker import App, errors, headers, settings
from kworker.cli.main import group

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "plugins").glob("*/*.md"),
    ]
)
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


class Snippet(NamedTuple):
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def snippets(page: Path) -> Iterator[Snippet]:
    text = page.read_text()
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Snippet(page, text[: found.start()].count("\n") + 2, found[1], found[2])


SNIPPETS = [one for page in PAGES for one in snippets(page)]


def of(language: str) -> list[Snippet]:
    return [one for one in SNIPPETS if one.language == language]


def test_every_snippet_says_which_language_it_is_in_so_that_none_escapes():
    known = {"python", "sh", "toml", "text", ""}

    assert {one.language for one in SNIPPETS} <= known
    for one in of(""):
        assert not re.search(r"^\s*(import|from|def|kworker) ", one.code, re.MULTILINE), str(one)


@pytest.mark.parametrize("snippet", of("python"), ids=str)
def test_every_python_snippet_runs_and_its_handlers_can_work(snippet, monkeypatch):
    module = types.ModuleType(f"snippet_{len(snippet.code)}_{snippet.line}")
    module.__file__ = str(snippet.page)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # At its own line of the page, so that an error leads there.
    code = compile("\n" * (snippet.line - 1) + snippet.code, str(snippet.page), "exec")

    exec(code, module.__dict__)  # noqa: S102 - that is the point

    for app in vars(module).values():
        if isinstance(app, App) and ".handler(" in snippet.code:
            app.register()


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """The command lines of a text, without prompts, comments and variables."""
    for number, line in enumerate(text.splitlines()):
        words = shlex.split(line, comments=True)
        if ">" in words:
            del words[words.index(">") :]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield number, words


def refuse(words: list[str]) -> str | None:
    """Why the command line would not accept these words; None if it would."""
    command: click.Command = group
    context = click.Context(group, info_name="kworker")
    rest = words[1:]
    while isinstance(command, click.Group):
        if not rest:
            return "a command is missing"
        found = command.get_command(context, rest[0])
        if found is None:
            return f"there is no command {rest[0]}"
        command, rest = found, rest[1:]
    try:
        command.make_context(command.name, rest, parent=context)
    except click.ClickException as error:
        return error.format_message()
    return None


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("snippet", of("sh"), ids=str)
def test_every_command_in_the_docs_exists_with_its_options(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("orders.ndjson").write_text("{}")

    for number, words in commands(snippet.code):
        where = f"{named(snippet.page)}:{snippet.line + number}: {' '.join(words)}"
        if words[0] == "make":
            assert set(words[1:]) <= targets(), where
        elif words[0] == "kworker":
            assert refuse(words) is None, f"{where}: {refuse(words)}"
        elif words[:3] == ["python", "-m", "kworker_broker"]:
            pass  # its package tests its own command line
        else:
            known = ("pip", "python", "eval")
            assert words[0] in known, f"{where}: a command this test does not know"


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_every_command_an_example_names_exists(example):
    lines = re.findall(r"^ {4}(kworker .*)$", example.read_text(), re.MULTILINE)

    for line in lines:
        words = shlex.split(re.split(r" {2,}", line)[0])  # what follows is an explanation
        assert refuse(words) is None, f"{line}: {refuse(words)}"


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_every_example_begins_with_what_it_is(example):
    assert example.read_text().startswith('"""')


@pytest.mark.parametrize("snippet", of("toml"), ids=str)
def test_every_settings_file_in_the_docs_is_read(snippet, tmp_path):
    tomllib.loads(snippet.code)
    if "kworker.toml" in snippet.code:
        (tmp_path / "kworker.toml").write_text(snippet.code)

        settings.load({}, flags={}, environ={}, folder=tmp_path)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)

    for link in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{named(page)}: {link}"
        assert not anchor or anchor in anchors(there), f"{named(page)}: {link}"


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            there = (page.parent / link).resolve()
            there = there / "README.md" if there.is_dir() else there
            if there.suffix == ".md" and there.is_file() and there not in reached:
                new.add(there)

    assert {named(page) for page in PAGES if "plugins" not in page.parts} == {
        named(page) for page in reached if "plugins" not in page.parts
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_tells_people_to_install_somebody_elses_package(page):
    assert not re.search(r"install\s+['\"]?kworker(?!-)", page.read_text())


@pytest.mark.parametrize(
    ("page", "maker"), [("settings.md", "settings_page"), ("commands.md", "commands_page")]
)
def test_the_pages_to_look_up_are_what_the_code_says(page, maker):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    written = (ROOT / "docs" / "look-up" / page).read_text()

    assert written == getattr(generate, maker)(), "run `python docs/generate.py`"


def test_the_published_tables_are_those_of_the_last_runs():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page, readme = (ROOT / "docs" / "guarantees.md").read_text(), (ROOT / "README.md").read_text()

    assert page == generate.guarantees_page(page), "run `python docs/generate.py`"
    assert readme == generate.readme_page(readme), "run `python docs/generate.py`"


def test_the_metrics_page_is_what_the_plugin_declares():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    page = (ROOT / "docs" / "look-up" / "metrics.md").read_text()

    assert page == generate.metrics_page(), "run `python docs/generate.py`"


def test_every_header_on_the_wire_is_on_its_page():
    page = (ROOT / "docs" / "look-up" / "headers.md").read_text()
    ours = {
        value
        for value in vars(headers).values()
        if isinstance(value, str) and value.startswith(headers.PREFIX) and value != headers.PREFIX
    }

    assert set(re.findall(r"`(kworker-[a-z-]+)`", page)) == ours


def test_every_exit_code_is_on_its_page():
    page = (ROOT / "docs" / "look-up" / "exit-codes.md").read_text()
    raised = {
        one.exit_code
        for one in vars(errors).values()
        if inspect.isclass(one) and issubclass(one, errors.KworkerError)
    }

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == (
        raised | {0, 10}
    )


def test_every_disposition_that_is_written_is_on_the_headers_page():
    page = (ROOT / "docs" / "look-up" / "headers.md").read_text()
    written = {
        word
        for path in (ROOT / "kworker").rglob("*.py")
        for word in re.findall(r'(?:GiveUp\(|disposition=)"(\w+)"', path.read_text())
    }

    assert written
    assert all(f"`{word}`" in page for word in written), written


def test_the_map_of_the_house_has_every_room_and_no_other():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    shown = page[page.index("```\nkworker/") : page.index("plugins/  ")]
    mapped = set(re.findall(r"\b(\w+)(?:\.py|/)", shown)) - {"kworker"}
    package = ROOT / "kworker"
    rooms = {one.stem for one in package.iterdir() if one.suffix == ".py" or one.is_dir()}
    inner = {one.stem for one in (package / "runtime").iterdir()}

    assert (rooms | inner) - mapped <= {"__pycache__", "__main__", "py"}
    assert mapped <= {one.stem for one in package.rglob("*")}


def test_the_changelog_begins_with_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert first is not None
    assert first[1] == version


def test_the_quickstart_is_the_same_in_the_readme_and_in_the_examples():
    (first, *_) = (one for one in of("python") if one.page.name == "README.md")
    example = (ROOT / "examples/01_quickstart/shop/orders.py").read_text()

    def essence(text: str) -> list[str]:
        lines = (re.sub(r"\s+#.*|, flush=True", "", line) for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    assert essence(example)[-len(essence(first.code)) + 2 :] == essence(first.code)[2:]


def test_every_library_has_its_reason():
    page = (ROOT / "docs/decisions/0001-libraries.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    for requirement in project["dependencies"]:
        name, wanted = re.match(r"([\w-]+)(.*)", requirement).groups()
        assert f"| {name} | `{wanted}` |" in page, json.dumps(requirement)
