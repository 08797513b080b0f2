"""GET /metrics: Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from memfirst import __version__
from memfirst.server.gaps import BOUNDS
from memfirst.server.messages import CANCELLED, End
from memfirst.server.service import Service

router = APIRouter()

LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


COUNTS = {
    "prefix_queries": "Tokens of prompts that were looked up in the prefix cache",
    "prefix_hits": "Of these, tokens that were there",
    "recomputed_tokens": "Tokens that were computed again after their request had to make room",
    "spilled_bytes": "Bytes written to the page file",
    "restored_bytes": "Bytes read from it",
}
"""The engine's counters as it names them."""


class Metrics:
    """Counters and histograms of the HTTP side, and the engine's own as it last said them."""

    def __init__(self, served: Service) -> None:
        self._served, self.registry = served, CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"memfirst_{name}", text, buckets=buckets, registry=self.registry)

        self.queue = histogram("queue_seconds", "From a request's arrival to its first step", LONG)
        self.first = histogram("time_to_first_token_seconds", "From a request's arrival to its first token", LONG)
        self.between = histogram("time_per_output_token_seconds", "Mean time of tokens after the first", BOUNDS)
        self.whole = histogram("request_seconds", "From a request's arrival to its end", LONG)
        self.ended = Counter("memfirst_requests", "Requests that ended", ["end"], registry=self.registry)
        self.prompt = Counter("memfirst_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.cached = Counter("memfirst_prompt_cached_tokens", "Of these, taken from the cache", registry=self.registry)
        self.written = Counter("memfirst_generated_tokens", "Tokens of answers", registry=self.registry)
        self.bytes = Counter(
            "memfirst_answered_bytes", "Bytes read for ended requests", ["purpose"], registry=self.registry
        )
        self._sums = dict.fromkeys(("prompt_tokens", "cached_tokens", "tokens", "drafted", "kept"), 0)
        self._seconds = dict.fromkeys(("prompt_s", "answer_s"), 0.0)
        self._steps, self._longest = 0, 0
        self.registry.register(self)
        served.link.on_end.append(self.end)

    def end(self, end: End) -> None:
        """A request ended."""
        self.ended.labels("error" if end.error else end.reason or "error").inc()
        if not end.usage:
            return
        u = end.usage
        self.prompt.inc(u["prompt_tokens"])
        self.cached.inc(u["cached_tokens"])
        self.written.inc(u["tokens"])
        for name in self._sums:
            self._sums[name] += u[name]
        for name in self._seconds:
            self._seconds[name] += u[name]
        self._steps += u["answer_steps"]
        self._longest = max(self._longest, u["prompt_tokens"] + u["tokens"])
        for purpose, n in u["bytes"].items():
            self.bytes.labels(purpose).inc(n)
        if end.reason == CANCELLED:
            return
        self.queue.observe(u["queued_s"])
        self.first.observe(u["queued_s"] + u["prompt_s"])
        self.whole.observe(u["queued_s"] + u["prompt_s"] + u["answer_s"])
        if u["answer_steps"]:
            self.between.observe(u["answer_s"] / u["answer_steps"])

    def collect(self) -> Iterator[Metric]:
        """The engine's numbers."""
        link = self._served.link
        info = InfoMetricFamily("memfirst", "What is served")
        info.add_metric([], {"version": __version__, "model": self._served.settings.name})
        yield info
        yield GaugeMetricFamily("memfirst_up", "Whether the engine takes requests", link.state == "ready")
        yield CounterMetricFamily("memfirst_engine_restarts", "Times that the engine died", link.deaths)
        requests = GaugeMetricFamily("memfirst_requests_live", "Requests by state", labels=["state"])
        requests.add_metric(["running"], link.live - link.waiting)
        requests.add_metric(["waiting"], link.waiting)
        yield requests
        if link.stats is not None and link.loaded is not None:
            yield from self._engine(link.stats, link.loaded)
        yield from self._as_vllm(link)
        yield from self._as_llama_cpp(link)

    def _engine(self, stats: Any, loaded: Any) -> Iterator[Metric]:
        read = CounterMetricFamily("memfirst_bytes", "Bytes that the kernels counted", labels=["purpose"])
        for purpose, n in stats.bytes.items():
            read.add_metric([purpose], n)
        yield read
        yield CounterMetricFamily("memfirst_steps", "Steps of the engine", stats.steps)
        yield CounterMetricFamily("memfirst_step_seconds", "Seconds of steps", stats.seconds)
        yield CounterMetricFamily("memfirst_step_tokens", "New tokens of steps", stats.tokens)
        yield GaugeMetricFamily(
            "memfirst_read_bandwidth_bytes_per_second", "Measured read bandwidth, when idle", stats.read_bandwidth
        )
        blocks = GaugeMetricFamily("memfirst_kv_bytes", "KV cache by state", labels=["state"])
        sizes = loaded.block_bytes
        for state, counts in (
            ("held", [u - k for u, k in zip(stats.used, stats.kept, strict=True)]),
            ("kept", stats.kept),
            ("free", [n - u for n, u in zip(loaded.blocks, stats.used, strict=True)]),
        ):
            blocks.add_metric([state], sum(n * size for n, size in zip(counts, sizes, strict=True)))
        blocks.add_metric(["file"], stats.counts.get("page_file_bytes", 0))
        yield blocks
        yield _gaps("memfirst_inter_token_seconds", stats)
        for name, text in COUNTS.items():
            yield CounterMetricFamily(f"memfirst_{name}", text, stats.counts.get(name, 0))
        yield GaugeMetricFamily(
            "memfirst_predicted_wait_seconds", "Until a request that comes now is begun", stats.wait
        )

    def _as_vllm(self, link: Any) -> Iterator[Metric]:
        """Names that gateways and dashboards look for."""
        yield GaugeMetricFamily("vllm:num_requests_running", "Requests running", link.live - link.waiting)
        yield GaugeMetricFamily("vllm:num_requests_waiting", "Requests waiting", link.waiting)
        if link.stats is not None and link.loaded is not None:
            total = sum(link.loaded.blocks)
            yield GaugeMetricFamily(
                "vllm:kv_cache_usage_perc", "Share of the KV cache in use",
                sum(link.stats.used) - sum(link.stats.kept) and (sum(link.stats.used) - sum(link.stats.kept)) / total,
            )  # fmt: skip
            yield _gaps("vllm:inter_token_latency_seconds", link.stats)
            for name in ("queries", "hits"):
                text = COUNTS[f"prefix_{name}"]
                yield CounterMetricFamily(f"vllm:prefix_cache_{name}", text, link.stats.counts.get(f"prefix_{name}", 0))

    def _as_llama_cpp(self, link: Any) -> Iterator[Metric]:
        """Names of llama.cpp's server, for dashboards that were made for it; rates are means since the start."""
        sums, seconds = self._sums, self._seconds
        computed = sums["prompt_tokens"] - sums["cached_tokens"]
        steps, rows = (link.stats.steps, link.stats.rows) if link.stats is not None else (0, 0)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts that were computed", computed),
            ("prompt_tokens_cached", "Tokens of prompts that were taken from the cache", sums["cached_tokens"]),
            ("prompt_seconds", "Seconds of prompts", seconds["prompt_s"]),
            ("tokens_predicted", "Tokens of answers", sums["tokens"]),
            ("tokens_predicted_seconds", "Seconds of answers", seconds["answer_s"]),
            ("n_decode", "Steps of the engine", steps),
            ("spec_decode_num_draft_tokens", "Drafted tokens that were checked", sums["drafted"]),
            ("spec_decode_num_accepted_tokens", "Of these, tokens of answers", sums["kept"]),
        ):
            yield CounterMetricFamily(f"llamacpp:{name}", text, value)
        for name, text, value in (
            ("n_tokens_max", "The longest prompt and answer together", self._longest),
            ("prompt_tokens_seconds", "Tokens a second of prompts", _rate(computed, seconds["prompt_s"])),
            ("predicted_tokens_seconds", "Tokens a second of answers", _rate(self._steps, seconds["answer_s"])),
            ("requests_processing", "Requests running", link.live - link.waiting),
            ("requests_deferred", "Requests waiting", link.waiting),
            ("n_busy_slots_per_decode", "Rows of logits a step", _rate(rows, steps)),
        ):
            yield GaugeMetricFamily(f"llamacpp:{name}", text, value)


def _gaps(name: str, stats: Any) -> Metric:
    """The engine's own histogram, which does not depend on when tokens are sent and read."""
    counts = [*accumulate(stats.gaps or [0] * (len(BOUNDS) + 1))]
    buckets = [*zip((*map(str, BOUNDS), "+Inf"), counts, strict=True)]
    return HistogramMetricFamily(name, "Between steps that gave an answer tokens", buckets, stats.gap_seconds)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds else 0.0


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    found: Metrics = request.app.state.metrics
    headers = {"process-start-time-unix": str(request.app.state.service.started)}  # as llama.cpp's server says it
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST, headers=headers)
