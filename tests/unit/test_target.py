from __future__ import annotations

import sys

import pytest

from kworker import HandlerError, KworkerError, SettingsError, TargetError, target

SHOP = """
from kworker import App

app = App("shop")
number = 3
nothing = None

@app.handler("orders")
def charge(order): ...

def make():
    return App("made")

def make_nothing(): ...

async def make_later():
    return App("made")

def fail():
    raise RuntimeError("no\\nway")
"""

FREE = """
from kworker import handler

@handler("orders")
def charge(order): ...
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Leaves sys.path and sys.modules as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**modules: str) -> None:
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__", 1)).with_suffix(".py")
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text)

    return write


def refusal(*args, error: type[KworkerError] = TargetError, **kwargs) -> str:
    with pytest.raises(error) as refused:
        target.load(*args, **kwargs)
    told = str(refused.value)
    assert "\n" not in told
    assert refused.value.exit_code == 3
    return told


def names(app) -> list[str]:
    return [one.name for one in app.register()]


def test_an_attribute_that_is_an_app(project):
    project(kshop=SHOP)

    app = target.load("kshop:app")

    assert app.name == "shop"
    assert names(app) == ["kshop.charge"]


def test_a_function_that_makes_an_app(project):
    project(kshop=SHOP)

    assert target.load("kshop:make", factory=True).name == "made"


def test_a_module_stands_for_its_one_app(project):
    project(kshop=SHOP + "\nalias = app\n")

    assert target.load("kshop") is sys.modules["kshop"].app


def test_a_module_without_app_stands_for_the_handlers_it_defines(project):
    project(kpack____init__="", kpack__free=FREE)

    app = target.load("kpack.free")

    assert names(app) == ["kpack.free.charge"]
    assert app.group == "kpack.free"
    assert target.load("kpack.free", group="eu").group == "eu"


def test_an_attribute_that_is_a_module_of_the_package(project):
    project(kpack____init__="", kpack__orders=SHOP, kpack__free=FREE)

    assert target.load("kpack:orders").name == "shop"
    assert names(target.load("kpack:free")) == ["kpack.free.charge"]


def test_an_attribute_that_is_an_imported_module(project):
    project(kshop=SHOP, kmain="import kshop")

    assert target.load("kmain:kshop").name == "shop"


def test_an_attribute_of_the_package_goes_before_its_module_of_that_name(project):
    project(kpack____init__="from kworker import App\norders = App('first')", kpack__orders=SHOP)

    assert target.load("kpack:orders").name == "first"


def test_the_folder_named_is_looked_in_first(project, tmp_path, monkeypatch):
    project(there__kshop=SHOP)

    target.load("kshop:app", app_dir="there")

    assert sys.path[0] == str(tmp_path / "there")


def test_a_module_that_is_not_there_is_one_line(project):
    project(kshop=SHOP, kpack____init__="", kpack__orders=SHOP)

    assert "no module 'nosuch'" in refusal("nosuch:app")
    assert "did you mean 'kshop'" in refusal("kshp:app")
    assert "did you mean 'kpack.orders'" in refusal("kpack.ordrs:app")
    assert "'kshop' is a module, not a package" in refusal("kshop.orders:app")


def test_what_is_no_target_is_told_how_to_write_one(project):
    project(kshop=SHOP)

    for wrong in ("", ":", ":app", "kshop:", "k-shop:app", "kshop..x"):
        assert "write" in refusal(wrong)
    assert "did you mean 'kshop'" in refusal("kshop.py")
    assert "did you mean 'kpack.orders'" in refusal("./kpack/orders.py:app")
    assert "'nowhere'" in refusal("kshop", app_dir="nowhere")


def test_an_attribute_that_is_not_there_names_the_apps(project):
    project(kshop=SHOP, kfree=FREE)

    assert "write kshop:app" in refusal("kshop:shop")
    assert "did you mean 'charge'" in refusal("kfree:chrge")


def test_more_than_one_app_in_a_module_names_them(project):
    project(ktwo="from kworker import App\na = App('a')\nb = App('b')")

    told = refusal("ktwo")
    assert "a, b" in told
    assert "ktwo:a" in told


def test_a_module_with_neither_app_nor_handlers_is_told(project):
    project(kempty="", kother="from kfree import charge", kfree=FREE)

    assert "no App" in refusal("kempty")
    assert "no App" in refusal("kother")


def test_an_attribute_that_is_something_else_is_told(project):
    project(kshop=SHOP, kfree=FREE)

    assert "an int, not an App" in refusal("kshop:number")
    assert "None, not an App" in refusal("kshop:nothing")
    assert "--factory" in refusal("kshop:make")
    assert "is a handler" in refusal("kfree:charge")


def test_a_factory_that_makes_no_app_is_told(project):
    project(kshop=SHOP)

    assert "drop --factory" in refusal("kshop:app", factory=True)
    assert "an int" in refusal("kshop:number", factory=True)
    assert "async def" in refusal("kshop:make_later", factory=True)
    assert "returned None" in refusal("kshop:make_nothing", factory=True)
    told = refusal("kshop:fail", factory=True)
    assert "RuntimeError: no way (kshop.py:20)" in told
    assert "--factory" in refusal("kshop", factory=True)


def test_a_module_that_raises_is_told_with_the_innermost_line_of_the_users(project):
    project(
        kshop="import kdeep",
        kdeep="import json\n\ndef read():\n    return json.loads('{')\n\nread()",
    )

    told = refusal("kshop:app")

    assert told.startswith("module 'kshop' cannot be imported: JSONDecodeError: ")
    assert told.endswith("(kdeep.py:4)")


def test_the_users_own_exception_is_the_cause(project):
    project(kshop="1 / 0")

    with pytest.raises(TargetError) as refused:
        target.load("kshop:app")

    assert isinstance(refused.value.__cause__, ZeroDivisionError)


def test_an_import_that_fails_within_the_module_is_not_taken_for_the_module_itself(project):
    project(kshop="import nosuchlibrary")

    told = refusal("kshop:app")

    assert "module 'kshop' cannot be imported" in told
    assert "No module named 'nosuchlibrary' (kshop.py:1)" in told


def test_a_module_that_python_cannot_read_is_told_with_the_line(project):
    project(kshop="x = 1\ndef f(:\n")

    assert refusal("kshop:app").endswith("(kshop.py:2)")


def test_a_module_that_exits_does_not_end_us(project):
    project(kshop="import sys\nsys.exit(7)")

    assert "SystemExit: 7 (kshop.py:2)" in refusal("kshop:app")


def test_what_kworker_refuses_at_import_keeps_its_kind_and_gets_its_place(project):
    project(
        kset="from kworker import App\n\napp = App('shop', comit_every=1)",
        kretry="from kworker import Retry\nRetry(attempts=0)",
        kbare="from kworker import handler\n\n@handler\ndef f(x): ...",
    )

    assert refusal("kset:app", error=SettingsError).startswith("kset.py:3: unknown setting")
    assert refusal("kretry", error=HandlerError).startswith("kretry.py:2: Retry(attempts=0)")
    assert refusal("kbare", error=HandlerError).startswith("kbare.py:3: the decorator needs")
