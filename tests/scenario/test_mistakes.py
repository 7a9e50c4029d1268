"""Every mistake on the page of errors is answered as the page says: in one to three lines that
name the way out, without a traceback of ours."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("mistakes", DOCS / "mistakes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


mistakes = _loaded()
ALL = [one for chapter in mistakes.CHAPTERS for one in chapter.mistakes]
PAGE = (DOCS / "errors.md").read_text()


@pytest.fixture(scope="module")
def room() -> Any:
    with mistakes.room() as made:
        yield made


def words(text: str) -> str:
    """What was said, without what another OpenSSL, Python or TOML says in other words."""
    text = re.sub(r"(within \d+ s: )[^;]*", r"\1…", text)
    text = re.sub(r"(is not valid TOML: )[^\n]*", r"\1…", text)
    return re.sub(r"(is not JSON )\([^;]*\)", r"\1…", text)


@pytest.mark.parametrize("mistake", ALL, ids=lambda one: one.title)
def test_a_mistake_is_answered_as_its_page_says(room, mistake):
    code, said = room.said(mistake)

    assert code == mistake.code, said
    assert 1 <= len(said.splitlines()) <= 3
    assert "Traceback" not in said
    assert words(mistakes.shown(mistake, code, said)) in words(PAGE), "python docs/mistakes.py"


def test_there_are_more_than_thirty_and_the_page_has_no_other():
    assert len(ALL) > 30
    assert PAGE.count("\n### ") == len(ALL)
