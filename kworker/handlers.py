"""Handler and its register: which function takes which topic, and how it is called."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, TypeVar, Union, Unpack, get_args, get_origin

from . import codec, durations, source
from .batch import Batch
from .context import Context, Shared
from .errors import HandlerError
from .message import Headers, Message
from .names import did_you_mean, topic_fault
from .plugins import Plugins
from .retry import Retry

F = TypeVar("F", bound=Callable[..., Any])

Order = Literal["key", "partition", "none"]
RetryOrder = Literal["release", "hold"]
Dedup = Callable[[Message[Any]], str | None]

_ATTRIBUTE = "__kworker_handlers__"
_DEFAULT_RETRY = Retry()
_UNSAID = inspect.Parameter.empty


class HandlerOptions(TypedDict, total=False):
    """What may be said about a handler besides its topics."""

    name: str | None
    retry: Retry | None
    order: Order | None
    retry_order: RetryOrder | None
    concurrency: int | None
    dedup: Dedup | None
    trust_ids: bool
    timeout: str | float | None
    expires: str | float | None
    publish_to: str | None
    aliases: Sequence[str]
    codec: codec.Foreign | None
    rate: str | float | None
    batch: Batch | None


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """What a decorator said about a function; judged when an app compiles it.

    `free`: by the free-standing decorator, so that it belongs to whoever includes its module.
    `names` are those around a function defined within another; its annotations may need them.
    """

    function: Callable[..., Any]
    topics: tuple[str, ...]
    options: Mapping[str, Any]
    free: bool
    names: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A function with its topics, compiled: everything a message asks of it is decided.

    `where` is its file:line. `decode` turns a message's bytes (None: a tombstone) into what
    the payload's annotation says; it raises Undecodable and nothing else.
    """

    name: str
    topics: tuple[str, ...]
    function: Callable[..., Any]
    is_async: bool
    retry: Retry
    order: Order
    concurrency: int | None
    dedup: Dedup | None
    trust_ids: bool
    where: str
    decode: codec.Decoder
    timeout: float | None = None  # seconds
    expires: float | None = None  # seconds
    publish_to: str | None = None
    aliases: tuple[str, ...] = ()
    rate: float | None = None  # calls a second
    batch: Batch | None = None
    retry_order: RetryOrder = "release"
    takes_value: str | None = None  # the parameter's name
    takes_message: tuple[str, ...] = ()
    takes_context: tuple[str, ...] = ()
    takes_transaction: str | None = None  # the parameter's name
    takes_provided: tuple[tuple[str, Any], ...] = ()  # parameters, and what each asks for
    given: Mapping[str, Any] = field(default_factory=dict)  # what was provided, by parameter
    by_plugins: tuple[tuple[str, Callable[[Message[Any]], Any]], ...] = ()  # parameters

    @property
    def holds(self) -> bool:
        """Whether a message that waits for a retry keeps those behind it in its lane waiting."""
        return self.retry_order == "hold"

    @property
    def retry_topics(self) -> tuple[float, ...]:
        """The delays, in seconds, of the retry topics that its messages go through; none where
        they wait in place."""
        return () if self.holds else self.retry.delays

    def arguments(self, message: Message[Any], context: Context | None) -> dict[str, Any]:
        """The keyword arguments to call the function with, but for those made `by_plugins`;
        the context may be None where the function does not ask for it."""
        arguments: dict[str, Any] = dict(self.given)
        if self.takes_value is not None:
            arguments[self.takes_value] = message.value
        for name in self.takes_message:
            arguments[name] = message
        for name in self.takes_context:
            arguments[name] = context
        return arguments

    def arguments_of(self, messages: Sequence[Message[Any]]) -> dict[str, Any]:
        """The keyword arguments to call a handler of batches with."""
        arguments: dict[str, Any] = dict(self.given)
        if self.takes_value is not None:
            arguments[self.takes_value] = [message.value for message in messages]
        for name in self.takes_message:
            arguments[name] = list(messages)
        return arguments

    def __repr__(self) -> str:
        return f"Handler({self.name!r}, topics={list(self.topics)})"


