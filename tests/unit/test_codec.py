from __future__ import annotations

import dataclasses
import json
import math
import traceback
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker import codec
from kworker.errors import Undecodable


class Order(pydantic.BaseModel):
    id: int
    amount: float = 1.0
    tags: dict[str, int] = {}


class Renamed(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


@dataclasses.dataclass
class Line:
    sku: str
    order: Order | None = None


class Address(TypedDict):
    street: str
    number: typing.NotRequired[int]


class Person(TypedDict):
    name: str
    homes: list[Address]


class Struct(msgspec.Struct):
    id: int
    kind: typing.Literal["a", "b"] = "a"


class Loose(msgspec.Struct):
    anything: Any


class Touchy(pydantic.BaseModel):
    id: int

    @pydantic.model_validator(mode="after")
    def check(self) -> Touchy:
        raise KeyError("s3cret")


def decode(annotation: Any, raw: bytes | None) -> Any:
    return codec.decoder(annotation)(raw, ())


def refusal(annotation: Any, raw: bytes | None) -> str:
    with pytest.raises(Undecodable) as refused:
        decode(annotation, raw)
    return str(refused.value)


@pytest.mark.parametrize(
    ("annotation", "raw", "value"),
    [
        (bytes, b"\xff\x00", b"\xff\x00"),
        (bytes, b"", b""),
        (str, "é".encode(), "é"),
        (str, b"", ""),
        (str, b'"quoted"', '"quoted"'),
        (codec.UNSAID, b'{"a": [1, null]}', {"a": [1, None]}),
        (Any, b"3", 3),
        (object, b'"x"', "x"),
        (dict, b'{"a": 1}', {"a": 1}),
        (list, b"[1]", [1]),
        (int, b"7", 7),
        (bool, b"true", True),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (Order, b'{"id": 1}', Order(id=1)),
        (list[Order], b'[{"id": 1}]', [Order(id=1)]),
        (Line, b'{"sku": "x", "order": {"id": 2}}', Line("x", Order(id=2))),
        (Address, b'{"street": "s"}', {"street": "s"}),
        (
            Person,
            b'{"name": "n", "homes": [{"street": "s", "number": 3}]}',
            {"name": "n", "homes": [{"street": "s", "number": 3}]},
        ),
        (Address | Order, b'{"id": 1}', Order(id=1)),
        (list[Address], b'[{"street": "s"}]', [{"street": "s"}]),
        (Annotated[Address, "note"], b'{"street": "s"}', {"street": "s"}),
        (Order | Line, b'{"sku": "x"}', Line("x")),
        (Struct, b'{"id": 1}', Struct(1)),
        (list[Struct], b'[{"id": 1}]', [Struct(1)]),
        (Struct | None, b"null", None),
        (Order | None, b"null", None),
        (typing.NewType("OrderId", int), b"5", 5),
        (Annotated[str, pydantic.Field(max_length=3)], b"abc", "abc"),
    ],
)
def test_the_annotation_decides_what_the_bytes_become(annotation, raw, value):
    assert decode(annotation, raw) == value


@pytest.mark.parametrize(
    ("annotation", "raw", "value"),
    [
        (Order | str, b'{"id": 1}', Order(id=1)),
        (Order | str, b'{"no": 1}', '{"no": 1}'),
        (str | Order, b'{"id": 1}', Order(id=1)),
        (Order | bytes, b"\xff", b"\xff"),
        (bytes | str, b"text", "text"),
        (bytes | str, b"\xff", b"\xff"),
        (bytes | None, b"", b""),
        (str | None, b"null", "null"),
        (int | str, b"12", 12),
        (int | str, b"x12", "x12"),
    ],
)
def test_in_a_union_text_and_bytes_are_what_nothing_else_can_read(annotation, raw, value):
    decoded = decode(annotation, raw)

    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    "annotation",
    [Order | None, bytes | None, str | None, Struct | None, None, Any, object],
)
def test_a_tombstone_is_none_where_the_annotation_admits_it(annotation):
    assert decode(annotation, None) is None


