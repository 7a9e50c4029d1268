"""A worker process: puts the parts together, listens to signals, ends in order."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from .. import choice, durations, kafka, observe, offsets, topics
from ..app import App
from ..batch import Batch
from ..clock import SystemClock
from ..errors import KafkaUnavailable, SettingsError
from ..facts import HandlerInfo, Snapshot, WorkerInfo
from ..handlers import Handler, Register
from ..kafka import Kafka
from ..kafka.api import Admin, Committed, Consumer, Producer
from ..message import Partition
from ..observe.log import printable
from ..offsets import Position
from ..outbox import Courier, Parcel
from ..plugins import Plugins
from ..resources import give
from ..settings import UNIQUE, Configuration, Settings
from ..stores import Lender, Store, default_path, open_lender, open_store
from . import drain, failpoints, stacks
from .batches import Gathering
from .delivery import modes
from .delivery.api import Delivery, Hands, Shipment
from .executors import EventLoop, Executor, Hooks, executor_for
from .gates import Gates
from .handover import Handover
from .intake import Intake
from .lanes import Lanes
from .loop import Inbox, Limits, Loop
from .positions import EARLIEST, Positions
from .post import Post
from .quota import Quota
from .resources import Resources
from .supervisor import tell_parent
from .suspects import Suspects
from .timers import Timers
from .transactions import Transactions
from .unique import Alone, folder, group_of
from .watch import Seen, Watch

log = logging.getLogger("kworker.worker")

IDENTIFY = 5.0  # seconds that Kafka may take to tell topics' ids while partitions come
DELIVERY = 120.0  # seconds that the client tries to send a copy before it is sent anew
DRAINED = 0.5  # seconds between two looks at whether all is drained
ENDS = 10.0  # seconds between two looks at the ends of what is paused
REFRESH = 60.0  # seconds between two looks at the cluster's topics
ABANDON = 3.0  # seconds that handlers may go on after the loop has failed
SLOW = 3.0  # seconds without a word from Kafka at start after which people are told
LEAVE = 3.0  # seconds that leaving the group may take once everything is committed


def run(app: App, configuration: Configuration, *, drain: bool = False) -> int:
    """Run an app's handlers until told to stop; the exit code.

    TERM and the first INT stop taking, finish, commit and leave; a second INT ends at once
    (1). USR1 prints all stacks and what is in flight. Raises KworkerError for what makes it
    end by itself. To be called from the main thread: it sets signal handlers.
    """
    worker = Worker(app, configuration, drain=drain)
    _tune_collector()
    before = {
        number: signal.signal(number, worker.told)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }
    try:
        return worker.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Worker:
    """One process of a group. `run` blocks; `stop` may be called from anywhere."""

    def __init__(self, app: App, configuration: Configuration, *, drain: bool = False) -> None:
        self._app = app
        self._configuration = configuration
        self._values: Settings = configuration.values
        self._drain = drain
        self._unique = self._values["group"] == UNIQUE
        self._group = group_of(app.name) if self._unique else self._values["group"] or app.name
        self._clock = SystemClock()
        self._arm = failpoints.arm(os.environ)
        self._loop: Loop | None = None
        self._watches: tuple[Watch[Any], ...] = ()
        self._resources: Resources | None = None
        self._patient: Producer | None = None  # for what the outbox holds
        self._stop = threading.Event()
        self._stopped_at = 0.0
        self._over = threading.Event()
        self._asked = 0
        self._clean = False
        self._error: BaseException | None = None

    def stop(self) -> None:
        """Stop taking, finish what runs within `shutdown_timeout`, commit, leave."""
        self._stopped_at = self._stopped_at or self._clock.monotonic()
        self._stop.set()
        loop = self._loop
        if loop is not None:
            loop.stop(self._values["shutdown_timeout"])

    def told(self, number: int, _: FrameType | None = None) -> None:
        """Hear a signal; only sets flags, for the main thread runs Python in between."""
        if number == signal.SIGUSR1:
            self._describe()
            return
        self._asked += number == signal.SIGINT
        if number == signal.SIGINT and self._asked > 1:
            _say("stopped at once; what was in flight comes again\n")
            os._exit(1)
        if number == signal.SIGINT:
            _say("\nstopping: finishing what runs (Ctrl-C again ends at once)\n")
        self.stop()

    def run(self) -> int:
        """Until stopped or drained; 0, or 1 when work was left unfinished. Raises what
        ended the loop."""
        thread = threading.Thread(target=self._live, name="kworker-loop", daemon=True)
        # The loop's thread inherits the mask: an exception out of a signal handler would
        # destroy records that the client had already handed out.
        blocked = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
        )
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        while not self._over.wait(0.2):
            if self._stop.is_set():
                self._await_end()
                break
        if self._error is not None:
            raise self._error
        return 0 if self._clean else 1

    def _await_end(self) -> None:
        """Give the loop its time, and no more: a hanging broker must not hang the exit."""
        if self._loop is None and self._resources is None:
            _leave(0)  # nothing was taken yet, so there is nothing to finish
        if self._over.wait(self._values["shutdown_timeout"] + LEAVE):
            return
        log.error("not finished within the shutdown timeout; what was in flight comes again")
        _leave(1)

    def _live(self) -> None:
        """The loop's thread: everything that belongs to it is made and ended here."""
        try:
            with self._watched() as plugins:
                self._clean = self._work(plugins)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the main thread
            self._error = error
        finally:
            self._over.set()

    # --- putting together ----------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Plugins]:
        """The plugins; with `health`, its pages are served meanwhile."""
        values = self._values
        if values["health"] is None:
            yield self._app.load_plugins(observe.own())
            return
        # Here, because most workers serve no pages.
        from ..observe.health import Health
        from ..observe.pages import served

        # A turn may wait for handlers of both members' partitions, one after the other.
        health = Health(held=2 * values["revoke_timeout"])
        plugins = self._app.load_plugins((*observe.own(), health))
        with served(values["health"], health.pages(plugins.metrics), values["health_token"]):
            yield plugins

    def _work(self, plugins: Plugins) -> bool:
        values, configuration = self._values, self._configuration
        served_handlers = choice.chosen(
            self._app.register(plugins),
            handlers=values["handlers"],
            topics=values["topics"],
            exclude_topics=values["exclude_topics"],
        )
        register = _in_order(served_handlers, values["concurrency"])
        names = topics.GroupTopics(
            self._app.name if self._unique else self._group,
            values["retry_topic"],
            values["replay_topic"],
            values["dlq_topic"],
        )
        modes.refuse(values["delivery"], register, unique=self._unique)
        connection = kafka.connect(
            values["bootstrap_servers"],
            common=configuration.kafka,
            consumer=configuration.kafka_consumer,
            producer=configuration.kafka_producer,
            client_id=f"kworker-{self._app.name}-{socket.gethostname()}-{os.getpid()}"
            + modes.mark(values["delivery"]),
            group_protocol=values["group_protocol"],
            instance_id=values["instance_id"],
        )
        self._refuse_slow_revocations(connection)
        with contextlib.ExitStack() as ending:
            place = values["db"] or str(default_path(self._group))
            if self._unique:
                place = str(ending.enter_context(folder()) / "unique.db")
            with contextlib.closing(connection.admin(values["connect_timeout"])) as admin:
                with connection.quietly(), _told_when_slow(connection.bootstrap_servers):
                    cluster = admin.cluster_id()
                if kafka.is_embedded(cluster):
                    modes.refuse_embedded(values["delivery"])
                members = [one.client_id for one in admin.members(self._group)]
                modes.refuse_mixed(values["delivery"], self._group, members)
                # Before anything is created on the cluster: it may be unusable.
                sharing = next((one.name for one in register if one.takes_transaction), None)
                store = _open_store(place, self._group, cluster, plugins, sharing)
                ending.callback(store.close)
                register.find(admin.topics(), self._not_to_find(names))
                self._ensure_topics(register, names, admin)
                served = self._served(register, names, admin.topics())
            store = self._arm("store", store)
            return self._serve(
                register, names, connection, served, (place, cluster, store), plugins
            )

    def _serve(
        self,
        register: Register,
        names: topics.GroupTopics,
        connection: Kafka,
        served: dict[str, int],
        kept: tuple[str, str, Store],  # where, for which cluster, by what
        plugins: Plugins,
    ) -> bool:
        place, cluster, store = kept
        producer = self._arm("producer", connection.producer(delivery_timeout=DELIVERY))
        events = EventLoop()
        executor: Executor | None = None
        idle = True
        self._resources = resources = Resources(self._app.providers(), events.submit)
        try:
            register = Register(
                self._arm("handler", one) for one in give(register, resources.open())
            )
            register.find(served, self._not_to_find(names))

            def lend() -> Lender:
                lender = open_lender(place, group=self._group, cluster=cluster)
                return self._arm("lender", lender)

            loop, executor = self._assemble(
                register,
                names,
                connection,
                served,
                store,
                cluster,
                lend,
                producer,
                events,
                plugins,
            )
            facts = self._facts(register, served, place)
            loop.tell("worker_started", worker=facts)
            try:
                finished = loop.run(lambda: loop.tell("worker_stopping", worker=facts))
            except BaseException:
                idle = self._abandon(loop)
                raise
            else:
                _summarise(loop.snapshot())
                if finished:
                    loop.close()
            finally:
                loop.tell("worker_stopped", worker=facts)
            if not finished:
                log.error(
                    "not finished within the shutdown timeout; what was in flight comes again"
                )
                _leave(1)  # what handlers still use is not closed under them
            return finished
        finally:
            for watch in self._watches:
                watch.close()
            if idle:
                resources.close(self._time_left())
            if executor is not None:
                executor.close()
            events.close()
            producer.close(timeout=1.0)
            if self._patient is not None:
                self._patient.close(timeout=0.0)

    def _abandon(self, loop: Loop) -> bool:
        """Leave the group after an error; whether no handler runs any more."""
        try:
            if loop.abandon(ABANDON):
                return True
        except Exception:
            log.exception("leaving the group after an error failed, too")
        log.error("handlers still run after an error; what they were provided with stays open")
        return False

    def _refuse_slow_revocations(self, connection: Kafka) -> None:
        """A member that waits for its handlers longer than the group waits for it is thrown out,
        and what they did comes again; its other half waits meanwhile."""
        members = 1 if self._unique else 2
        longest = connection.longest_silence / members
        if self._values["revoke_timeout"] < longest:
            return
        raise SettingsError(
            f"revoke_timeout: {durations.canonical(self._values['revoke_timeout'])} is too long: "
            f"it must stay below {durations.canonical(longest)}, "
            f"{'half of ' * (members > 1)}max.poll.interval.ms, or the group gives the partitions "
            "away before their handlers have ended; shorten the one or raise the other"
        )

    def _time_left(self) -> float:
        """Seconds of the shutdown timeout that are left."""
        gone = self._clock.monotonic() - self._stopped_at if self._stopped_at else 0.0
        return max(0.0, self._values["shutdown_timeout"] - gone)

    def _ensure_topics(self, register: Register, names: topics.GroupTopics, admin: Admin) -> None:
        plan = topics.ensure(
            register.topics,
            ()
            if self._unique
            else {delay for handler in register for delay in handler.retry_topics},
            names,
            admin,
            copies=not self._unique,
            create=self._values["create_topics"] == "missing",
            accept=self._values["accept_topics"],
        )
        for flaw in plan.worse:
            log.warning("accepted: %s", flaw)
        for note in plan.notes:
            log.info("%s", note)
        for topic in plan.missing:
            log.info("created topic %s", topic.name)

    def _not_to_find(self, names: topics.GroupTopics) -> Callable[[str], bool]:
        excluded = self._values["exclude_topics"] or ()
        return lambda name: name in excluded or names.internal(name)

    def _served(
        self, register: Register, names: topics.GroupTopics, known: Mapping[str, int]
    ) -> dict[str, int]:
        """The topics to read, with their partition counts: the sources, and every retry and
        replay topic of the group that exists, whichever delays are declared today."""
        copies = [
            name for name in known if names.owns(name) and name != names.dlq and not self._unique
        ]
        return {name: known.get(name, 0) for name in (*register.topics, *copies)}

    def _assemble(
        self,
        register: Register,
        names: topics.GroupTopics,
        connection: Kafka,
        served: dict[str, int],
        store: Store,
        cluster: str,
        lend: Callable[[], Lender],
        producer: Producer,
        events: EventLoop,
        plugins: Plugins,
    ) -> tuple[Loop, Executor]:
        values, clock, arm = self._values, self._clock, self._arm
        tell = plugins.tell
        inbox: Inbox = SimpleQueue()
        timers = Timers(clock)
        gates = Gates(
            lambda name: _cap(register, name),
            timers.after,
            rates={one.name: one.rate for one in register if one.rate is not None},
            monotonic=clock.monotonic,
        )

        def gathering(batch: Batch) -> Gathering:
            return Gathering(batch, clock.monotonic, timers.after)

        hooks = Hooks(plugins.started, plugins.around, plugins.outgoing)
        executor = executor_for(
            tuple(register),
            values["concurrency"],
            inbox.put,
            gates.down,
            events,
            hooks,
        )
        if any(handler.takes_transaction for handler in register):
            executor = Transactions(
                lend,
                timeout=values["transaction_timeout"],
                answer=inbox.put,
                failed=inbox.put,
                down=gates.down,
                others=executor,
                hooks=hooks,
            )
        consumer: Consumer = arm(
            "consumer",
            Alone(connection.consumer(self._group))
            if self._unique
            else connection.consumer(self._group, apart=names.owns),
        )
        admin = connection.admin(IDENTIFY)

        def topic_ids(wanted: Iterable[str]) -> dict[str, str]:
            return {name: found.id for name, found in admin.describe(wanted).items() if found.id}

        def offer(shipment: Shipment) -> bool:
            return producer.offer(
                shipment.topic,
                shipment.key,
                shipment.value,
                shipment.headers,
                lambda answer: inbox.put((shipment, answer)),
            )

        def carry(parcel: Parcel) -> bool:
            if self._patient is None:
                self._patient = connection.producer(delivery_timeout=None)
            return self._patient.offer(
                parcel.topic,
                parcel.key,
                parcel.value,
                parcel.headers,
                lambda answer: inbox.put((parcel, answer)),
            )

        post = Post(offer)

        def delivery(hands: Hands) -> Delivery:
            parts = modes.Parts(
                group=self._group,
                instance_id=values["instance_id"],
                concurrency=values["concurrency"],
                connection=connection,
                arm=arm,
                answer=inbox.put,
                now=clock.monotonic,
                shared={
                    "store": store,
                    "topics": names,
                    "send": post.send,
                    "consumer": consumer,
                    "tell": tell,
                    "wall": clock.wall,
                    "reference_when_too_large": values["on_oversized_copy"] == "reference",
                    "in_process": self._unique,
                },
            )
            return arm("delivery", modes.make(values["delivery"], arm("hands", hands), parts))

        def look() -> Seen:
            return Seen(
                admin.topics(), topic_ids(served if self._loop is None else self._loop.topics)
            )

        def serves(known: Mapping[str, int]) -> list[str]:
            register.find(known, self._not_to_find(names))
            return list(self._served(register, names, known))

        def look_at_ends() -> dict[Partition, int]:
            paused = () if self._loop is None else tuple(self._loop.paused)
            return {one: end for one, (_, end) in connection.ends(paused, IDENTIFY).items()}

        watch = Watch(look, _refresh(self._configuration))
        ends_watch = Watch(look_at_ends, ENDS)
        sources = [
            Partition(topic, index) for topic in register.topics for index in range(served[topic])
        ]
        ends = (
            {one: end for one, (_, end) in connection.ends(sources, 10.0).items()}
            if self._drain
            else None
        )
        intake = Intake(
            register=register,
            topics=names,
            topic_ids=topic_ids,
            store=store,
            clock=clock,
            unknown_handler_wait=values["unknown_handler_wait"],
        )
        handover = Handover(cluster=cluster, store=store, intake=intake)

        def heard(partition: Partition, point: Committed | None, end: int) -> int | None:
            if point is not None:
                loop.delivery.heard(partition, point)
            return handover.heard(partition, point, end)

        lanes = arm("lanes", Lanes(gates, gathering))
        loop = Loop(
            consumer=consumer,
            topics=list(served),
            intake=arm("intake", intake),
            gates=gates,
            lanes=lanes,
            executor=arm("executor", executor),
            delivery=delivery,
            store=store,
            post=post,
            outbox=arm("outbox", Courier(store, carry, clock=clock, tell=tell)),
            positions=Positions(
                consumer,
                start_from=self._policy(connection, sources, register.found),
                on_lost_position=values["on_lost_position"],
                tell=tell,
                recorded=intake.recorded,
                forget=intake.forget,
                heard=heard,
            ),
            timers=timers,
            inbox=inbox,
            limits=Limits(
                commit_every=values["commit_every"],
                revoke_timeout=values["revoke_timeout"],
                max_in_flight=values["max_in_flight"],
                max_in_flight_bytes=values["max_in_flight_bytes"],
                dedup_retention=max(values["dedup_retention"], _longest_chain(register)),
            ),
            clock=clock,
            tell=tell,
            ends=ends,
            quota=self._quota(),
            handover=handover,
            suspects=Suspects(
                lanes=lanes,
                handover=handover,
                timers=timers,
                concurrency=(
                    None if values["delivery"] == "at_most_once" else values["concurrency"]
                ),
                say=tell_parent,
            ),
            seen=watch.news,
            read=lambda partition, offset: connection.firsts({partition: offset}),
            asked_ends=ends_watch.news,
            serves=serves,
        )
        self._watches = (watch, ends_watch)
        self._loop = arm("loop", loop)
        if values["max_runtime"] is not None:
            timers.after(values["max_runtime"], self._out_of_time)
        if ends is not None:
            copies = [
                Partition(topic, index)
                for topic, count in served.items()
                if not register.for_topic(topic)
                for index in range(count)
            ]
            self._look_for_end(loop, timers, copies)
        if self._stop.is_set():
            loop.stop(values["shutdown_timeout"])
        return loop, executor

    def _policy(
        self, connection: Kafka, sources: Sequence[Partition], by_pattern: Sequence[str]
    ) -> Callable[[Partition], Position]:
        """Where the group begins in a partition in which it has no position.

        `start_from` is for what is there now, of topics that the group has never been in:
        the first members commit a start in every partition they find. A partition that is
        there without one was added later, so everything in it is new to the group; and so is
        a topic that a regular expression finds beside others.
        """
        start_from = "latest" if self._unique else self._values["start_from"]
        policy = offsets.parse(start_from, self._clock.wall())
        if policy == EARLIEST:
            return lambda partition: EARLIEST
        found = connection.committed(self._group, sources, self._values["connect_timeout"])
        been_in = {one.topic for one in sources if found.get(one, True) is not None}
        if been_in.intersection(by_pattern):
            been_in.update(by_pattern)  # those it has not been in were found later
        first = {one for one in sources if one.topic not in been_in}
        return lambda partition: policy if partition in first else EARLIEST

    def _quota(self) -> Quota | None:
        most = self._values["max_messages"]
        if most is None:
            return None

        def over() -> None:
            log.info("handled as many messages as --max-messages says: %d", most)
            self.stop()

        return Quota(most, over)

    def _out_of_time(self) -> None:
        log.info("has run for as long as --max-runtime says")
        self.stop()

    def _look_for_end(self, loop: Loop, timers: Timers, copies: Sequence[Partition]) -> None:
        """Now and then, when nothing is in flight, whether all is drained."""

        def look() -> None:
            assert loop.ends is not None
            idle = not (loop.busy or loop.outbox.pending) and not any(
                ledger.count for ledger in loop.ledgers.values()
            )
            try:
                if idle and drain.finished(loop.consumer, loop.ends, copies):
                    log.info("drained: everything that was there has been handled")
                    self.stop()
                    return
            except KafkaUnavailable as error:
                log.warning("whether all is drained is not known yet: %s", error)
            timers.after(DRAINED, look)

        timers.after(DRAINED, look)

    def _facts(
        self, register: Register, served: Sequence[str] | dict[str, int], store: str
    ) -> WorkerInfo:
        return WorkerInfo(
            app=self._app.name,
            group=self._group,
            handlers=tuple(HandlerInfo(one.name, one.topics) for one in register),
            topics=tuple(served),
            concurrency=self._values["concurrency"],
            store=store,
        )

    def _describe(self) -> None:
        """All stacks and what is in flight, to stderr."""
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        loop = self._loop
        if loop is None:
            return
        now = self._clock.monotonic()
        for run_ in list(loop.runs):
            for work in run_.works:
                started = work.started  # read once: its handler may end meanwhile
                if started is not None:
                    record = work.record
                    _say(
                        f"in flight for {now - started:.1f} s: {work.scope.name} "
                        f"{record.topic}/{record.partition}/{record.offset} "
                        f"attempt {work.calls + 1} id {printable(work.id)}\n"
                    )
                    if not isinstance(run_.caller, int):  # the threads' stacks stand above
                        _say(stacks.of(run_.caller))


