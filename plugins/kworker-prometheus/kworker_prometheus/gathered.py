"""The metrics of several worker processes on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

LABEL = "worker"


def gathered(workers: Mapping[int, bytes]) -> bytes:
    """The pages of these workers as one, each of their series with the worker's number.

    So a worker that is started again begins its own series anew, as Prometheus expects, and
    not a sum over all. A label of that name that a metric has already is handed on as
    `exported_worker`, as Prometheus does.
    """
    return generate_latest(_Gathered(workers))


class _Gathered:
    """Looks like a registry to what writes the page."""

    def __init__(self, workers: Mapping[int, bytes]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for number, page in self._workers.items():
            for found in text_string_to_metric_families(page.decode()):
                family = families.setdefault(
                    found.name, Family(found.name, found.documentation, found.type)
                )
                for sample in found.samples:
                    labels = dict(sample.labels)
                    if LABEL in labels:
                        labels[f"exported_{LABEL}"] = labels.pop(LABEL)
                    labels[LABEL] = str(number)
                    family.samples.append(sample._replace(labels=labels))
        yield from families.values()