class Register:
    """An app's handlers, in the order of their declaration. Raises HandlerError for a name
    used twice."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._by_name: dict[str, Handler] = {}
        by_topic: dict[str, list[Handler]] = {}
        for handler in handlers:
            twin = self._by_name.setdefault(handler.name, handler)
            if twin is not handler:
                raise HandlerError(
                    f"{handler.where}: the handler name {handler.name!r} is already used at "
                    f"{twin.where}; give one of them another with name="
                )
            for topic in handler.topics:
                if not topic.startswith("^"):
                    by_topic.setdefault(topic, []).append(handler)
        self._by_alias: dict[str, Handler] = {}
        for handler in self._by_name.values():
            for alias in handler.aliases:
                twin = self._by_name.get(alias) or self._by_alias.setdefault(alias, handler)
                if twin is not handler:
                    raise HandlerError(
                        f"{handler.where}: the alias {alias!r} is a name of the handler at "
                        f"{twin.where}; a name means one handler"
                    )
        self._by_topic = {topic: tuple(found) for topic, found in by_topic.items()}
        self._found: dict[str, tuple[Handler, ...]] = {}

    def find(self, known: Iterable[str], but: Callable[[str], bool]) -> None:
        """Take those of the known topics that a regular expression of a handler matches, from
        their beginning, and that are not excluded. They are among `topics` until the next call."""
        patterns = {
            topic: re.compile(topic)
            for handler in self
            for topic in handler.topics
            if topic.startswith("^")
        }
        if not patterns:
            return
        found: dict[str, tuple[Handler, ...]] = {}
        for name in sorted(set(known)):
            matching = {topic for topic, pattern in patterns.items() if pattern.match(name)}
            if matching and not but(name):
                matching.add(name)
                found[name] = tuple(one for one in self if not matching.isdisjoint(one.topics))
        self._found = found

    @property
    def found(self) -> tuple[str, ...]:
        """The topics that only a regular expression names."""
        return tuple(topic for topic in self._found if topic not in self._by_topic)

    def for_topic(self, topic: str) -> tuple[Handler, ...]:
        """The handlers that take messages of the topic."""
        return self._found.get(topic) or self._by_topic.get(topic, ())

    def named(self, name: str) -> Handler | None:
        """The handler of that name, or whose name that once was."""
        return self._by_name.get(name) or self._by_alias.get(name)

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that a handler takes, each once; of those that it takes by a regular
        expression, the ones that were found."""
        return tuple(dict.fromkeys((*self._by_topic, *self._found)))

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def handler(topic: str, *topics: str, **options: Unpack[HandlerOptions]) -> Callable[[F], F]:
    """Declare a function as the handler of topics; one that begins with `^` is a regular
    expression, which takes every topic whose name begins with what it matches.

    The function stays what it is and can be called in tests as ever. It is found by an app
    that includes its module, or by `kworker run package.module`. Options: `name` (default
    module.qualname), `retry`, `order` ("key", "partition" or "none"), `retry_order` ("release":
    later messages pass one that waits for a retry; "hold": those of its key, or partition, wait
    for it), `concurrency` (a cap within the worker's), `dedup` (message to id), `trust_ids`
    (False: positions only), `timeout` of a call, `expires` (older messages are dead-lettered),
    `publish_to` (a topic for what it returns), `aliases` (its former names), `rate` (`"100/s"`,
    calls within this process), `batch` (a `Batch`: it takes lists) and `codec` (a function of a
    message's bytes and headers that makes its value, in place of what the annotation would mean).
    Raises HandlerError for what is no function and for an unknown option; all else is
    checked when a worker starts.
    """
    return declare((topic, *topics), options)


def declare(
    topics: tuple[str, ...],
    options: Mapping[str, Any],
    keep: Callable[[Declaration], None] | None = None,
) -> Callable[[F], F]:
    """The decorator behind `handler`, and behind `App.handler`, which keeps what is declared."""
    if topics and callable(topics[0]):
        raise HandlerError('the decorator needs a topic: write @handler("orders")')
    for name in options:
        if name not in HandlerOptions.__annotations__:
            near = did_you_mean(name, HandlerOptions.__annotations__)
            raise HandlerError(f"unknown handler option {name!r}{near}")

    def decorate(function: F) -> F:
        _refuse_no_function(function, "a handler")
        names = _names_around(function, 2)
        declaration = Declaration(function, topics, dict(options), keep is None, names)
        setattr(function, _ATTRIBUTE, (*declarations(function), declaration))
        if keep is not None:
            keep(declaration)
        return function

    return decorate


def declared(function: Callable[..., Any]) -> Declaration:
    """A function of an app that is no handler, as it is to be compiled. To be called by the
    decorator itself. Raises HandlerError for what is no function."""
    _refuse_no_function(function, "what provides")
    return Declaration(function, (), {}, False, _names_around(function, 3))


