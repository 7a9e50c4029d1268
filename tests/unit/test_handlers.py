from __future__ import annotations

import contextlib
import functools
import types
import typing
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from kworker import App
from kworker.context import Context
from kworker.errors import HandlerError, Undecodable
from kworker.handlers import (
    Declaration,
    Handler,
    Register,
    compile_handler,
    declarations,
    defined_in,
    handler,
)
from kworker.message import Message
from kworker.retry import Retry
from kworker.testing import context, message

if TYPE_CHECKING:
    from decimal import Decimal


class Order(BaseModel):
    id: int


class Later(BaseModel):
    other: Afterwards


class Unknown:
    pass


def compiled(function: Any, retry: Retry | None = None) -> Handler:
    return compile_handler(declarations(function)[-1], retry)


def refusal(function: Any) -> str:
    with pytest.raises(HandlerError) as refused:
        compiled(function)
    return str(refused.value)


def call(function: Any, raw: bytes | None = b'{"id": 1}') -> Any:
    """What the function returns when it is called as a worker calls it."""
    found = compiled(function)
    given = message(found.decode(raw, ()), raw=raw)
    return found.function(**found.arguments(given, context(given)))


def test_a_declared_function_stays_the_same_object():
    def charge(order: Order) -> Order:
        return order

    declared = handler("orders")(charge)

    assert declared is charge
    assert declared(Order(id=1)) == Order(id=1)


def test_parameters_are_filled_by_annotation_wherever_they_stand():
    @handler("orders")
    def charge(ctx: Context, order: Order, message: Message[Order], *, again: Context) -> Any:
        return ctx, order, message, again

    ctx, order, arrived, again = call(charge)

    assert order == Order(id=1)
    assert arrived.value is order
    assert isinstance(ctx, Context)
    assert again is ctx


def test_a_message_alone_brings_its_value_as_json():
    @handler("orders")
    def charge(message: Message) -> Any:  # type: ignore[type-arg]
        return message.value

    assert call(charge) == {"id": 1}


def test_a_message_of_a_type_brings_its_value_decoded():
    @handler("orders")
    def charge(message: Message[Order]) -> Any:
        return message.value

    assert call(charge) == Order(id=1)


def test_without_annotation_the_payload_is_json():
    @handler("orders")
    def charge(order):
        return order

    assert call(charge) == {"id": 1}


def test_a_payload_without_annotation_is_what_the_message_beside_it_says():
    @handler("orders")
    def charge(order, message: Message[Order]):
        return order

    assert call(charge) == Order(id=1)


def test_a_parameter_with_a_default_that_nobody_provides_keeps_it():
    @handler("orders")
    def charge(order: Order, limit: int = 5) -> Any:
        return order, limit

    assert call(charge) == (Order(id=1), 5)


def test_a_default_beside_a_message_is_kept_too():
    @handler("orders")
    def charge(message: Message[Order], limit: int = 5) -> Any:
        return message.value, limit

    assert call(charge) == (Order(id=1), 5)


def test_a_payload_with_a_default_is_still_the_payload():
    @handler("orders")
    def charge(ctx: Context, order: Order | None = None) -> Any:
        return order

    assert call(charge) == Order(id=1)


def test_a_context_that_a_test_may_leave_out_is_filled():
    @handler("orders")
    def charge(order: Order, ctx: Context | None = None) -> Any:
        return ctx

    assert isinstance(call(charge), Context)


def test_a_handler_that_asks_for_no_value_is_called_whatever_the_bytes_are():
    @handler("orders")
    def charge(ctx: Context) -> Any:
        return "called"

    assert call(charge, b"\xff not json") == "called"
    assert call(charge, None) == "called"


def test_a_tombstone_reaches_only_a_handler_that_admits_none():
    @handler("orders")
    def keep(order: Order | None) -> Any:
        return order

    @handler("orders")
    def charge(order: Order) -> Any:
        return order

    assert call(keep, None) is None
    with pytest.raises(Undecodable):
        call(charge, None)


def test_names_of_the_enclosing_function_are_found_in_annotations():
    class Local(BaseModel):
        id: int

    @handler("orders")
    def charge(order: Local) -> Any:
        return order

    assert call(charge) == Local(id=1)


def test_names_defined_later_in_the_module_are_found():
    @handler("orders")
    def charge(order: Later) -> Any:
        return order

    assert call(charge, b'{"other": {"id": 1}}') == Later(other=Afterwards(id=1))


