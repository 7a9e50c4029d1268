"""What an app provides to its handlers, as it is declared: by type, each after those it needs."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, get_args, get_origin

from . import source
from .context import Context
from .errors import HandlerError
from .handlers import (
    Declaration,
    Refused,
    Register,
    asks_for_transaction,
    finds,
    parameters,
    returns,
)
from .message import Message

_SYNC = (Iterator, Iterable, Generator)
_ASYNC = (AsyncIterator, AsyncIterable, AsyncGenerator)


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """A function that makes one thing which handlers need, compiled.

    `key` is the annotation that asks for it. `wants` are its own parameters by name, each
    another provider's key. What a generator yields is provided, and what follows runs at the
    end.
    """

    name: str
    function: Callable[..., Any]
    where: str
    key: Any
    wants: Mapping[str, Any]
    is_async: bool
    is_generator: bool


def compile_providers(declared: Sequence[Declaration]) -> tuple[Provider, ...]:
    """What was declared, checked, each after those it needs. Raises HandlerError, with the
    place."""
    providers: list[Provider] = []
    for one in declared:
        provider = _named(one, partial(_compile, one))
        for twin in providers:
            if twin.key == provider.key:
                raise HandlerError(
                    f"{provider.where}: {provider.name} provides {_told(provider.key)}, which "
                    f"{twin.name} at {twin.where} provides already; one type, one provider"
                )
        providers.append(provider)
    bound = [
        _named(one, partial(_bind, one, provider, providers))
        for one, provider in zip(declared, providers, strict=True)
    ]
    return _in_order(bound)


def give(register: Register, values: Sequence[tuple[Any, Any]]) -> Register:
    """The handlers with what they take filled in."""
    return Register(
        replace(handler, given={name: finds(key, values) for name, key in handler.takes_provided})
        for handler in register
    )


def _named(declaration: Declaration, work: Callable[[], Provider]) -> Provider:
    try:
        return work()
    except Refused as refusal:
        function = declaration.function
        raise HandlerError(
            f"{source.where_defined(function)}: provider {function.__module__}."
            f"{function.__qualname__} {refusal}"
        ) from refusal.__cause__


def _compile(declaration: Declaration) -> Provider:
    function = declaration.function
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    inner = source.innermost(function)
    if not is_generator and (
        inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    ):
        raise Refused("is wrapped, as by contextmanager; leave the wrapper out, it is not needed")
    annotation = returns(declaration)
    if annotation is inspect.Parameter.empty:
        raise Refused(
            "has no return annotation, which says what it provides; write '-> Client', or "
            "'-> Iterator[Client]' for a generator"
        )
    if is_generator:
        kinds = _ASYNC if inspect.isasyncgenfunction(function) else _SYNC
        if get_origin(annotation) not in kinds or not get_args(annotation):
            raise Refused(
                f"is a generator, so it returns {kinds[0].__name__}[…] of what it yields, not "
                f"{_told(annotation)}"
            )
        annotation = get_args(annotation)[0]
    kworkers = annotation is Context or Message in (annotation, get_origin(annotation))
    if annotation in (None, type(None), Any) or kworkers or asks_for_transaction(annotation):
        raise Refused(f"provides {_told(annotation)}, which no parameter can ask for")
    return Provider(
        name=f"{function.__module__}.{function.__qualname__}",
        function=function,
        where=source.where_defined(function),
        key=annotation,
        wants={},
        is_async=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        is_generator=is_generator,
    )


def _bind(declaration: Declaration, provider: Provider, providers: Sequence[Provider]) -> Provider:
    wants: dict[str, Any] = {}
    for parameter in parameters(declaration):
        if any(other.key == parameter.annotation for other in providers):
            wants[parameter.name] = parameter.annotation
        elif parameter.needed:
            raise Refused(
                f"takes {parameter.name!r}, a {_told(parameter.annotation)}, which nothing provides"
            )
    return replace(provider, wants=wants)


def _in_order(providers: Sequence[Provider]) -> tuple[Provider, ...]:
    """Each after those it needs, else as declared."""
    needs = {
        number: [
            other
            for other, one in enumerate(providers)
            if any(one.key == key for key in provider.wants.values())
        ]
        for number, provider in enumerate(providers)
    }
    try:
        return tuple(providers[number] for number in TopologicalSorter(needs).static_order())
    except CycleError as error:
        around = [providers[number] for number in error.args[1]]
        ways = " needs ".join(one.name for one in reversed(around))
        raise HandlerError(f"{around[0].where}: {ways}: none of them can be made first") from error


def _told(annotation: Any) -> str:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation)
