"""Deliberate bugs, each in a copy of the package, and the scenario that must catch it.

`python -m tests.faults.mutants` makes them one after the other, runs the scenario on each, and
writes down what was said in `docs/mutants.json`. It ends with 1 if one was not caught.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CAUGHT = ROOT / "docs" / "mutants.json"
CELLS = (
    "tests/faults/test_crash_points.py::test_a_process_that_ends_at_this_point_loses_nothing_and_"
    "calls_again_only_what_it_must"
)
STORE = "tests/faults/test_the_store_breaks.py::test_a"


@dataclass(frozen=True, slots=True)
class Mutant:
    bug: str  # what it does, for people
    file: str  # in the package
    old: str  # what stands there once
    new: str
    test: str  # which must fail


MUTANTS = [
    Mutant(
        "records a message before its handler is called",
        "runtime/loop.py",
        "    def _enter(self, work: Work) -> None:\n",
        "    def _enter(self, work: Work) -> None:\n"
        "        if work.log is not None:\n"
        "            at = work.record.offset\n"
        "            done = {(work.scope.name, work.log): Ranges([(at, at + 1)])}\n"
        "            topics = {work.log.topic_id: work.scope.topic}\n"
        "            self.store.record(Turn(done=done, topics=topics))\n",
        f"{CELLS}[ok, before_handler:1]",
    ),
    Mutant(
        "commits what was read instead of what is finished",
        "runtime/ledger.py",
        "        safe = self.safe\n        epochs",
        "        safe = self._next\n        epochs",
        "tests/faults/test_kill_storm.py",
    ),
    Mutant(
        "forgets the fence: what ends after its partition has gone is recorded all the same",
        "runtime/loop.py",
        "                ledger.ours = False\n                gone.append(ledger)\n",
        "                gone.append(ledger)\n",
        "tests/unit/runtime/test_partitions_move.py",
    ),
    Mutant(
        "hands nothing on with the commit",
        "runtime/handover.py",
        "            self._done(ledger, held),\n",
        "            {},\n",
        "tests/faults/test_handover.py",
    ),
    Mutant(
        "believes the attempts that a producer claims",
        "runtime/intake.py",
        "            works.append(work)\n",
        "            work.calls = _whole(names.reserved(record.headers).get(names.ATTEMPT), 0)\n"
        "            works.append(work)\n",
        "tests/scenario/test_bad_messages.py::test_forged_headers_of_ours_change_nothing_but_the_id",
    ),
    Mutant(
        "takes a refused copy for a written one",
        "runtime/delivery/at_least_once.py",
        "        if isinstance(answer, Receipt):\n            del self._copies[work]\n",
        "        if True:\n            del self._copies[work]\n",
        "tests/faults/test_the_chain_under_pressure.py",
    ),
    Mutant(
        "records a message before what it published is acknowledged",
        "runtime/delivery/at_least_once.py",
        "                self._outputs[work] = set(shipments)\n",
        "                self._settled.append((work, Done()))\n",
        f"{CELLS}[mail, before_acknowledge:1]",
    ),
    Mutant(
        "sends a copy before the decision for it is recorded",
        "runtime/delivery/at_least_once.py",
        "        self._copies[work] = _Sending(copy, error)\n",
        "        self._copies[work] = _Sending(copy, error)\n"
        "        self._ship(work, self._copies[work])\n",
        f"{CELLS}[always, after_send:1]",
    ),
    Mutant(
        "takes its own retry copy for a duplicate",
        "runtime/work.py",
        "        return Mark(scope.name, scope.topic, self.id, self.replay, self.hop)\n",
        "        return Mark(scope.name, scope.topic, self.id, self.replay)\n",
        "tests/faults/test_term_under_load.py::"
        "test_a_worker_stopped_three_times_under_load_handles_nothing_twice[TERM]",
    ),
    Mutant(
        "goes on starting handlers while the disk of its store is full",
        "runtime/loop.py",
        "        if not self.room:\n            return\n        for run",
        "        for run",
        f"{STORE}_full_disk_stops_the_taking_and_nothing_is_lost_or_repeated_once_there_is_room",
    ),
    Mutant(
        "does not look whether its file is still there",
        "stores/sqlite/guard.py",
        "            if self._identity(suffix) != identity:\n",
        "            if False:\n",
        f"{STORE}_file_that_is_no_longer_what_it_was_ends_its_worker_with_5_and_nothing_is_lost"
        "[taken_away]",
    ),
    Mutant(
        "begins at the commit although the store is older",
        "runtime/positions.py",
        "        if stored is None or stored >= point.offset:\n",
        "        if True:\n",
        f"{STORE}_log_that_lost_its_end_with_the_power_loses_no_transaction",
    ),
]


@dataclass(frozen=True, slots=True)
class Result:
    bug: str
    test: str
    caught: bool
    said: str
    seconds: float


def made(mutant: Mutant, folder: Path) -> None:
    """The package with that one change in it."""
    shutil.copytree(ROOT / "kworker", folder / "kworker", ignore=shutil.ignore_patterns("*.pyc"))
    file = folder / "kworker" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} does not hold once what is to be changed: {mutant.bug}")
    file.write_text(text.replace(mutant.old, mutant.new))


def tried(mutant: Mutant) -> Result:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kworker-mutant-") as place:
        folder = Path(place)
        made(mutant, folder)
        env = {
            **os.environ,
            "KWORKER_STANDIN": place,  # for the workers
            "PYTHONPATH": place,  # for tests that import it
            "KWORKER_FAULTS": "full" if "crash_points" in mutant.test else "short",
            "KWORKER_FAULTS_SEED": os.environ.get("KWORKER_FAULTS_SEED", "1"),
        }
        # Not by -m, which would have tests import what is in the working directory.
        pytest = str(Path(sys.executable).parent / "pytest")
        command = [pytest, "-q", "-x", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*command, mutant.test], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
        )
    said = re.findall(r"^E +(?:AssertionError: )?(.+)$", ended.stdout, re.MULTILINE)
    failed = ended.returncode == 1 and bool(re.search(r"^FAILED ", ended.stdout, re.MULTILINE))
    line = said[0][:160] if said else ended.stdout.strip().splitlines()[-1][:160]
    return Result(mutant.bug, mutant.test, failed, line, round(time.monotonic() - begun, 1))


def main() -> int:
    wanted = sys.argv[1:]
    results = []
    for mutant in MUTANTS:
        if wanted and not any(word in mutant.bug for word in wanted):
            continue
        result = tried(mutant)
        results.append(result)
        print(f"{'caught' if result.caught else 'MISSED'} in {result.seconds:5.1f} s  {result.bug}")
        print(f"    {result.test.partition('::')[0]}: {result.said}", flush=True)
    told = {one["bug"]: one for one in json.loads(CAUGHT.read_text())} if CAUGHT.exists() else {}
    told |= {one.bug: asdict(one) for one in results}
    kept = [told[mutant.bug] for mutant in MUTANTS if mutant.bug in told]
    CAUGHT.write_text(json.dumps(kept, indent=1) + "\n")
    return 0 if all(one.caught for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
