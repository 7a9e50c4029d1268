"""What every store keeps, as tests: for those who write another one."""

from __future__ import annotations

from pathlib import Path

from kworker.clock import Clock
from kworker.ranges import Ranges
from kworker.stores.api import Attempt, Log, Mark, Store, Turn

MARK = Mark("shop.charge", "orders", "a-1")
LOG = Log("SvXW3IK6RDOpYRbJWUA3QQ", 0)


class StoreClock:
    """A clock whose time of day is set by hand."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class StoreContract:
    """The promises of `kworker.stores.api.Store`; a pytest class to derive from.

    Answer `open` and pytest runs the rest against your store. Each test has a folder of its
    own; opening twice in the same folder opens the same store, as two processes of a group
    on one host do, or one process after the other.
    """

    def open(self, folder: Path, clock: Clock) -> Store:
        """Open the store that lives in this folder."""
        raise NotImplementedError

    def test_a_new_store_knows_nothing(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())

        assert store.seen([MARK]) == set()
        assert store.attempts([MARK]) == {}
        assert not store.done("shop.charge", LOG)
        store.close()

    def test_a_store_says_how_large_it_is(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())

        store.record(Turn(seen=[MARK]))

        assert store.size >= 0
        store.close()

    def test_what_was_recorded_is_seen_and_nothing_beside_it(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        others = [
            MARK._replace(handler="shop.mail"),
            MARK._replace(topic="returns"),
            MARK._replace(id="a-2"),
            MARK._replace(id="A-1"),
            MARK._replace(replay=1),
            MARK._replace(hop=1),
        ]

        assert store.record(Turn(seen=[MARK]))

        assert store.seen([*others, MARK]) == {MARK}
        assert store.seen([]) == set()
        store.close()

    def test_a_retry_copy_and_a_replay_are_marks_of_their_own(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        copies = [MARK, MARK._replace(hop=2), MARK._replace(replay=3, hop=1)]

        store.record(Turn(seen=copies))

        assert store.seen([*copies, MARK._replace(replay=3)]) == set(copies)
        store.close()

    def test_a_mark_may_be_recorded_again(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        store.record(Turn(seen=[MARK, MARK]))

        assert store.record(Turn(seen=[MARK]))

        assert store.seen([MARK, MARK]) == {MARK}
        store.close()

    def test_ids_are_marks_of_first_arrivals_in_short(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        orders, returns = ("shop.charge", "orders"), ("shop.charge", "returns")

        store.record(Turn(ids={orders: ["a-1", "a-2", "a-1"], returns: ["b-1"], ("m", "t"): []}))
        store.record(Turn(seen=[MARK._replace(id="a-3"), MARK._replace(id="a-4", hop=1)]))

        asked = ["a-1", "a-2", "a-3", "a-4", "b-1", "a-1"]
        assert store.seen_ids(*orders, asked) == {"a-1", "a-2", "a-3"}
        assert store.seen_ids(*returns, asked) == {"b-1"}
        assert store.seen_ids("shop.mail", "orders", asked) == set()
        assert store.seen_ids(*orders, []) == set()
        assert store.seen([MARK, MARK._replace(topic="returns", id="b-1")]) == {
            MARK,
            MARK._replace(topic="returns", id="b-1"),
        }
        assert store.seen([MARK._replace(hop=1), MARK._replace(replay=1)]) == set()
        store.close()

    def test_what_one_handler_has_done_another_has_not(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        ids = [f"id-{number}" for number in range(1000)]

        store.record(Turn(ids={("shop.charge", "orders"): ids, ("shop.mail", "orders"): ids[:1]}))

        assert store.seen_ids("shop.charge", "orders", ids) == set(ids)
        assert store.seen_ids("shop.mail", "orders", ids) == {"id-0"}
        store.close()

    def test_thousands_of_marks_are_asked_and_recorded_at_once(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        marks = [MARK._replace(id=f"id-{number}") for number in range(3001)]

        store.record(Turn(seen=marks[::2]))

        assert store.seen(marks) == set(marks[::2])
        store.close()

    def test_ids_may_be_of_any_length_and_hold_any_character(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        ids = [
            "", " ", "\0", "a\0b", "a\0c", "'", "\u00e4", "a\u0308", "\U0001f600", "\ud800",
            "\udfff", "x" * 512, "x" * 513, "x" * 1_000_000, "x" * 1_000_000 + "y",
            "\u00e4" * 256, "\u00e4" * 257,
        ]  # fmt: skip
        marks = [MARK._replace(id=id) for id in ids]

        for count, mark in enumerate(marks, start=1):
            assert store.record(Turn(seen=[mark]))
            assert store.seen(marks) == set(marks[:count])
            known = store.seen_ids(mark.handler, mark.topic, ids)
            assert known == set(ids[:count])

        store.close()

    def test_everything_is_there_after_closing_and_opening(self, tmp_path: Path) -> None:
        doubt = MARK._replace(id="a-2")
        store = self.open(tmp_path, StoreClock())
        store.record(
            Turn(
                seen=[MARK],
                done={("shop.charge", LOG): Ranges([(3, 9)])},
                topics={LOG.topic_id: "orders"},
                attempts={doubt: Attempt(2, "dead letter", 12.5)},
            )
        )
        store.close()

        store = self.open(tmp_path, StoreClock())

        assert store.seen([MARK]) == {MARK}
        assert store.done("shop.charge", LOG) == Ranges([(3, 9)])
        assert store.attempts([doubt, MARK]) == {doubt: Attempt(2, "dead letter", 12.5)}
        store.close()

    def test_one_process_sees_what_another_has_recorded(self, tmp_path: Path) -> None:
        one, other = self.open(tmp_path, StoreClock()), self.open(tmp_path, StoreClock())
        theirs = MARK._replace(handler="shop.mail", id="b-1")
        doubt = MARK._replace(id="a-2")

        copy = MARK._replace(hop=1)

        one.record(Turn(seen=[MARK, copy], attempts={doubt: Attempt(1)}))
        other.record(Turn(seen=[theirs]), patience=5)

        recorded = {MARK, copy, theirs}
        assert other.seen([MARK, copy, theirs]) == one.seen([MARK, copy, theirs]) == recorded
        assert other.attempts([doubt]) == {doubt: Attempt(1)}
        one.close()
        other.close()

    def test_offsets_are_added_to_those_another_process_has_written(self, tmp_path: Path) -> None:
        one, other = self.open(tmp_path, StoreClock()), self.open(tmp_path, StoreClock())

        one.record(Turn(done={("shop.charge", LOG): Ranges([(0, 5)])}))
        other.record(Turn(done={("shop.charge", LOG): Ranges([(5, 7), (9, 10)])}), patience=5)
        one.record(Turn(done={("shop.charge", LOG): Ranges([(6, 8)])}), patience=5)

        assert other.done("shop.charge", LOG) == Ranges([(0, 8), (9, 10)])
        one.close()
        other.close()

    def test_offsets_count_for_one_handler_and_one_incarnation_of_a_topic(
        self, tmp_path: Path
    ) -> None:
        store = self.open(tmp_path, StoreClock())

        store.record(Turn(done={("shop.charge", LOG): Ranges([(0, 5)])}))

        assert not store.done("shop.mail", LOG)
        assert not store.done("shop.charge", LOG._replace(partition=1))
        assert not store.done("shop.charge", LOG._replace(topic_id="made-anew"))
        store.close()

    def test_of_a_log_that_was_cut_nothing_is_known_by_position_from_there_on(
        self, tmp_path: Path
    ) -> None:
        store = self.open(tmp_path, StoreClock())
        below, above = (
            Mark("shop.charge", "orders", f"{LOG.topic_id}/0/{offset}", 0, 1) for offset in (8, 10)
        )
        other = LOG._replace(partition=1)
        done = Ranges([(0, 5), (8, 30), (40, 50)])
        store.record(
            Turn(
                seen=[MARK, below, above],
                attempts={below._replace(hop=0): Attempt(1), above._replace(hop=0): Attempt(1)},
                done={("shop.charge", LOG): done, ("shop.charge", other): done},
                places={LOG: 50, other: 50},
            )
        )

        store.record(Turn(cut={LOG: 10}, done={("shop.charge", LOG): Ranges([(12, 13)])}))

        assert store.done("shop.charge", LOG) == Ranges([(0, 5), (8, 10), (12, 13)])
        assert store.done("shop.charge", other) == done
        assert store.seen([MARK, below, above]) == {MARK, below}
        doubts = [below._replace(hop=0), above._replace(hop=0)]
        assert store.attempts(doubts) == {doubts[0]: Attempt(1)}
        assert (store.place(LOG), store.place(other)) == (None, 50)
        store.close()

    def test_what_done_answers_may_be_changed_without_changing_the_store(
        self, tmp_path: Path
    ) -> None:
        store = self.open(tmp_path, StoreClock())
        store.record(Turn(done={("shop.charge", LOG): Ranges([(0, 5)])}))

        store.done("shop.charge", LOG).add(7)

        assert store.done("shop.charge", LOG) == Ranges([(0, 5)])
        store.close()

    def test_an_attempt_stands_until_it_is_replaced_or_settled(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        other = MARK._replace(hop=1)

        store.record(Turn(attempts={MARK: Attempt(1, None, 5.0, 6.5), other: Attempt(3)}))
        assert store.attempts([MARK, other]) == {
            MARK: Attempt(1, None, 5.0, 6.5),
            other: Attempt(3),
        }
        store.record(Turn(attempts={MARK: Attempt(2, "retry 5s", 5.0)}))
        assert store.attempts([MARK]) == {MARK: Attempt(2, "retry 5s", 5.0)}
        store.record(Turn(settled=[MARK]))
        assert store.attempts([MARK, other]) == {other: Attempt(3)}

        assert store.seen([MARK, other]) == set()
        store.close()

    def test_what_is_tried_and_settled_in_one_turn_is_settled(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())

        store.record(Turn(seen=[MARK], attempts={MARK: Attempt(1)}, settled=[MARK]))

        assert store.attempts([MARK]) == {}
        store.close()

    def test_an_empty_turn_is_recorded(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())

        assert store.record(Turn())

        store.close()

    def test_pruning_forgets_the_oldest_in_steps_and_leaves_the_younger(
        self, tmp_path: Path
    ) -> None:
        clock = StoreClock(100.0)
        store = self.open(tmp_path, clock)
        old = [MARK._replace(id=f"old-{number}") for number in range(5)]
        young = [MARK._replace(id=f"young-{number}") for number in range(5)]
        store.record(Turn(seen=old))
        clock.now = 200.0
        store.record(Turn(seen=young))

        steps = [store.prune(150.0, limit=2) for _ in range(4)]

        assert sum(steps) == len(old)
        assert steps[-1] == 0
        assert store.seen(old + young) == set(young)
        store.close()

    def test_pruning_stops_once_it_has_forgotten_enough(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock(100.0))
        marks = [MARK._replace(id=f"id-{number}") for number in range(100)]
        for begin in range(0, 100, 10):
            store.record(Turn(seen=marks[begin : begin + 10]))

        forgotten = store.prune(150.0, limit=25)

        assert 25 <= forgotten <= 30
        assert store.seen(marks) == set(marks[forgotten:])
        store.close()

    def test_what_one_process_forgets_another_forgets_too(self, tmp_path: Path) -> None:
        one, other = self.open(tmp_path, StoreClock(100.0)), self.open(tmp_path, StoreClock())
        one.record(Turn(seen=[MARK], ids={("shop.charge", "orders"): ["b-1"]}))
        assert other.seen_ids("shop.charge", "orders", ["b-1"]) == {"b-1"}

        one.prune(150.0)

        assert other.seen([MARK, MARK._replace(id="b-1")]) == set()
        one.close()
        other.close()

    def test_what_was_forgotten_may_be_recorded_again(self, tmp_path: Path) -> None:
        clock = StoreClock(100.0)
        store = self.open(tmp_path, clock)
        store.record(Turn(seen=[MARK]))
        store.prune(150.0)

        clock.now = 200.0
        store.record(Turn(seen=[MARK]))

        assert store.prune(150.0) == 0
        assert store.seen([MARK]) == {MARK}
        store.close()

    def test_an_attempt_that_nobody_came_back_to_is_forgotten_too(self, tmp_path: Path) -> None:
        clock = StoreClock(100.0)
        store = self.open(tmp_path, clock)
        fresh = MARK._replace(id="a-2")
        store.record(Turn(attempts={MARK: Attempt(1), fresh: Attempt(1)}))
        clock.now = 200.0
        store.record(Turn(attempts={fresh: Attempt(2)}))

        store.prune(150.0)

        assert store.attempts([MARK, fresh]) == {fresh: Attempt(2)}
        store.close()

    def test_an_id_is_forgotten_with_its_copies_and_attempts_for_one_handler_or_for_all(
        self, tmp_path: Path
    ) -> None:
        store = self.open(tmp_path, StoreClock())
        copy, other = MARK._replace(hop=1), MARK._replace(id="a-2")
        mail = MARK._replace(handler="shop.mail")
        store.record(Turn(seen=[MARK, copy, other, mail], attempts={MARK: Attempt(1)}))

        one = store.forget(id="a-1", handler="shop.charge")
        left = store.seen([MARK, copy, other, mail])
        every = store.forget(id="a-1")

        assert (one, left) == (3, {other, mail})
        assert (every, store.seen([MARK, copy, other, mail])) == (1, {other})
        assert store.attempts([MARK]) == {}
        assert store.forget(id="a-1") == 0
        store.close()

    def test_a_handler_or_a_topic_is_forgotten_and_nothing_beside_it(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        mail, returns = MARK._replace(handler="shop.mail"), MARK._replace(topic="returns")
        done = {("shop.charge", LOG): Ranges([(0, 9)]), ("shop.mail", LOG): Ranges([(0, 5)])}
        store.record(Turn(seen=[MARK, mail, returns], done=done, topics={LOG.topic_id: "orders"}))

        counts = [store.forget(handler="shop.charge", topic="orders")]
        seen, offsets = store.seen([MARK, mail, returns]), store.done("shop.charge", LOG)
        counts += [store.forget(topic="orders"), store.forget(handler="shop.charge")]

        assert counts == [10, 6, 1]
        assert (seen, bool(offsets)) == ({mail, returns}, False)
        assert not store.seen([MARK, mail, returns])
        assert not store.done("shop.mail", LOG)
        store.close()

    def test_the_id_of_a_message_that_brought_none_is_its_position(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        copy = Mark("shop.charge", "orders", f"{LOG.topic_id}/0/4", 0, 1)
        done = {("shop.charge", LOG): Ranges([(0, 9)])}
        store.record(Turn(seen=[copy], done=done, topics={LOG.topic_id: "orders"}))

        counts = [store.forget(id="orders/0/4"), store.forget(id=f"{LOG.topic_id}/0/8")]
        counts += [store.forget(id=name) for name in ("orders/1/5", "orders/0/99", "returns/0/5")]

        assert counts == [2, 1, 0, 0, 0]
        assert store.done("shop.charge", LOG) == Ranges([(0, 4), (5, 8)])
        assert not store.seen([copy])
        store.close()

    def test_what_was_forgotten_on_demand_may_be_recorded_again(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())
        other = MARK._replace(id="a-2")
        store.record(Turn(seen=[MARK, other]))
        store.forget(handler="shop.charge")

        store.record(Turn(seen=[MARK]))

        assert store.seen([MARK, other]) == {MARK}
        store.close()

    def test_closing_twice_does_no_harm(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, StoreClock())

        store.close()
        store.close()