def _open_store(
    place: str, group: str, cluster: str, plugins: Plugins, sharing: str | None
) -> Store:
    """The store in that file; at `scheme://…`, what a plugin keeps there, unless a handler is
    `sharing` its transactions."""
    if not re.match(r"[a-z][a-z0-9+.-]*://", place, re.IGNORECASE):
        return open_store(Path(place), group=group, cluster=cluster)
    if sharing is not None:
        raise SettingsError(
            f"db: {sharing} takes a Transaction of the store's file, so {place} will not do; give "
            "a file"
        )
    store = plugins.store(place, group, cluster)
    if store is None:
        scheme = place.partition("://")[0]
        raise SettingsError(
            f"db: no plugin keeps a store at {scheme}://…; install one that does "
            "(`kworker plugins` lists them), or give a file"
        )
    return store


@contextlib.contextmanager
def _told_when_slow(servers: str) -> Iterator[None]:
    """Somebody who sits at a terminal is told that the first contact takes long."""
    timer = threading.Timer(SLOW, lambda: log.info("waiting for Kafka at %s", servers))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tune_collector() -> None:
    """Let the garbage collector look seldom: messages come by the thousand and go by
    themselves, and looking through them took a third of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _in_order(register: Register, concurrency: int) -> Register:
    """One at a time is in order, whatever the handler says of concurrency above that."""

    def ordered(handler: Handler) -> Handler:
        if concurrency == 1 or handler.concurrency == 1:
            return dataclasses.replace(handler, order="partition")
        return handler

    return Register(ordered(handler) for handler in register)


def _summarise(snapshot: Snapshot) -> None:
    """What this process has done, for whoever reads the end of its log."""
    counts = {
        "handled": snapshot.handled,
        "retried": snapshot.retried,
        "dead_lettered": snapshot.dead_lettered,
        "duplicates": snapshot.skipped,
        "lost": snapshot.lost,
    }
    level = logging.ERROR if snapshot.lost else logging.INFO
    said = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items())
    log.log(level, "ended: %s", said, extra=counts)


def _longest_chain(register: Register) -> float:
    """Seconds that a message may be on its way through its retries: its ids are not to be
    forgotten before that."""
    return max((sum(handler.retry.delays) for handler in register), default=0.0)


def _refresh(configuration: Configuration) -> float:
    """Seconds between two looks at the cluster's topics: as often as the client takes one."""
    name = "topic.metadata.refresh.interval.ms"
    given = configuration.kafka_consumer.get(name) or configuration.kafka.get(name) or ""
    return int(given) / 1000 if given.isdigit() and int(given) else REFRESH


def _cap(register: Register, name: str) -> int | None:
    handler = register.named(name)
    return None if handler is None else handler.concurrency


def _say(text: str) -> None:
    """Write to stderr from a signal handler; a terminal that is gone stops nothing."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _leave(code: int) -> None:
    """End without waiting for threads and clients that do not come back."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


__all__ = ["Worker", "run"]