def _names_around(function: Callable[..., Any], above: int) -> Mapping[str, Any]:
    """What is known where a function is defined within another: so many frames above."""
    if "<locals>" not in function.__qualname__:
        return {}
    frame = inspect.currentframe()
    for _ in range(above):
        frame = frame.f_back if frame is not None else None
    return dict(frame.f_locals) if frame is not None else {}


def declarations(function: object) -> tuple[Declaration, ...]:
    """What decorators said about the function, the innermost first."""
    found: tuple[Declaration, ...] = getattr(function, _ATTRIBUTE, ())
    return found


def defined_in(module: types.ModuleType) -> list[Declaration]:
    """The free-standing declarations of the functions that a module defines, each once."""
    found: dict[int, Declaration] = {}
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            for declaration in declarations(function):
                if declaration.free:
                    found.setdefault(id(declaration), _standing_for(function, declaration))
    return list(found.values())


def compile_handler(
    declaration: Declaration,
    default_retry: Retry | None = None,
    provided: Sequence[Any] = (),
    plugins: Plugins | None = None,
) -> Handler:
    """What was declared, checked and ready to be called. Raises HandlerError, with the place.

    A handler's own retry wins over `default_retry`, the app's. `provided` are the annotations
    of what the app provides; whoever runs the handler fills in `given`. `plugins` are asked for
    codecs, and for values that the app does not provide; one that fails there raises
    SettingsError.
    """
    function = declaration.function
    where = source.where_defined(function)
    try:
        return _compile(declaration, default_retry, where, provided, plugins or Plugins(()))
    except Refused as refusal:
        name = f"{function.__module__}.{function.__qualname__}"
        raise HandlerError(f"{where}: handler {name} {refusal}") from refusal.__cause__


class Refused(Exception):
    """Why a handler or a provider cannot work, to be read after its name."""


class Parameter(typing.NamedTuple):
    name: str
    annotation: Any
    needed: bool  # it has no default


def _compile(
    declaration: Declaration,
    default_retry: Retry | None,
    where: str,
    provided: Sequence[Any],
    plugins: Plugins,
) -> Handler:
    function, options = declaration.function, declaration.options
    inner = source.innermost(function)
    for one in (function, inner):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise Refused("is a generator: nobody would run it; use return instead of yield")
    name = options.get("name")
    if name is None:
        name = f"{function.__module__}.{function.__qualname__}"
    elif not isinstance(name, str) or not name or not name.isprintable():
        raise Refused(f"has name={name!r}: give printable text")
    resources, others = _told_apart(parameters(declaration), provided)
    transaction, others = _transaction(others, provided)
    # A plain wrapper around a coroutine function hands its coroutine on: left alone, nobody
    # would await it.
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inner)
    if transaction is not None and is_async:
        raise Refused(
            "takes a Transaction and is async: while it awaits, nobody on this host could "
            "record anything; make it a def"
        )
    by_plugins = _by_plugins(others, plugins)
    batch = _batch(options.get("batch"))
    if batch is not None:
        others = [_of_several(one) for one in others]
    value, messages, contexts, wanted = _bind([one for one in others if one.name not in by_plugins])
    if batch is not None and (transaction or contexts or by_plugins):
        taken = transaction or (*contexts, *by_plugins)[0]
        raise Refused(
            f"takes {taken!r}, which belongs to one message, and gets batches: take list[...] or "
            "list[Message[...]] alone, and publish what it returns with publish_to"
        )
    order = _order(options.get("order"))
    retry_order = _retry_order(options.get("retry_order"))
    if retry_order == "hold" and (order == "none" or batch is not None):
        other = "order='none'" if order == "none" else "a batch"
        raise Refused(
            f"has retry_order='hold' and {other}: a message that fails could not hold up those "
            "behind it; choose one of the two"
        )
    return Handler(
        name=name,
        topics=_topics(declaration.topics),
        function=function,
        is_async=is_async,
        retry=_retry(options.get("retry")) or default_retry or _DEFAULT_RETRY,
        order=order,
        retry_order=retry_order,
        concurrency=_concurrency(options.get("concurrency")),
        dedup=_dedup(options.get("dedup")),
        trust_ids=_trust_ids(options.get("trust_ids", True)),
        where=where,
        decode=_decode(wanted, options.get("codec"), plugins, asked=bool(value or messages)),
        timeout=_duration("timeout", options.get("timeout")),
        expires=_duration("expires", options.get("expires")),
        publish_to=_publish_to(options.get("publish_to")),
        aliases=_aliases(options.get("aliases", ())),
        rate=_rate(options.get("rate")),
        batch=batch,
        takes_value=value,
        takes_message=messages,
        takes_context=contexts,
        takes_transaction=transaction,
        takes_provided=resources,
        by_plugins=tuple(by_plugins.items()),
    )


