"""What the client's errors become, in its own words as a real broker made it say them."""

from __future__ import annotations

from confluent_kafka import KafkaError

from kworker.kafka.api import Trouble
from kworker.kafka.consumer import received
from kworker.message import Partition


class Told:
    """An error as the client hands it out among its messages."""

    def __init__(self, code: int, text: str) -> None:
        self._error = KafkaError(code, text)

    def error(self) -> KafkaError:
        return self._error

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 0

    def offset(self) -> None:
        return None


def test_a_truncated_log_is_told_with_the_place_where_it_was_cut() -> None:
    words = (
        "Partition log truncation detected at offset 500 (leader epoch 0): broker end offset is 3 "
        "(offset leader epoch 0). Reset to INVALID.: Local: Partition log truncation detected "
        "(broker 1)"
    )

    (trouble,) = received([Told(KafkaError._AUTO_OFFSET_RESET, words)])

    assert isinstance(trouble, Trouble)
    assert (trouble.kind, trouble.partition) == ("lost_position", Partition("orders", 0))
    assert trouble.cut == 3


def test_an_offset_out_of_range_is_told_without_a_place() -> None:
    words = (
        "fetch failed due to requested offset not available on the broker: Broker: Offset out of "
        "range (broker 1)"
    )

    (trouble,) = received([Told(KafkaError._AUTO_OFFSET_RESET, words)])

    assert isinstance(trouble, Trouble)
    assert (trouble.kind, trouble.cut) == ("lost_position", None)
