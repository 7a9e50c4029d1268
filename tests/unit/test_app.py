from __future__ import annotations

import subprocess
import sys

import pytest

from kworker import App, HandlerError, Retry, SettingsError, TargetError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes modules into a folder that is looked in first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**modules: str):
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__", 1)).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_apps_name_is_the_group_unless_told_otherwise():
    assert App("shop").group == "shop"
    assert App("shop", group="shop-eu").group == "shop-eu"


def test_settings_given_in_code_are_read_as_everywhere():
    app = App("shop", concurrency=8, commit_every="2s")

    assert app.settings == {"concurrency": 8, "commit_every": 2.0}
    assert app.concurrency == 8
    assert App("shop").settings == {}
    assert App("shop").concurrency == 1
    assert App("shop").delivery == "at_least_once"


def test_an_unknown_setting_is_refused_with_the_one_that_was_meant():
    with pytest.raises(SettingsError, match="did you mean 'commit_every'"):
        App("shop", comit_every=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"retry": 3}, {"delivery": "often"}])
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises(SettingsError):
        App("shop", **options)


@pytest.mark.parametrize("name", ["", " ", None])
def test_an_app_without_a_name_is_refused(name):
    with pytest.raises(SettingsError):
        App(name)


def test_an_app_without_handlers_is_refused():
    with pytest.raises(HandlerError, match="no handlers"):
        App("shop").register()


def test_two_apps_in_one_process_know_nothing_of_each_other():
    shop, mail = App("shop"), App("mail")

    @shop.handler("orders", name="charge")
    def charge(order): ...

    @mail.handler("orders", name="greet")
    def greet(order): ...

    assert [one.name for one in shop.register()] == ["charge"]
    assert [one.name for one in mail.register()] == ["greet"]


def test_the_apps_retry_is_for_handlers_that_have_none():
    apps, own = Retry(attempts=9), Retry(attempts=1)
    app = App("shop", retry=apps)

    @app.handler("orders", name="charge")
    def charge(order): ...

    @app.handler("orders", name="greet", retry=own)
    def greet(order): ...

    assert [one.retry for one in app.register()] == [apps, own]


def test_an_app_takes_the_free_handlers_that_its_modules_define_once_each(project):
    project(
        shop__orders="""
from kworker import handler
from shop.mail import greet

@handler("orders")
def charge(order): ...

again = charge
""",
        shop__mail="""
from kworker import App, handler

other = App("other")

@handler("orders")
def greet(order): ...

@other.handler("orders")
def of_another_app(order): ...
""",
    )
    app = App("shop", include=["shop.orders", "shop.mail", "shop.orders"])

    assert [one.name for one in app.register()] == ["shop.orders.charge", "shop.mail.greet"]
    assert [one.name for one in app.register()] == ["shop.orders.charge", "shop.mail.greet"]


def test_a_module_may_use_the_decorator_of_the_app_that_includes_it(project):
    project(
        shop__app="from kworker import App\napp = App('shop', include=['shop.orders'])",
        shop__orders="""
from shop.app import app

@app.handler("orders")
def charge(order): ...
""",
    )
    from shop.app import app

    assert [one.name for one in app.register()] == ["shop.orders.charge"]


def test_an_included_module_that_is_not_there_is_told(project):
    project(shop__orders="")

    with pytest.raises(TargetError, match=r"no module 'shop.order'; did you mean 'shop.orders'"):
        App("shop", include=["shop.order"]).register()


def test_one_module_to_include_may_be_given_as_it_is(project):
    project(solo="from kworker import handler\n@handler('t')\ndef f(x): ...")

    assert App("shop", include="solo").register().topics == ("t",)


def test_importing_kworker_brings_no_client_library_and_no_pydantic():
    heavy = "{'confluent_kafka', 'pydantic', 'msgspec', 'sqlite3', 'asyncio', 'click'}"

    shown = subprocess.run(
        [sys.executable, "-c", f"import sys, kworker; print({heavy} & set(sys.modules))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert shown.stdout.strip() == "set()"