class Afterwards(BaseModel):
    id: int


def test_a_return_annotation_that_only_type_checkers_know_is_no_matter():
    @handler("orders")
    def charge(order: Order) -> Decimal | None:
        return None

    assert compiled(charge).topics == ("orders",)


def test_a_function_behind_a_decorator_is_called_through_it_and_placed_where_it_stands():
    @handler("orders")
    @_loudly
    def charge(order: Order) -> Any:
        return order

    assert call(charge) == ("loudly", Order(id=1))
    assert compiled(charge).where.startswith("tests/unit/test_handlers.py:")


def test_a_coroutine_function_behind_a_plain_decorator_is_still_awaited():
    @handler("orders")
    @_loudly
    async def charge(order: Order) -> None: ...

    assert compiled(charge).is_async


def _loudly(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return "loudly", function(*args, **kwargs)

    return wrapper


def test_what_was_declared_is_what_the_handler_has():
    def by_key(message: Message[Any]) -> str | None:
        return "id"

    retry = Retry(attempts=7)

    @handler("orders", "orders.eu", "orders", name="charge", retry=retry, order="none",
             concurrency=4, dedup=by_key, trust_ids=False)  # fmt: skip
    async def charge(order: Order) -> None: ...

    found = compiled(charge)
    assert found.name == "charge"
    assert found.topics == ("orders", "orders.eu")
    assert found.function is charge
    assert found.is_async
    assert found.retry is retry
    assert (found.order, found.concurrency, found.trust_ids) == ("none", 4, False)
    assert found.dedup is by_key


def test_what_was_not_declared_has_plain_defaults():
    found = compiled(_plain)

    assert found.name == f"{__name__}._plain"
    assert not found.is_async
    assert (found.order, found.concurrency, found.dedup, found.trust_ids) == (
        "key",
        None,
        None,
        True,
    )
    assert found.retry.attempts == 3
    assert found.retry.delays == ()


@handler("orders")
def _plain(order: Order) -> None: ...


def test_a_handlers_own_retry_wins_over_the_apps():
    own, apps = Retry(attempts=1), Retry(attempts=9)

    @handler("orders", retry=own)
    def charge(order: Order) -> None: ...

    assert compiled(charge, apps).retry is own
    assert compiled(_plain, apps).retry is apps


# --- what cannot work ------------------------------------------------------------------------


def test_two_payloads_are_refused_with_file_and_line():
    @handler("orders")
    def charge(order: Order, other: Order) -> None: ...

    told = refusal(charge)
    assert told.startswith(f"tests/unit/test_handlers.py:{charge.__code__.co_firstlineno}: ")
    assert "two payloads, 'order' and 'other'" in told


def test_a_payload_and_a_message_that_disagree_are_refused():
    @handler("orders")
    def charge(order: Order, message: Message[Later]) -> None: ...

    assert "decoded once" in refusal(charge)


def test_a_message_of_anything_agrees_with_every_payload():
    @handler("orders")
    def charge(order: Order, message: Message[Any]) -> Any:
        return message.value

    assert call(charge) == Order(id=1)


@pytest.mark.parametrize("annotation", [Unknown, Message[Unknown], list[Unknown]])
def test_an_annotation_that_nobody_provides_is_refused(annotation):
    def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = annotation
    handler("orders")(charge)

    told = refusal(charge)
    assert "nobody can decode" in told
    assert "\n" not in told


def test_an_annotation_that_only_type_checkers_know_is_refused_with_what_to_do():
    @handler("orders")
    def charge(order: Decimal) -> None: ...

    told = refusal(charge)
    assert "'Decimal'" in told
    assert "TYPE_CHECKING" in told


def test_generators_are_refused():
    @handler("orders")
    def charge(order: Order) -> Any:
        yield order

    @handler("orders")
    async def mail(order: Order) -> Any:
        yield order

    @handler("orders")
    @contextlib.contextmanager
    def manage(order: Order) -> Any:
        yield order

    for function in (charge, mail, manage):
        assert "generator" in refusal(function)


def test_parameters_that_nobody_fills_are_refused():
    @handler("orders")
    def args(order: Order, *rest: Any) -> None: ...

    @handler("orders")
    def kwargs(order: Order, **rest: Any) -> None: ...

    @handler("orders")
    def positional(order: Order, /) -> None: ...

    assert "*rest" in refusal(args)
    assert "**rest" in refusal(kwargs)
    assert "'order'" in refusal(positional)


@pytest.mark.parametrize(
    "topic", ["", ".", "..", "a b", "ä", "a/b", "x" * 250, "orders\n", "^orders(", 3, None]
)
def test_a_topic_that_kafka_refuses_is_refused(topic):
    @handler("orders", topic)
    def charge(order: Order) -> None: ...

    assert refusal(charge)


def test_a_pattern_takes_each_topic_once_that_begins_with_it_and_is_not_excluded():
    @handler("^orders", "orders.eu", name="charge")
    @handler("^(orders|returns)\\.", name="count")
    def charge(order: Order) -> None: ...

    register = Register(map(compile_handler, declarations(charge)))
    before = register.topics
    register.find(
        ["orders.eu", "orders", "returns.eu", "my.orders", "orders.dlq"],
        lambda name: name.endswith(".dlq"),
    )

    def names(topic):
        return sorted(one.name for one in register.for_topic(topic))

    assert before == ("orders.eu",)
    assert set(register.topics) == {"orders.eu", "orders", "returns.eu"}
    assert set(register.found) == {"orders", "returns.eu"}
    assert names("orders.eu") == ["charge", "count"]
    assert (names("orders"), names("returns.eu")) == (["charge"], ["count"])
    assert names("my.orders") == names("orders.dlq") == []


def test_a_declaration_without_topics_is_refused():
    def charge(order: Order) -> None: ...

    with pytest.raises(HandlerError, match="no topic"):
        compile_handler(Declaration(charge, (), {}, True, {}))


@pytest.mark.parametrize(
    "options",
    [
        {"retry": 3},
        {"order": "keys"},
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": "4"},
        {"dedup": "id"},
        {"trust_ids": "no"},
        {"name": ""},
        {"name": 3},
        {"name": "a\nb"},
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options):
    @handler("orders", **options)
    def charge(order: Order) -> None: ...

    assert next(iter(options)) in refusal(charge)


def test_an_unknown_option_is_refused_with_the_one_that_was_meant():
    with pytest.raises(HandlerError, match="did you mean 'retry'"):
        handler("orders", retrry=Retry())  # type: ignore[call-arg]


def test_a_decorator_without_its_topic_is_refused():
    def charge(order: Order) -> None: ...

    with pytest.raises(HandlerError, match="needs a topic"):
        handler(charge)  # type: ignore[arg-type]


def test_what_is_no_function_is_refused():
    class Charge:
        def __call__(self, order: Order) -> None: ...

    for thing in (Charge, Charge(), Charge().__call__, functools.partial(print), 3):
        with pytest.raises(HandlerError, match="function"):
            handler("orders")(thing)  # type: ignore[type-var]


def test_a_method_is_refused():
    with pytest.raises(HandlerError, match="method"):

        class Shop:
            @handler("orders")
            def charge(self, order: Order) -> None: ...


# --- the register ----------------------------------------------------------------------------


def test_a_register_finds_handlers_by_topic_and_by_name():
    @handler("orders", name="charge")
    def charge(order: Order) -> None: ...

    @handler("orders", "returns", name="mail")
    def mail(order: Order) -> None: ...

    first, second = compiled(charge), compiled(mail)
    register = Register([first, second])

    assert register.topics == ("orders", "returns")
    assert register.for_topic("orders") == (first, second)
    assert register.for_topic("returns") == (second,)
    assert register.for_topic("none") == ()
    assert register.named("mail") is second
    assert register.named("none") is None
    assert list(register) == [first, second]


def test_a_handler_name_used_twice_is_refused_with_both_places():
    @handler("orders", name="charge")
    def charge(order: Order) -> None: ...

    @handler("returns", name="charge")
    def mail(order: Order) -> None: ...

    with pytest.raises(HandlerError) as refused:
        Register([compiled(charge), compiled(mail)])

    assert "'charge'" in str(refused.value)
    assert str(refused.value).count("tests/unit/test_handlers.py:") == 2


def test_a_function_declared_twice_is_two_handlers_with_names_of_their_own():
    @handler("orders", name="first")
    @handler("returns", name="second")
    def charge(order: Order) -> None: ...

    register = Register(compile_handler(one) for one in declarations(charge))

    assert {one.name: one.topics for one in register} == {
        "first": ("orders",), "second": ("returns",),
    }  # fmt: skip


def test_a_module_gives_the_functions_it_defines_and_each_once():
    module = types.ModuleType("shop")

    def charge(order: Order) -> None: ...

    charge.__module__ = "shop"
    module.charge = handler("orders")(charge)
    module.alias = module.charge
    module.imported = _plain

    found = defined_in(module)

    assert [one.function for one in found] == [module.charge]


def test_a_wrapper_put_around_a_declared_function_is_what_is_called():
    module = types.ModuleType(__name__)
    module.wrapped = _loudly(_plain)

    (found,) = defined_in(module)

    assert found.function is module.wrapped


def test_typed_options_are_all_that_the_decorator_takes():
    from kworker.handlers import HandlerOptions

    hints = typing.get_type_hints(HandlerOptions)

    said = {"name", "retry", "order", "concurrency", "dedup", "trust_ids"}
    assert set(hints) == said | {
        "timeout",
        "expires",
        "publish_to",
        "aliases",
        "codec",
        "rate",
        "batch",
        "retry_order",
    }


def test_a_wrapper_that_says_it_wraps_what_is_no_function_is_placed_by_itself():
    @handler("orders")
    @functools.wraps(print)
    def charge(order: Order) -> None: ...

    assert "tests/unit/test_handlers.py:" in refusal(charge)


def test_time_limits_and_former_names_are_read() -> None:
    @handler("orders", timeout="30s", expires="1h", publish_to="receipts", aliases=["old"])
    def charge(order: bytes) -> None: ...

    compiled = compile_handler(declarations(charge)[0])

    assert (compiled.timeout, compiled.expires) == (30.0, 3600.0)
    assert (compiled.publish_to, compiled.aliases) == ("receipts", ("old",))


@pytest.mark.parametrize(
    "option", [{"timeout": "soon"}, {"expires": 0}, {"publish_to": "a b"}, {"aliases": "old"}]
)
def test_a_limit_or_name_that_cannot_work_is_refused_by_its_option(option: dict) -> None:
    @handler("orders", **option)
    def charge(order: bytes) -> None: ...

    with pytest.raises(HandlerError, match=next(iter(option))):
        compile_handler(declarations(charge)[0])


def test_a_former_name_leads_to_the_handler_and_belongs_to_one_alone() -> None:
    app = App("shop")

    @app.handler("orders", name="new", aliases=["old"])
    def charge(order: bytes) -> None: ...

    found = app.register().named("old")
    assert found is not None and found.name == "new"

    @app.handler("orders", name="old")
    def refund(order: bytes) -> None: ...

    with pytest.raises(HandlerError, match="'old'"):
        app.register()


def shout(raw: bytes, headers: Any) -> str:
    return f"{raw.decode().upper()} {dict(headers).get('mood', b'').decode()}".strip()


def test_a_codec_of_its_own_makes_a_handlers_values_whatever_the_annotation():
    @handler("words", codec=shout)
    def annotated(word: Order) -> None: ...

    @handler("words", codec=shout)
    def plain(word) -> None: ...

    @handler("words", codec=shout)
    def whole(message: Message[str]) -> None: ...

    for function in (annotated, plain, whole):
        assert compiled(function).decode(b"hello", (("mood", b"glad"),)) == "HELLO glad"


def test_a_tombstone_is_no_codecs_business():
    @handler("words", codec=shout)
    def strict(word: str) -> None: ...

    @handler("words", codec=shout)
    def lax(word: str | None) -> None: ...

    assert compiled(lax).decode(None, ()) is None
    with pytest.raises(Undecodable, match="tombstone"):
        compiled(strict).decode(None, ())


def test_what_a_codec_raises_makes_the_message_undecodable_and_tells_nothing_of_it():
    @handler("words", codec=shout)
    def charge(word: str) -> None: ...

    with pytest.raises(Undecodable) as undecodable:
        compiled(charge).decode(b"\xffs3cret", ())

    assert "its codec raised UnicodeDecodeError" in str(undecodable.value)
    assert "s3cret" not in str(undecodable.value)


async def later(raw: bytes, headers: Any) -> str:
    return ""


@pytest.mark.parametrize("wrong", ["avro", later, lambda raw: raw, lambda: None])
def test_a_codec_that_cannot_be_one_is_refused_with_its_place(wrong):
    @handler("words", codec=wrong)
    def charge(word: str) -> None: ...

    told = refusal(charge)

    assert "test_handlers.py:" in told
    assert "give a function of a message's bytes and headers" in told


def test_a_codec_for_no_value_is_refused():
    @handler("words", codec=shout)
    def charge(ctx: Context) -> None: ...

    assert "takes no value" in refusal(charge)
