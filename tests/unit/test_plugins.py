"""Plugins: which are refused and how that is told, in which order the others are asked."""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kworker import App, Message, SettingsError, Undecodable, hookimpl, hookspecs, plugins
from kworker.outcome import Outage
from kworker.plugins import Plugin, Plugins
from kworker.testing import message


class Told:
    def __init__(self) -> None:
        self.beats: list[Any] = []

    @hookimpl
    def worker_beat(self, snapshot: Any) -> None:
        self.beats.append(snapshot)


class Wire:
    pass


def app_with(*given: object) -> App:
    return App("shop", plugins=given)


def refusal(*given: object) -> str:
    with pytest.raises(SettingsError) as refused:
        app_with(*given)
    assert refused.value.exit_code == 3
    return str(refused.value)


def plugin(**functions: Callable[..., Any]) -> object:
    """An instance whose methods are these functions, marked."""
    marked = {name: staticmethod(hookimpl(one)) for name, one in functions.items()}
    return type("Sample", (), marked)()


# --- refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (plugin(worker_startd=lambda worker: None),
         "'worker_startd', which is no hook of kworker; did you mean 'worker_started'?"),
        (plugin(worker_beat=lambda snapshots: None),
         "takes 'snapshots' in worker_beat, which is given snapshot; did you mean 'snapshot'?"),
        (plugin(worker_beat=lambda *facts: None), "takes *facts in worker_beat"),
        (plugin(worker_beat=lambda *, snapshot: None), "by keyword only; drop the '*'"),
        (Told, "is a class; give an instance of it, as Told()"),
        (object(), "implements no hook; mark its functions with @hookimpl"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_work_is_refused_by_its_name(given: object, told: str) -> None:
    line = refusal(given)

    assert told in line
    assert line.startswith(f"plugin '{plugins._name_of(given)}' ")
    assert "\n" not in line


def test_a_hook_that_nobody_would_run_is_refused() -> None:
    async def beat(snapshot: Any) -> None: ...

    def around(message: Any) -> Iterator[None]:
        yield

    assert "has worker_beat as async def" in refusal(plugin(worker_beat=beat))
    assert "mark it @contextmanager" in refusal(plugin(around_handler=around))
    wrapping = type("Wrapping", (), {"worker_beat": hookimpl(wrapper=True)(lambda self: None)})()
    assert "as a wrapper of hooks" in refusal(wrapping)


def test_what_is_no_list_of_plugins_is_refused() -> None:
    with pytest.raises(SettingsError, match="give a list of modules or instances"):
        App("shop", plugins="kworker_slow")


def test_a_hook_of_a_later_kworker_may_be_implemented_as_optional() -> None:
    class Ahead(Told):
        @hookimpl(optionalhook=True)
        def worker_dreams(self) -> None: ...

    [found] = app_with(Ahead()).plugins

    assert found.hooks == ("worker_beat",)


# --- told and asked ------------------------------------------------------------------------


def test_a_module_is_a_plugin() -> None:
    module, beats = types.ModuleType("slow"), []
    module.worker_beat = hookimpl(lambda snapshot: beats.append(snapshot))  # type: ignore[attr-defined]

    app_with(module).load_plugins().tell("worker_beat", snapshot=1)

    assert beats == [1]


def test_the_same_thing_is_a_plugin_once_and_two_of_a_class_have_two_names() -> None:
    once, another = Told(), Told()

    app = app_with(once, once, another)
    app.load_plugins([once]).tell("worker_beat", snapshot=1)

    assert len(once.beats) == 1
    name = plugins._name_of(once)
    assert [one.name for one in app.plugins] == [name, f"{name}-2"]


def test_they_are_told_in_their_order_and_one_that_raises_hides_no_other(caplog: Any) -> None:
    order: list[str] = []

    def saying(name: str, error: BaseException | None = None, **options: Any) -> object:
        def beat() -> None:
            order.append(name)
            if error is not None:
                raise error

        return type(name, (), {"worker_beat": staticmethod(hookimpl(**options)(beat))})()

    app = app_with(saying("b", ValueError("no")), saying("c", SystemExit()), saying("d"),
                   saying("a", tryfirst=True))  # fmt: skip

    app.load_plugins([saying("ours")]).tell("worker_beat", snapshot=1)

    assert order == ["a", "ours", "b", "c", "d"]
    assert [one.getMessage() for one in caplog.records] == [
        f"plugin '{__name__}.{name}' failed in worker_beat; the others are told" for name in "bc"
    ]


def test_one_that_fails_or_holds_up_often_is_told_of_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(plugins.time, "monotonic", lambda: now[0])

    def fail() -> None:
        raise ValueError

    def hold_up() -> None:
        now[0] += 1.5

    tell = app_with(plugin(worker_beat=fail)).load_plugins().tell
    for _ in range(1000):
        tell("worker_beat", snapshot=1)
    now[0] += 10
    tell("worker_beat", snapshot=1)
    app_with(plugin(worker_beat=hold_up)).load_plugins().tell("worker_beat", snapshot=1)

    name = f"plugin '{__name__}.Sample'"
    assert [one.getMessage() for one in caplog.records] == [
        f"{name} failed in worker_beat; the others are told",
        f"{name} failed in worker_beat (1000 times since it was last told); the others are told",
        f"{name} took 1.5 s in worker_beat; it holds up the worker",
    ]
    assert [one.exc_info is not None for one in caplog.records] == [True, True, False]


def test_the_first_answer_holds() -> None:
    app = app_with(
        plugin(provide_codec=lambda annotation: None),
        plugin(provide_codec=lambda annotation: lambda raw, headers: "first"),
        plugin(provide_codec=lambda annotation: lambda raw, headers: "second"),
    )

    decode = app.load_plugins().codec(Wire)

    assert decode is not None
    assert decode(b"", ()) == "first"


def test_a_provider_that_raises_or_answers_nonsense_is_refused_by_its_name() -> None:
    def broken(annotation: Any) -> Any:
        raise ValueError("no schema")

    def asked(given: object) -> str:
        app = app_with(given)
        app.handler("orders")(lambda order: None)
        with pytest.raises(SettingsError) as refused:
            app.load_plugins().value(Wire)
        return str(refused.value)

    assert asked(plugin(provide_value=broken)) == (
        f"plugin '{__name__}.Sample' failed in provide_value: ValueError: no schema"
    )
    assert "answered provide_value with 7: give a function, or None" in asked(
        plugin(provide_value=lambda annotation: 7)
    )


# --- codecs and values ---------------------------------------------------------------------


def decoded(annotation: Any, raw: bytes | None, decode: Callable[..., Any]) -> Any:
    asked = []

    def codec(annotation: Any) -> Any:
        asked.append(annotation)
        return decode if annotation is Wire else None

    app = app_with(plugin(provide_codec=codec))

    def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = annotation
    app.handler("orders")(charge)
    [found] = app.register()
    return found.decode(raw, (("schema", b"7"),))


def test_a_codec_gets_bytes_and_headers_and_is_asked_without_the_none() -> None:
    def decode(raw: bytes, headers: Any) -> Any:
        return raw, dict(headers)

    assert decoded(Wire, b"x", decode) == (b"x", {"schema": b"7"})
    assert decoded(Wire | None, b"x", decode) == (b"x", {"schema": b"7"})
    assert decoded(Wire | None, None, decode) is None
    assert decoded(dict, b"{}", decode) == {}
    with pytest.raises(Undecodable, match="Wire does not admit None"):
        decoded(Wire, None, decode)


def test_what_a_codec_raises_is_undecodable_and_tells_nothing_of_the_payload() -> None:
    def broken(raw: bytes, headers: Any) -> Any:
        raise ValueError(f"secret {raw!r}")

    def down(raw: bytes, headers: Any) -> Any:
        raise Outage("the registry is down")

    with pytest.raises(Undecodable) as undecodable:
        decoded(Wire, b"x", broken)
    assert str(undecodable.value) == "no Wire: its codec raised ValueError"
    with pytest.raises(Outage):
        decoded(Wire, b"x", down)


def test_a_parameter_that_a_plugin_fills_is_not_the_payload() -> None:
    app = app_with(
        plugin(provide_value=lambda annotation: (lambda m: m.key) if annotation is Wire else None)
    )

    @app.handler("orders")
    def charge(wire: Wire, order: dict, again: Wire | None, at: Message) -> None: ...

    [found] = app.register()
    given = message({"id": 1}, key=b"k")

    assert found.takes_value == "order"
    assert {name: make(given) for name, make in found.by_plugins} == {"wire": b"k", "again": b"k"}
    assert found.arguments(given, None) == {"order": {"id": 1}, "at": given}


def test_what_the_app_provides_goes_before_what_plugins_do() -> None:
    app = app_with(plugin(provide_value=lambda annotation: lambda message: "a plugin's"))

    @app.provide
    def wire() -> Wire:
        return Wire()

    @app.handler("orders")
    def charge(wire: Wire, at: Message) -> None: ...

    [found] = app.register()

    assert found.by_plugins == ()
    assert found.takes_provided == (("wire", Wire),)


def test_where_nobody_wraps_or_listens_nothing_stands_around_a_call() -> None:
    ready = app_with(Told()).load_plugins()

    assert ready.around is None
    assert ready.started is None


def test_a_wrapper_may_be_a_method_marked_as_context_manager() -> None:
    class Around:
        @hookimpl
        @contextlib.contextmanager
        def around_handler(self, handler: Any) -> Iterator[None]:
            yield

    around = app_with(Around()).load_plugins().around

    assert around is not None
    assert len(around(message({}), None)) == 1  # type: ignore[arg-type]


# --- installed -----------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a distribution that brings one plugin, as pip would leave it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(name: str, code: str, value: str | None = None) -> None:
        info = tmp_path / f"kworker_{name}-1.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Name: kworker-{name}\nVersion: 1.2\n")
        entry = value or f"kworker_{name}"
        info.joinpath("entry_points.txt").write_text(f"[kworker]\n{name} = {entry}\n")
        tmp_path.joinpath(f"kworker_{name}.py").write_text(f"from kworker import hookimpl\n{code}")
        made.append(f"kworker_{name}")
        plugins._entry_points.cache_clear()

    yield make
    plugins._entry_points.cache_clear()
    for name in made:
        sys.modules.pop(name, None)


