"""What several replicas say, as one: numbers are summed, models listed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from memfirst.server.front.replica import Replica

LEAST = {"predicted_wait", "context", "context_bytes", "memfirst_predicted_wait_seconds"}
"""A request goes where it waits least; every replica must hold its context."""
MOST = {"up_s", "memfirst_info", "llamacpp:n_tokens_max"}
MEAN = {"vllm:kv_cache_usage_perc", "llamacpp:n_busy_slots_per_decode"}


def _combined(name: str, values: Sequence[float]) -> float:
    if name in LEAST:
        return min(values)
    if name in MOST:
        return max(values)
    total = sum(values)
    return total / len(values) if name in MEAN else total


def stats(said: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The /memfirst/stats of several servers as those of one."""
    made: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in said for name in one):
        values = [one[name] for one in said if name in one]
        if all(isinstance(v, dict) for v in values):
            made[name] = stats(values)
        elif all(isinstance(v, list) for v in values):
            made[name] = [item for v in values for item in v]
        elif all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            made[name] = _combined(name, values)
        else:
            made[name] = ", ".join(dict.fromkeys(map(str, values)))
    return made


def metrics(texts: Iterable[str]) -> list[Metric]:
    """Prometheus's text of several servers as one's: samples of the same name and labels are summed."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):  # a time, of each replica's own
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                found.setdefault((sample.name, tuple(sorted(sample.labels.items()))), []).append(sample.value)
    for name, family in families.items():
        for (sample_name, labels), several in values[name].items():
            family.add_sample(sample_name, dict(labels), _combined(sample_name, several))
    return list(families.values())


def of_door(replicas: Sequence[Replica]) -> list[Metric]:
    """The front door's own metrics. Replicas are numbered: addresses are not for everybody who reads metrics."""
    up = GaugeMetricFamily("memfirst_replica_up", "Whether a replica takes requests", labels=["replica"])
    live = GaugeMetricFamily("memfirst_replica_requests_live", "Requests at a replica", labels=["replica"])
    ended = CounterMetricFamily(
        "memfirst_replica_requests", "Requests given to a replica, by how they ended there", labels=["replica", "end"]
    )
    for replica in replicas:
        number = str(replica.index + 1)
        up.add_metric([number], replica.up)
        live.add_metric([number], replica.live)
        for end, n in replica.counts.items():
            ended.add_metric([number, end], n)
    return [up, live, ended]