@pytest.mark.parametrize("annotation", [Order, bytes, str, dict, int, Struct, codec.UNSAID])
def test_a_tombstone_is_refused_where_the_annotation_does_not_admit_it(annotation):
    assert "tombstone" in refusal(annotation, None)


@pytest.mark.parametrize("annotation", [codec.UNSAID, dict, int, Order, Line, Address, Struct])
def test_an_empty_value_is_no_tombstone_and_no_json(annotation):
    assert refusal(annotation, b"") == "the value is empty, which is not JSON"


@pytest.mark.parametrize(
    ("annotation", "raw"),
    [
        (codec.UNSAID, b"{"),
        (codec.UNSAID, b"\xff"),
        (codec.UNSAID, b"[" * 200_000),
        (codec.UNSAID, b"1" * 5000),
        (dict, b"[1]"),
        (list, b"{}"),
        (str, b"\xff"),
        (int, b"1.5"),
        (Order, b"{}"),
        (Order, b"[" * 200_000),
        (Order, b"\xff"),
        (Line, b"{}"),
        (Address, b"{}"),
        (Struct, b"{}"),
        (Struct, b"{"),
        (Struct, b"[" * 200_000),
        (Struct, b'{"id": "\xff"}'),
        (Loose, b'{"anything": ' + b"[" * 200_000),
        (list[Struct], b"[1]"),
        (Touchy, b'{"id": 1}'),
        (Order | Line, b"{}"),
        (Annotated[str, pydantic.Field(max_length=3)], b"abcd"),
    ],
)
def test_bytes_that_do_not_fit_are_undecodable_and_nothing_else(annotation, raw):
    assert refusal(annotation, raw)


@given(st.binary(max_size=40))
def test_no_bytes_make_a_decoder_raise_anything_but_undecodable(raw):
    for annotation in (codec.UNSAID, dict, str, Order, Address, Struct, Order | str | None):
        try:
            decode(annotation, raw)
        except Undecodable:
            pass


def test_an_undecodable_message_says_where_and_what():
    raw = b'{"id": "x", "amount": [], "tags": {}}'

    assert (
        refusal(Order, raw) == "the value does not fit Order: id: int_parsing, amount: float_type"
    )


@pytest.mark.parametrize(
    ("annotation", "raw"),
    [
        (Order, b'{"id": "s3cret"}'),
        (Order, b'{"id": 1, "tags": {"s3cret": "s3cret"}}'),
        (Touchy, b'{"id": 1}'),
        (Struct, b'{"id": "s3cret"}'),
        (Struct, b'{"id": 1, "kind": "s3cret"}'),
        (codec.UNSAID, b'{"s3cret": '),
        (str, b"s3cret\xff"),
        (Order | Line, b'{"id": "s3cret"}'),
        (dict[str, int], b'{"s3cret": "x"}'),
    ],
)
def test_an_undecodable_message_tells_nothing_of_what_was_in_it(annotation, raw):
    with pytest.raises(Undecodable) as refused:
        decode(annotation, raw)

    told = "".join(traceback.format_exception(refused.value))
    assert "s3cret" not in told.replace(repr(raw), "")


class Strange:
    pass


