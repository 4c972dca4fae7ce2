"""A hundred thousand requests of all sizes, bad ones among them: is every answer right, does memory stay flat?

The model is a small one of random weights: what may leak is the server, and a large one would take an afternoon.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.minilm import minilm_directory
from benchmarks.serving_client import Answers, Client, Request
from benchmarks.serving_servers import MODEL_NAME, Running, Server, running
from benchmarks.sst2 import read_sentences
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.benchmark import Turns

CONNECTIONS = 16
LONGEST_TEXT, MOST_TEXTS = 300, 16
"""Words of a text and texts of a request, at most."""
BAD_SHARE = 0.05
DIFFERENT = 5_000
"""Requests that are made; a soak asks them again and again."""
SAMPLE_SECONDS = 2.0
MEBIBYTE = 2**20

BAD_BODIES: tuple[tuple[bytes, tuple[int, ...]], ...] = (
    (b"", (400, 422)),
    (b"not JSON", (400, 422)),
    (b'{"input": "cut sho', (400, 422)),
    (b'{"input": "\xff\xfe"}', (400, 422)),
    (b"[]", (400, 422)),
    (b"{}", (400, 422)),
    (b'{"input": []}', (400, 422)),
    (b'{"input": 5}', (400, 422)),
    (b'{"input": [["text"]]}', (400, 422)),
    (b'{"input": ["text", null]}', (400, 422)),
    (b'{"input": "text", "encoding_format": "pickle"}', (400, 422)),
    (b'{"input": "text", "model": "another"}', (400, 404, 422)),
    (b"[" * 20_000, (400, 422)),
    (json.dumps({"input": ["a"] * 5_000}).encode(), (400, 413, 422)),
)
"""What no model answers, and the statuses that may come of it."""


def ragged_requests(path: str, sentences: Sequence[str], count: int, seed: int = 0) -> list[Request]:
    """Requests of 1 to 16 texts of 1 to 300 words, the logarithms of both spread evenly; some are bad."""
    chance = random.Random(seed)
    words = [word for sentence in sentences for word in sentence.split()]

    def size(most: int) -> int:
        return int(most ** chance.random()) if chance.random() < 0.99 else most

    def text() -> str:
        start, length = chance.randrange(len(words)), size(LONGEST_TEXT)
        return " ".join((words[start:] + words)[:length])

    requests = []
    for _ in range(count):
        if chance.random() < BAD_SHARE:
            body, statuses = chance.choice(BAD_BODIES)
            requests.append(Request(path, body, statuses))
        else:
            texts = [text() for _ in range(size(MOST_TEXTS))]
            form = chance.choice(("float", "base64"))
            content = {"input": texts, "model": MODEL_NAME, "encoding_format": form}
            requests.append(Request(path, json.dumps(content).encode(), vectors=len(texts)))
    return requests


@dataclass(frozen=True)
class Sample:
    """The memory of a server's processes at a time: PSS, in bytes."""

    seconds: float
    bytes: int
    processes: int


def slope(samples: Sequence[Sample]) -> float:
    """Bytes a second by which memory grows in the second half, by least squares: the first half fills its pools."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    times, sizes = (np.array([getattr(each, name) for each in half]) for name in ("seconds", "bytes"))
    return float(np.polyfit(times - times[0], sizes, 1)[0])


def small_model(folder: Path) -> Path:
    """Two layers of random weights that any text goes through, with MiniLM's vocabulary."""
    config = SqueezeBertConfig(
        hidden_size=64,
        embedding_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
    )
    path = folder / "small"
    SqueezeBertModel(config).save_pretrained(path)
    SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt", model_max_length=256).save_pretrained(path)
    return path


def soak(
    turns: Turns, server: Server, folder: Path, requests: int, seconds: float, shown: Console
) -> dict[str, Any]:
    """Ask so many requests, for at most so many seconds; what came of it."""
    made = ragged_requests(server.path, read_sentences(), min(DIFFERENT, requests))
    turns.start("client", partial(Client, made))
    with running(server, folder) as started, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(turns.ask, "client", Client.run, started.port, CONNECTIONS, seconds, requests)
        samples = [_sample(started, begin := time.monotonic())]
        while not asked.done():
            time.sleep(SAMPLE_SECONDS)
            samples.append(_sample(started, begin))
            if shown.is_terminal:
                shown.print(f"{samples[-1].seconds:.0f} s, {samples[-1].bytes / MEBIBYTE:.0f} MiB", end="\r")
        return result_of(asked.result(), samples)


def _sample(started: Running, begin: float) -> Sample:
    return Sample(time.monotonic() - begin, *started.memory())


def result_of(answers: Answers, samples: Sequence[Sample]) -> dict[str, Any]:
    """What is written of a soak."""
    count = sum(answers.statuses.values())
    a_second = slope(samples)
    return {
        "requests": count,
        "seconds": answers.elapsed,
        "requests_per_second": count / answers.elapsed,
        "statuses": {str(status): times for status, times in sorted(answers.statuses.items())},
        "faults": dict(answers.faults),
        "first_mib": samples[0].bytes / MEBIBYTE,
        "half_mib": samples[len(samples) // 2].bytes / MEBIBYTE,
        "last_mib": samples[-1].bytes / MEBIBYTE,
        "most_mib": max(each.bytes for each in samples) / MEBIBYTE,
        "growth_mib_per_10000_requests": a_second * answers.elapsed / count * 10_000 / MEBIBYTE,
        "samples": [[each.seconds, each.bytes, each.processes] for each in samples],
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """What is printed of a soak."""
    statuses = ", ".join(f"{times} times {status}" for status, times in result["statuses"].items())
    faults = [f"FAULT, {times} times: {what}" for what, times in result["faults"].items()]
    return [
        f"{result['requests']} requests in {result['seconds']:.0f} s, {result['requests_per_second']:.0f} a second: "
        f"{statuses}",
        *(faults or ["no answer but those expected"]),
        f"memory (PSS of all its processes): {result['first_mib']:.0f} MiB at first, {result['half_mib']:.0f} at half "
        f"time, {result['last_mib']:.0f} at last; second half: "
        f"{result['growth_mib_per_10000_requests']:+.2f} MiB for 10,000 requests",
    ]