def _refuse_no_function(function: Any, role: str) -> None:
    if inspect.isfunction(function):
        outer = function.__qualname__.rpartition(".")[0]
        if outer and not outer.endswith("<locals>"):
            raise HandlerError(
                f"{source.where_defined(function)}: {function.__qualname__} is a method; {role} "
                "is a function of a module, which can call it"
            )
        return
    what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
    raise HandlerError(
        f"{role} is a function made with def or async def, not {what} ({function!r:.80})"
    )


def _standing_for(function: Callable[..., Any], declaration: Declaration) -> Declaration:
    """A decorator outside ours that uses functools.wraps carries the declaration along; it
    was put there to be called."""
    return replace(declaration, function=function)


# --- parameters ----------------------------------------------------------------------------


def finds(annotation: Any, values: Sequence[tuple[Any, Any]]) -> Any:
    """What is there for an annotation. Raises KeyError for nothing.

    By equality and not by hash: an annotation may hold what has none.
    """
    for key, value in values:
        if key == annotation:
            return value
    raise KeyError(annotation)


def returns(declaration: Declaration) -> Any:
    """The return annotation, its names looked up; `inspect.Parameter.empty` for none. Raises
    Refused for one that cannot be resolved."""
    annotation = source.innermost(declaration.function).__annotations__.get("return", _UNSAID)
    return _resolve(declaration, "return", annotation)


def parameters(declaration: Declaration) -> list[Parameter]:
    """The function's parameters, their annotations resolved. Raises Refused for those that
    nobody could fill."""
    function = declaration.function
    try:
        signature = _signature(function)
    except (NameError, ValueError, TypeError) as error:
        raise Refused(f"has a signature that cannot be read: {error}") from error
    found = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise Refused(f"takes *{name}, which nobody fills; name its parameters")
        if parameter.kind is parameter.VAR_KEYWORD:
            raise Refused(f"takes **{name}, which nobody fills; name its parameters")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise Refused(f"takes {name!r} by position only; it is called by name: drop the '/'")
        annotation = _resolve(declaration, name, parameter.annotation)
        found.append(Parameter(name, annotation, parameter.default is _UNSAID))
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # There, annotations are evaluated when they are asked for; those of the parameters
        # are resolved one by one, and what is returned is no matter.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _resolve(declaration: Declaration, name: str, annotation: Any) -> Any:
    """The annotation with the names in it looked up: in the module, and for a function
    defined within another, among what that function knew."""
    if annotation is _UNSAID:
        return annotation
    inner = source.innermost(declaration.function)
    known = {**inner.__globals__, **declaration.names, **_closure(inner)}
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(holder, known, known, include_extras=True)[name]
    except NameError as error:
        raise Refused(
            f"has parameter {name!r} with annotation {annotation!r}: {error} where a worker "
            "looks; import it outside of TYPE_CHECKING, or define it in the module"
        ) from error
    except Exception as error:  # an annotation is the user's code
        raise Refused(
            f"has parameter {name!r} with annotation {annotation!r}, which cannot be resolved: "
            f"{type(error).__name__}: {error}"
        ) from error


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _told_apart(
    parameters: list[Parameter], provided: Sequence[Any]
) -> tuple[tuple[tuple[str, Any], ...], list[Parameter]]:
    """What the app provides, by parameter and annotation, and the other parameters."""
    resources: list[tuple[str, Any]] = []
    others: list[Parameter] = []
    for parameter in parameters:
        for annotation in (parameter.annotation, _without_none(parameter.annotation)):
            if annotation in provided:
                if annotation is getattr(sys.modules.get("sqlite3"), "Connection", _UNSAID):
                    raise Refused(
                        f"takes {parameter.name!r} as sqlite3.Connection, which may mean the "
                        "app's or the transaction: annotate it as kworker.Transaction, or give "
                        "the app's a type of its own"
                    )
                resources.append((parameter.name, annotation))
                break
        else:
            others.append(parameter)
    return tuple(resources), others


