"""Everything that pydantic reads: models, dataclasses, TypedDict, unions, Python's own types."""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from ..errors import Undecodable
from . import json
from .api import Read

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

SHOWN = 3  # faults that one error names


def reader(annotation: Any) -> Read | None:
    """What reads the annotation out of JSON. Raises TypeError where pydantic has no way to."""
    return _reader(_adapter(annotation), annotation, from_text=False)


def text_reader(annotation: Any) -> Read:
    """What reads an annotation made of `str` (with pydantic's constraints) out of plain text."""
    return _reader(_adapter(annotation), annotation, from_text=True)


def write(value: Any) -> bytes | None:
    """Models and dataclasses as JSON, under their fields' aliases, as they are read."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json.dump(value)
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(value, pydantic.BaseModel):
        return None
    try:
        text: str = value.model_dump_json(by_alias=True)
        if "null" in text or "NaN" in text or "Infinity" in text:
            # Pydantic may have made null of NaN; the slower way refuses it.
            return json.dump(value.model_dump(mode="json", by_alias=True))
        return text.encode("utf-8")
    except ValueError as error:
        raise ValueError(
            f"{type(value).__qualname__} cannot be written as JSON: {error}"
        ) from error


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_portable(annotation, {}))
        # A model may still wait for names that its module defined after it.
        adapter.rebuild(raise_errors=True)
    except Exception as error:  # a type may bring code of its own to make a schema
        raise TypeError(str(error).partition("\n")[0]) from error
    return adapter


def _reader(adapter: TypeAdapter[Any], annotation: Any, *, from_text: bool) -> Read:
    from pydantic import ValidationError

    validate = adapter.validate_json

    def read(raw: bytes) -> Any:
        try:
            return adapter.validate_python(json.as_text(raw)) if from_text else validate(raw)
        except ValidationError as error:
            # From None: pydantic's errors hold the payload, and tracebacks show them.
            told = _faults(error, annotation, adapter) if raw or from_text else json.EMPTY
            raise Undecodable(told) from None
        except Undecodable:
            raise
        except Exception as error:  # noqa: BLE001 - validators are the user's and raise anything
            raise Undecodable(
                f"the value cannot be read as {named(annotation)}: its validation raised "
                f"{type(error).__qualname__}"
            ) from None

    return read


def _faults(error: ValidationError, annotation: Any, adapter: TypeAdapter[Any]) -> str:
    """Where and in what way a value does not fit, in words that hold nothing of it.

    Only the kind of each fault is told, for its text may quote the value; and of the names
    in its path only those the schema holds, for the others are keys of the payload.
    """
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    known = set(_names(adapter.core_schema, set()))
    told = []
    for fault in faults[:SHOWN]:
        path = ".".join(
            str(step) if isinstance(step, int) or step in known else "…" for step in fault["loc"]
        )
        told.append(f"{path}: {fault['type']}" if path else fault["type"])
    more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    if faults[0]["type"] == "json_invalid":
        return f"the value is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}"
    return f"the value does not fit {named(annotation)}: {', '.join(told)}{more}"


def _names(schema: Any, seen: set[int]) -> Iterator[str]:
    """Every text in a schema: the names of its fields, their aliases, of classes and types."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, type):
        yield schema.__name__
    elif isinstance(schema, (dict, list, tuple)) and id(schema) not in seen:
        seen.add(id(schema))
        for part in (*schema, *schema.values()) if isinstance(schema, dict) else schema:
            yield from _names(part, seen)


def named(annotation: Any) -> str:
    """An annotation as its author wrote it, more or less."""
    if get_origin(annotation) is Annotated:
        return named(annotation.__origin__)
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


def _portable(annotation: Any, made: dict[Any, Any]) -> Any:
    """The annotation with each `typing.TypedDict` as the one of typing_extensions, because
    before Python 3.12 pydantic takes no other."""
    if sys.version_info >= (3, 12):
        return annotation
    if isinstance(annotation, type) and typing.is_typeddict(annotation):
        if type(annotation).__module__ != "typing":
            return annotation
        if annotation not in made:
            made[annotation] = annotation  # one that holds itself stays, and is refused
            made[annotation] = _typed_dict(annotation, made)
        return made[annotation]
    parts = get_args(annotation)
    if not parts or get_origin(annotation) is typing.Literal:
        return annotation
    if get_origin(annotation) is Annotated:
        inner = _portable(annotation.__origin__, made)
        return Annotated[(inner, *annotation.__metadata__)]
    portable = tuple(_portable(part, made) for part in parts)
    if portable == parts:
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return functools.reduce(operator.or_, portable)
    origin = get_origin(annotation)
    return origin[portable] if origin is not None else annotation


def _typed_dict(annotation: Any, made: dict[Any, Any]) -> Any:
    from typing_extensions import TypedDict

    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(annotation, include_extras=True).items():
        if get_origin(hint) in (typing.Required, typing.NotRequired):
            required = get_origin(hint) is typing.Required
            (hint,) = get_args(hint)
        else:
            required = name in annotation.__required_keys__
        inner = _portable(hint, made)
        fields[name] = typing.Required[inner] if required else typing.NotRequired[inner]
    config = getattr(annotation, "__pydantic_config__", None)
    portable = TypedDict(annotation.__name__, fields)  # type: ignore[misc]
    portable.__module__ = annotation.__module__
    portable.__doc__ = annotation.__doc__
    if config is not None:
        portable.__pydantic_config__ = config  # type: ignore[attr-defined]
    return portable
