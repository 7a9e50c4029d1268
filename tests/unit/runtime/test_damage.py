"""How far a part of a log reaches that cannot be read."""

from __future__ import annotations

import time

import pytest

from kworker.errors import KafkaUnavailable
from kworker.message import Partition
from kworker.runtime.damage import Damage

ORDERS = Partition("orders", 0)


@pytest.mark.parametrize("whole", [4, 5, 6, 20, 1003])
def test_the_first_offset_that_can_be_read_again_is_found_in_few_looks(whole: int):
    looks = []

    def read(partition: Partition, offset: int) -> None:
        looks.append(offset)
        if offset < whole:
            raise KafkaUnavailable("damaged")

    damage = Damage(read)
    damage.look(ORDERS, 3)
    deadline = time.monotonic() + 10
    while not (found := list(damage.news())):
        assert time.monotonic() < deadline

    assert found == [(ORDERS, 3, whole)]
    assert len(looks) <= 2 * (whole - 3).bit_length() + 1