@pytest.mark.parametrize(
    "annotation", [Strange, list[Strange], Struct | Line, typing.Callable[[], int] | Strange]
)
def test_an_annotation_that_nobody_can_decode_is_refused_before_any_message(annotation):
    with pytest.raises(TypeError):
        codec.decoder(annotation)


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (None, None),
        (b"\xff", b"\xff"),
        (b"", b""),
        ("é", "é".encode()),
        ({"a": "é", "b": [1, 2.5, None, True]}, '{"a":"é","b":[1,2.5,null,true]}'.encode()),
        ([1], b"[1]"),
        (3, b"3"),
        (False, b"false"),
        (Order(id=1), b'{"id":1,"amount":1.0,"tags":{}}'),
        (Renamed(orderId=3), b'{"orderId":3}'),
        (Line("x", Order(id=1)), b'{"sku":"x","order":{"id":1,"amount":1.0,"tags":{}}}'),
        (Line("x"), b'{"sku":"x","order":null}'),
        (Struct(1), b'{"id":1,"kind":"a"}'),
        ({"s": Struct(1)}, b'{"s":{"id":1,"kind":"a"}}'),
        ([Line("x")], b'[{"sku":"x","order":null}]'),
    ],
)
def test_a_value_is_written_by_what_it_is(value, raw):
    assert codec.encode(value) == raw


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Order, Order(id=3, tags={"a": 1})),
        (Renamed, Renamed(orderId=1)),
        (Line, Line("x", Order(id=1))),
        (Struct, Struct(1, "b")),
        (Person, {"name": "n", "homes": []}),
        (str, "é"),
        (bytes, b"\x00"),
        (Order | None, None),
    ],
)
def test_what_is_written_is_read_back(annotation, value):
    assert decode(annotation, codec.encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        {"a": [math.inf]},
        Order(id=1, amount=math.nan),
        Line("x", Order(id=1, amount=math.inf)),
        msgspec.convert({"x": math.nan}, msgspec.defstruct("Reading", [("x", float)])),
        "\ud800",
        {"a": "\ud800"},
    ],
)
def test_what_json_cannot_say_is_refused_and_never_changed(value):
    with pytest.raises(ValueError):
        codec.encode(value)


@pytest.mark.parametrize("value", [Strange(), {1, 2}, {"a": Strange()}, Order, object()])
def test_what_has_no_bytes_is_refused_with_what_would_have(value):
    with pytest.raises(TypeError, match="give"):
        codec.encode(value)


def test_a_value_that_holds_itself_is_refused():
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(ValueError):
        codec.encode(circle)


def test_a_key_is_text_or_bytes_or_none():
    assert codec.encode_key("é") == "é".encode()
    assert codec.encode_key(b"\x00") == b"\x00"
    assert codec.encode_key("") == b""
    assert codec.encode_key(None) is None
    with pytest.raises(TypeError, match="str"):
        codec.encode_key(1)  # type: ignore[arg-type]


def test_headers_keep_their_order_and_may_repeat():
    pairs = [("b", "é"), ("a", None), ("b", b"\xff"), ("", "")]

    assert codec.check_headers(pairs) == (
        ("b", "é".encode()), ("a", None), ("b", b"\xff"), ("", b""),
    )  # fmt: skip
    assert codec.check_headers({"a": "x"}) == (("a", b"x"),)
    assert codec.check_headers(None) == ()


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"kworker-attempt": "1"}, ValueError),
        ({"a\0b": "1"}, ValueError),
        ({"\ud800": "1"}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"a": 1}, TypeError),
        ({b"a": "1"}, TypeError),
        ([("a",)], TypeError),
        ("a=b", TypeError),
        (["ab"], TypeError),
    ],
)
def test_headers_that_kafka_would_garble_or_kworker_owns_are_refused(headers, error):
    with pytest.raises(error):
        codec.check_headers(headers)


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


@given(
    raw=st.one_of(
        st.binary(max_size=20),
        JSON_TEXTS,
        st.tuples(JSON_TEXTS, st.integers(0, 40), st.binary(max_size=2)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] :]
        ),
        st.sampled_from([b"1e999", b"NaN", b'"\\ud800"', b"1" * 5000, b"-0", b"\xef\xbb\xbf1"]),
    )
)
@pytest.mark.parametrize("annotation", [dict, list, Any])
def test_json_is_read_alike_with_and_without_msgspec(annotation: Any, raw: bytes) -> None:
    def told(read: Callable[[bytes], Any]) -> str:
        try:
            return repr(read(raw))
        except Undecodable as error:
            return str(error)

    quick = codec.json.reader(annotation)
    slow = codec.json.read if annotation is Any else codec.json._reader_of(annotation)

    assert quick is not None
    assert told(quick) == told(slow)