BEAT = "@hookimpl\ndef worker_beat(): ...\n"


def test_installed_plugins_come_by_name_behind_those_of_the_app(install: Any) -> None:
    install("zebra", BEAT)
    install("ant", BEAT)

    found = app_with(Told()).load_plugins().all

    assert [(one.name, one.origin, one.version) for one in found] == [
        (f"{__name__}.Told", "app", None),
        ("ant", "kworker-ant", "1.2"),
        ("zebra", "kworker-zebra", "1.2"),
    ]
    assert found[1].hooks == ("worker_beat",)


@pytest.mark.parametrize(
    ("code", "value", "told"),
    [
        ("import nosuch", None, "cannot be imported: ModuleNotFoundError: No module named 'nosuch"),
        (BEAT, "kworker_ant:plugin", "cannot be imported: AttributeError"),
        ("raise SystemExit(0)", None, "cannot be imported: SystemExit"),
        ("@hookimpl\ndef worker_bet(): ...", None, "did you mean 'worker_beat'?"),
    ],
)
def test_an_installed_plugin_that_cannot_be_used_refuses_the_start_and_says_the_way_out(
    install: Any, monkeypatch: pytest.MonkeyPatch, code: str, value: str | None, told: str
) -> None:
    install("ant", code, value)
    install("zebra", BEAT)

    with pytest.raises(SettingsError) as refused:
        app_with().load_plugins()

    line = str(refused.value)
    assert line.startswith("plugin 'ant' of kworker-ant")
    assert told in line
    assert line.endswith("leave it out: KWORKER_WITHOUT_PLUGINS=ant")
    assert [one.name for one in plugins.installed() if one.fault is None] == ["zebra"]
    others = os.environ["KWORKER_WITHOUT_PLUGINS"]
    monkeypatch.setenv("KWORKER_WITHOUT_PLUGINS", f"{others}, ant")
    assert [one.name for one in app_with().load_plugins().all] == ["zebra"]


def test_the_plugin_of_an_app_that_is_installed_too_is_one(install: Any) -> None:
    install("ant", BEAT)
    import kworker_ant  # type: ignore[import-not-found]

    found = app_with(kworker_ant).load_plugins().all

    assert [(one.name, one.origin) for one in found] == [("kworker_ant", "app")]


def test_every_kind_of_hook_is_known() -> None:
    assert set(hookspecs.KINDS.values()) == {"observer", "provider", "wrapper"}
    assert Plugins([Plugin("told", Told(), "app")]).all[0].hooks == ("worker_beat",)
