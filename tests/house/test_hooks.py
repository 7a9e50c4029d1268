"""The page of hooks: each has its kind and its words, and docs/plugins.md shows them all."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import types
from pathlib import Path

import pytest

from kworker import App, hookspecs
from kworker.facts import HandlerInfo
from kworker.outcome import Done
from kworker.testing import message

from .test_docs import of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"


def test_every_hook_is_of_a_kind_and_kinds_stand_together() -> None:
    marked = [name for name, one in vars(hookspecs).items() if hasattr(one, "kworker_spec")]

    assert marked == list(hookspecs.KINDS)
    kinds = list(hookspecs.KINDS.values())
    assert list(dict.fromkeys(kinds)) == ["observer", "provider", "wrapper"]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("name", hookspecs.KINDS)
def test_every_hook_says_what_it_is(name: str) -> None:
    hook = getattr(hookspecs, name)

    assert (inspect.getdoc(hook) or "").partition("\n\n")[0].rstrip().endswith(".")
    for parameter in inspect.signature(hook).parameters.values():
        assert parameter.annotation is not parameter.empty


def test_the_page_shows_every_hook_as_the_code_has_it() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = PAGE.read_text()

    assert page == generate.plugins_page(page), "run `python docs/generate.py`"
    assert all(f"| `{name}(" in page for name in hookspecs.KINDS)


def test_the_plugin_of_the_page_warns_of_slow_handlers(caplog: pytest.LogCaptureFixture) -> None:
    [snippet] = [one for one in of("python") if one.page == PAGE]
    module = types.ModuleType("page")
    exec(compile(snippet.code, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - the point
    app: App = module.app
    handler = HandlerInfo("charge", ("orders",))

    for seconds in (0.5, 1.5):
        app.load_plugins().tell(
            "message_settled", message=message({}, id="order-17"), handler=handler,
            outcome=Done(), seconds=seconds,
        )  # fmt: skip

    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
        (logging.WARNING, "charge took 1.5 s for order-17")
    ]
