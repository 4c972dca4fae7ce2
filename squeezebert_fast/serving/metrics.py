"""What a server counts, in the form that Prometheus reads.

Replicas are processes. With a folder, each writes its numbers to files there (prometheus_client's multiprocess mode),
and whichever is asked adds up those of all; counters of a replica that died stay in the sums. Without a folder, as on a
cluster that others started, each replica has its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess, values

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LIVE_FILE = re.compile(r"gauge_live\w+_(\d+)\.db")


class Metrics:
    """The numbers of this process. folder: where all replicas of a node write theirs."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        if folder is not None:
            os.environ[FOLDER_VARIABLE] = folder
            values.ValueClass = (
                values.MultiProcessValue()
            )  # decided at import by the variable, which came later
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "squeezebert_requests", "Requests answered.", ("endpoint", "status"), registry=registry
        )
        self.seconds = Histogram(
            "squeezebert_request_seconds",
            "From a request's arrival in the replica to its answer.",
            ("endpoint",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_texts = Histogram(
            "squeezebert_batch_texts", "Texts of each batch.", buckets=TEXTS, registry=registry
        )
        self.batch_seconds = Histogram(
            "squeezebert_batch_seconds",
            "Time that the model took for each batch.",
            buckets=SECONDS,
            registry=registry,
        )
        self.tokens = Counter("squeezebert_tokens", "Tokens computed.", registry=registry)
        self.waiting = Gauge(
            "squeezebert_waiting_texts",
            "Texts that wait for the model.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(endpoint, status).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def computed(self, texts: int, tokens: int, seconds: float) -> None:
        self.batch_texts.observe(texts)
        self.batch_seconds.observe(seconds)
        self.tokens.inc(tokens)

    def text(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        if self.folder is None:
            return prometheus_client.generate_latest(self.registry)
        _forget_the_dead(Path(self.folder))
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together, self.folder)
        return prometheus_client.generate_latest(together)


def _forget_the_dead(folder: Path) -> None:
    """Remove what processes that are no more had waiting."""
    for path in folder.glob("gauge_live*.db"):
        match = _LIVE_FILE.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            path.unlink(missing_ok=True)
