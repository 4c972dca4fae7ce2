"""The model's process: a replica of a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.serve._private import replica

from squeezebert_fast.answering.running import leave_to_stay
from squeezebert_fast.serving.batching import Batcher, Gate, Ticket
from squeezebert_fast.serving.cluster import LOOPBACK
from squeezebert_fast.serving.endpoints import Application, Server
from squeezebert_fast.serving.metrics import Metrics
from squeezebert_fast.serving.models import served, warm_up
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.work import Done, Outcome, Work

CONCURRENT_BATCHES = 4
"""More than one: a batch that has ended is there until the next one begins. The model's thread has one at a time."""


class Replica:
    """One model with its thread, its gate and its endpoints."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: str, options: ServingOptions, metrics_folder: str | None = None
    ) -> None:
        if metrics_folder is not None:  # of a server that has its Ray to itself
            _listen_at_loopback()
        self.options, self.metrics = options, Metrics(metrics_folder)
        self.gate = Gate(options.max_batch, self.metrics.waiting.set)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.model = served(model, options)
        await self._in_thread(self.model.load)
        await self._in_thread(warm_up, self.model)
        leave_to_stay()

    def __serve_build_asgi_app__(self) -> Any:
        # made here, for the decorator takes numbers and these are an object's
        @serve.batch(
            max_batch_size=self.options.max_batch,
            batch_wait_timeout_s=self.options.max_wait_ms / 1000,
            max_concurrent_batches=CONCURRENT_BATCHES,
        )
        async def batched(tickets: list[Ticket]) -> list[Outcome]:
            return await self._compute(tickets)

        ask = Batcher(
            self.gate,
            self._compute,
            batched,
            max_queue=self.options.max_queue,
            waits=self.options.max_wait_ms > 0,
        )
        return Application(Server(self.model.offer(), ask, self.options, self.metrics))

    async def _compute(self, tickets: list[Ticket]) -> list[Outcome]:
        self.gate.begin(tickets)
        try:
            return await self._in_thread(self._timed, [ticket.work for ticket in tickets])
        finally:
            next_batch = self.gate.end()
            if next_batch is not None and not self.options.max_wait_ms:
                await next_batch

    def _timed(self, works: list[Work]) -> list[Outcome]:
        start = time.perf_counter()
        outcomes = self.model.compute(works)
        seconds = time.perf_counter() - start
        tokens = sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Done))
        self.metrics.computed(sum(len(work.records) for work in works), tokens, seconds)
        return outcomes

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)


def _listen_at_loopback() -> None:
    """Have this replica's port for calls from other replicas, which unpickles, at the loopback address.

    Serve opens it on all addresses, without an option, once the replica is initialized.
    """
    open_port = replica.add_port_to_grpc_server

    def at_loopback(server: Any, address: str) -> int:
        return open_port(server, address.replace("[::]", LOOPBACK))

    replica.add_port_to_grpc_server = at_loopback