def asks_for_transaction(annotation: Any) -> bool:
    """Whether it is `Transaction`; the bare `sqlite3.Connection` is another question."""
    return any(isinstance(one, Shared) for one in getattr(annotation, "__metadata__", ()))


def _transaction(
    parameters: list[Parameter], provided: Sequence[Any]
) -> tuple[str | None, list[Parameter]]:
    """The parameter that takes the transaction, and the others."""
    # Whose annotation it is has imported it.
    bare = getattr(sys.modules.get("sqlite3"), "Connection", None)
    found: str | None = None
    others: list[Parameter] = []
    for parameter in parameters:
        kind = _without_none(parameter.annotation)
        if not asks_for_transaction(kind) and (bare is None or kind is not bare):
            others.append(parameter)
        elif found is not None:
            raise Refused(f"takes the transaction twice, in {found!r} and in {parameter.name!r}")
        else:
            found = parameter.name
    return found, others


def _bind(
    parameters: list[Parameter],
) -> tuple[str | None, tuple[str, ...], tuple[str, ...], Any]:
    """Who gets what: the payload's parameter, those for the message and the context; and the
    annotation that says how to decode."""
    contexts: list[str] = []
    messages: list[str] = []
    others: list[Parameter] = []
    wanted: list[tuple[str, Any]] = []
    for parameter in parameters:
        kind = _without_none(parameter.annotation)
        if kind is Context:
            contexts.append(parameter.name)
        elif kind is Message or get_origin(kind) is Message:
            messages.append(parameter.name)
            for of in get_args(kind):
                wanted.append((parameter.name, of))
        else:
            others.append(parameter)

    payload: Parameter | None = others[0] if others else None
    if payload is not None and messages and not payload.needed:
        payload = None  # the message brings the value; what has a default keeps it
    for other in others:
        if other is payload or not other.needed:
            continue
        assert payload is not None
        raise Refused(
            f"takes two payloads, {payload.name!r} and {other.name!r}: nobody fills the second; "
            "annotate it as Message or Context, provide it with @app.provide, or give it a default"
        )
    if payload is not None and payload.annotation is not _UNSAID:
        wanted.insert(0, (payload.name, payload.annotation))
    said = [pair for pair in wanted if pair[1] is not Any] or wanted
    for name, annotation in said[1:]:
        if annotation != said[0][1]:
            raise Refused(
                f"wants its value as {codec.named(said[0][1])} in {said[0][0]!r} and as "
                f"{codec.named(annotation)} in {name!r}: it is decoded once"
            )
    return (
        payload.name if payload is not None else None,
        tuple(messages),
        tuple(contexts),
        said[0][1] if said else _UNSAID,
    )


def _of_several(parameter: Parameter) -> Parameter:
    """A parameter of a handler of batches, as it would be of one message."""
    kind = _without_none(parameter.annotation)
    if kind is _UNSAID or kind is list:
        return parameter._replace(annotation=_UNSAID)
    if get_origin(kind) in (list, Sequence):
        return parameter._replace(annotation=get_args(kind)[0])
    if kind is Context or not parameter.needed:
        return parameter
    raise Refused(
        f"takes {parameter.name!r} as {codec.named(kind)}, and gets batches: annotate it as "
        f"list[{codec.named(kind)}]"
    )


def _by_plugins(
    parameters: list[Parameter], plugins: Plugins
) -> dict[str, Callable[[Message[Any]], Any]]:
    """The parameters that a plugin fills, each with what makes its value."""
    found = {}
    for parameter in parameters:
        kind = _without_none(parameter.annotation)
        if kind in (_UNSAID, Context, Message) or get_origin(kind) is Message:
            continue
        make = plugins.value(kind)
        if make is not None:
            found[parameter.name] = make
    return found


