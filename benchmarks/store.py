"""What the store costs an id: asked and recorded, empty and with millions in it; and a rewind.

    python benchmarks/store.py [--ids 5000000] [--batch 500] [--folder DIR]

Prints, for each size, microseconds an id (wall and CPU, question and record together), the
longest that one record took, resident memory on top of the empty process, how long an opening
takes, and how many ids of a rewind are answered a second. CPU is the figure to compare on a
machine that does other things too.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kworker.stores import Store, open_store
from kworker.stores.api import Turn

MEASURED = 300_000  # ids at each size
HANDLER, TOPIC = "shop.charge", "orders"


def batches(chance: random.Random, count: int, size: int) -> Iterator[list[str]]:
    """Ids as uuid4 has them; the same again from the same seed."""
    for _ in range(count // size):
        digits = [f"{chance.getrandbits(128):032x}" for _ in range(size)]
        yield [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in digits]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def opened(path: Path) -> Store:
    return open_store(path, group="bench", cluster="bench")


def measure(store: Store, chance: random.Random, size: int) -> str:
    walls, cpus, records = 0.0, 0.0, []
    for ids in batches(chance, MEASURED, size):
        began, used = time.perf_counter(), cpu()
        assert not store.seen_ids(HANDLER, TOPIC, ids)
        asked = time.perf_counter()
        assert store.record(Turn(ids={(HANDLER, TOPIC): ids}))
        ended = time.perf_counter()
        walls += ended - began
        cpus += cpu() - used
        records.append(ended - asked)
    records.sort()
    return (
        f"{walls / MEASURED * 1e6:5.2f} us wall {cpus / MEASURED * 1e6:5.2f} us CPU an id; "
        f"record median {statistics.median(records) * 1e3:.1f} ms, "
        f"99 % {records[len(records) * 99 // 100] * 1e3:.1f} ms, longest {records[-1] * 1e3:.1f} ms"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--ids", type=int, default=5_000_000)
    arguments.add_argument("--batch", type=int, default=500)
    arguments.add_argument("--folder", type=Path)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder) / "store.db"
        opened(Path(folder) / "first.db").close()  # imports are not what is measured
        empty = resident()
        store = opened(path)
        chance = random.Random(1)
        stored = 0
        for size in sorted({0, min(1_000_000, chosen.ids), chosen.ids}):
            for ids in batches(chance, size - stored, chosen.batch):
                store.record(Turn(ids={(HANDLER, TOPIC): ids}))
            print(f"{size:>9,} ids: {measure(store, chance, chosen.batch)}; "
                  f"memory +{resident() - empty:.0f} MiB", flush=True)  # fmt: skip
            stored = size + MEASURED
        store.close()
        began = time.perf_counter()
        store = opened(path)
        print(f"opening: {time.perf_counter() - began:.3f} s, memory +{resident() - empty:.0f} MiB")
        rewound = 0
        seconds = 0.0
        for ids in batches(random.Random(1), min(500_000, stored), chosen.batch):
            began = time.perf_counter()
            assert len(store.seen_ids(HANDLER, TOPIC, ids)) == len(ids)
            seconds += time.perf_counter() - began
            rewound += len(ids)
        print(f"rewind: {rewound / seconds:,.0f} ids/s")
        store.close()


if __name__ == "__main__":
    main()