def _without_none(annotation: Any) -> Any:
    """`Context` out of `Context | None`, which lets a test leave it out."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [part for part in get_args(annotation) if part is not type(None)]
        if len(others) == 1:
            return others[0]
    return annotation


def _decode(annotation: Any, own: Any, plugins: Plugins, *, asked: bool) -> codec.Decoder:
    """How its messages are decoded; `asked`: whether it looks at their values at all."""
    if own is None:
        return _decoder(annotation, plugins) if asked else _undecoded
    if not asked:
        raise Refused("has a codec= and takes no value: leave it out, or take the payload")
    if not callable(own):
        raise Refused(f"has codec={own!r:.80}: {_A_CODEC}")
    if inspect.iscoroutinefunction(own):
        raise Refused(f"has codec={own.__qualname__}, which is async: {_A_CODEC}")
    try:
        inspect.signature(own).bind(b"", ())
    except TypeError as error:
        raise Refused(f"has codec={own!r:.80}, which cannot be called so: {_A_CODEC}") from error
    except ValueError:
        pass  # written in C, and does not say what it takes
    return codec.decoder_of(own, annotation)


_A_CODEC = "give a function of a message's bytes and headers, as lambda raw, headers: loads(raw)"


def _decoder(annotation: Any, plugins: Plugins) -> codec.Decoder:
    try:
        return codec.decoder(annotation, plugins.codec)
    except TypeError as error:
        raise Refused(
            f"takes a {codec.named(annotation)}, which nobody can decode: {error}"
        ) from error


def _undecoded(raw: bytes | None, headers: Headers) -> bytes | None:
    """For a handler that asks for no value: what is not looked at cannot be wrong."""
    return raw


# --- options -------------------------------------------------------------------------------


def _topics(topics: tuple[str, ...]) -> tuple[str, ...]:
    if not topics:
        raise Refused("has no topic")
    for topic in topics:
        if isinstance(topic, str) and topic.startswith("^"):
            try:
                re.compile(topic)
            except re.error as error:
                raise Refused(f"takes {topic!r}, which is no regular expression: {error}") from None
            continue
        fault = topic_fault(topic)
        if fault is not None:
            raise Refused(f"cannot work: {fault}")
    return tuple(dict.fromkeys(topics))


def _retry(retry: Any) -> Retry | None:
    if retry is not None and not isinstance(retry, Retry):
        raise Refused(f"has retry={retry!r}: give a Retry, as Retry(attempts=3)")
    return retry


def _order(order: Any) -> Order:
    if order is None:
        return "key"
    if order not in get_args(Order):
        raise Refused(f"has order={order!r}: it is one of {', '.join(get_args(Order))}")
    found: Order = order
    return found


def _retry_order(given: Any) -> RetryOrder:
    if given is None:
        return "release"
    if given not in get_args(RetryOrder):
        raise Refused(f"has retry_order={given!r}: it is one of {', '.join(get_args(RetryOrder))}")
    found: RetryOrder = given
    return found


def _concurrency(concurrency: Any) -> int | None:
    if concurrency is None:
        return None
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise Refused(f"has concurrency={concurrency!r}: give a number, at least 1")
    return concurrency


def _dedup(dedup: Any) -> Dedup | None:
    if dedup is not None and (not callable(dedup) or inspect.iscoroutinefunction(dedup)):
        raise Refused(f"has dedup={dedup!r}: give a plain function of a Message")
    found: Dedup | None = dedup
    return found


def _duration(option: str, given: Any) -> float | None:
    if given is None:
        return None
    try:
        seconds = durations.seconds(given)
    except (ValueError, AttributeError) as error:
        raise Refused(f"has {option}={given!r}: {error}") from error
    if not seconds:
        raise Refused(f"has {option}={given!r}: nothing can be done in no time")
    return seconds


def _publish_to(topic: Any) -> str | None:
    if topic is not None:
        fault = topic_fault(topic) if isinstance(topic, str) else "give a topic's name"
        if fault is not None:
            raise Refused(f"has publish_to={topic!r}: {fault}")
    found: str | None = topic
    return found


def _aliases(aliases: Any) -> tuple[str, ...]:
    if isinstance(aliases, str) or not all(isinstance(one, str) and one for one in aliases):
        raise Refused(f"has aliases={aliases!r}: give a list of its former names")
    return tuple(aliases)


def _rate(given: Any) -> float | None:
    if given is None:
        return None
    try:
        return durations.rate(given if isinstance(given, str) else f"{given:f}")
    except (ValueError, TypeError) as error:
        raise Refused(f"has rate={given!r}: write it as 100/s, 30/m or 5/h") from error


def _batch(batch: Any) -> Batch | None:
    if batch is not None and not isinstance(batch, Batch):
        raise Refused(f"has batch={batch!r}: give a Batch, as Batch(100, wait='1s')")
    return batch


def _trust_ids(trust_ids: Any) -> bool:
    if not isinstance(trust_ids, bool):
        raise Refused(f"has trust_ids={trust_ids!r}: give True or False")
    return trust_ids
