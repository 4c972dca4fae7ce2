"""`benchmarks.serving`: how answers are read and judged, what is made of times and memory. Nothing is timed here."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from benchmarks import serving_client
from benchmarks.serving import bare_line, figures_of, row_of, table_of, with_ratios
from benchmarks.serving_bare import ALONE
from benchmarks.serving_client import Answers, BadAnswer, Client, Request, split_answer
from benchmarks.serving_servers import MARK, OURS, Running, marked, squeezebert
from benchmarks.serving_soak import MEBIBYTE, Sample, lines_of, ragged_requests, result_of, slope

GOOD = b'{"data": [{"embedding": [1.0], "index": 0}]}'


def test_figures_are_percentiles_of_the_answers_and_shares_of_their_number() -> None:
    answers = Answers(seconds=[at / 1000 for at in range(1, 102)], elapsed=2.0)
    figures = figures_of(answers, cpu_seconds=0.505)
    assert figures == pytest.approx(
        {"p50_ms": 51, "p95_ms": 96, "p99_ms": 100, "requests_per_second": 50.5, "cpu_ms_per_request": 5}
    )


def rows() -> list[dict[str, Any]]:
    rates = {OURS: (600.0, 200.0, 400.0), "slow": (50.0, 50.0, 50.0), "fast": (100.0, 90.0, 110.0)}
    return [
        row_of(
            name,
            8,
            [{**figures_of(Answers([0.01], elapsed=1), 0.001), "requests_per_second": a} for a in each],
        )
        for name, each in rates.items()
    ]


def test_a_row_is_the_median_of_its_rounds_and_ours_is_held_against_the_best_peer() -> None:
    ours, slow, fast = with_ratios(rows())
    assert (ours["requests_per_second"], slow["requests_per_second"]) == (400, 50)
    assert (ours["best_peer"], ours["throughput_over_best_peer"]) == ("fast", 4)
    assert slow["throughput_over_best_peer"] is fast["best_peer"] is None
    assert with_ratios(rows()[:1])[0]["throughput_over_best_peer"] is None
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table_of([ours, slow]))
    assert "400 │           4.00 │       1.00 ms" in captured.get()


def test_ratios_are_of_as_many_connections() -> None:
    few = [{**row, "connections": 1, "requests_per_second": 7} for row in rows()]
    assert [row["throughput_over_best_peer"] for row in with_ratios([*few, *rows()])] == [
        1,
        None,
        None,
        4,
        None,
        None,
    ]


def test_what_the_server_adds_is_over_the_model_alone() -> None:
    line = bare_line({ALONE: 2.5, "library": 3.5}, [{**rows()[0], "connections": 1, "p50_ms": 3.25}])
    assert "the model alone 2.50 ms; library 3.50 ms; " in line
    assert "at 1 connection +0.75 ms" in line


def test_a_slope_is_that_of_the_second_half() -> None:
    grows, then_flat = [(at, at * 100) for at in range(10)], [(at, 1000) for at in range(10, 20)]
    assert slope([Sample(at, size, 3) for at, size in grows + then_flat]) == pytest.approx(0, abs=1e-6)
    assert slope([Sample(at, 5 * at, 3) for at in range(10, 20)]) == pytest.approx(5)
    assert slope([Sample(0, 7, 3)]) == 0


def test_a_soak_tells_growth_for_a_number_of_requests() -> None:
    samples = [Sample(at, (100 + at) * MEBIBYTE, 4) for at in range(11)]
    answers = Answers(
        elapsed=10.0, statuses=Counter({200: 900, 400: 100}), faults=Counter({"500 instead": 2})
    )
    result = result_of(answers, samples)
    assert result["growth_mib_per_10000_requests"] == pytest.approx(100)
    assert (result["first_mib"], result["half_mib"], result["last_mib"], result["most_mib"]) == (
        100,
        105,
        110,
        110,
    )
    assert json.loads(json.dumps(result)) == result
    said = "\n".join(lines_of(result))
    assert "1000 requests in 10 s, 100 a second: 900 times 200, 100 times 400" in said
    assert "FAULT, 2 times: 500 instead" in said
    assert "+100.00 MiB for 10,000 requests" in said
    assert "no answer but those expected" in "\n".join(lines_of({**result, "faults": {}}))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", False)),
        (b"HTTP/1.1 503 X\r\ncontent-LENGTH: 0\r\nConnection: close\r\n\r\n", (503, b"", True)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x\r\nk\r\n0\r\n\r\n",
            (200, b"ok", False),
        ),
    ],
)
def test_an_answer_is_read_once_all_of_it_is_there(data: bytes, answer: tuple[int, bytes, bool]) -> None:
    assert split_answer(data) == answer
    for length in range(len(data)):
        assert split_answer(data[:length]) is None


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 oh\r\n\r\n"])
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        split_answer(data)


def test_a_wrong_status_and_missing_vectors_are_faults() -> None:
    request = Request("/", b"{}", vectors=2, least_bytes=10)
    assert request.fault(200, b'{"index": 0} {"index": 1}') is None
    assert "500 instead of (200,): oh" in str(request.fault(500, b"oh"))
    assert "1 vectors instead of 2" in str(request.fault(200, b'{"index": 0}'))
    assert "18 bytes for 2 vectors" in str(request.fault(200, b'"index"111"index"1'))
    assert Request("/", b"{}", (400,)).fault(400, b"no") is None


class Handler(socketserver.StreamRequestHandler):
    """Answers what the server has as `answer`, in two parts; closes after each third."""

    def handle(self) -> None:
        for number in range(3):
            length = 0
            while (line := self.rfile.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if not line:
                return
            assert len(self.rfile.read(length)) == length
            server: Any = self.server
            server.asked += 1
            self.wfile.write(server.answer[:20])
            if number < 2:
                self.wfile.write(server.answer[20:])


@pytest.fixture
def server() -> Iterator[Any]:
    class Threading(socketserver.ThreadingTCPServer):
        daemon_threads, asked, answer = True, 0, b""

    with Threading(("127.0.0.1", 0), Handler) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def test_clients_ask_as_many_questions_as_they_may_and_count_connections_that_end_early(server: Any) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
    requests = [Request("/x", b"{}" * 300_000, vectors=1), Request("/x", b"{}", vectors=1)]
    answers = Client(requests).run(server.server_address[1], connections=1, seconds=60, limit=9)
    assert server.asked == 9
    assert answers.statuses == {200: 6}
    assert answers.faults == {"the connection was closed without an answer": 3}
    assert len(answers.seconds) == 6
    assert Client(requests).run(server.server_address[1], connections=3, seconds=0).statuses == {}


def test_silence_ends_a_run(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_client, "SILENCE_SECONDS", 0.05)
    server.answer = b"HTTP/1.1 200"
    answers = Client([Request("/x", b"{}")]).run(server.server_address[1], connections=2, seconds=60)
    assert sum(answers.faults.values()) == 2


def test_requests_of_a_soak_are_of_all_sizes_and_the_same_each_time() -> None:
    sentences = ["a warm and funny film", "it is thin"] * 50
    made = ragged_requests("/v1/embeddings", sentences, 2000)
    assert made == ragged_requests("/v1/embeddings", sentences, 2000)
    good = [json.loads(each.body)["input"] for each in made if each.vectors]
    assert 0.9 < len(good) / len(made) < 0.98
    lengths = [len(text.split()) for texts in good for text in texts]
    assert (min(lengths), max(lengths)) == (1, 300)
    assert {len(texts) for texts in good} == set(range(1, 17))
    assert all(200 not in each.statuses for each in made if not each.vectors)


def test_a_servers_processes_are_found_by_their_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = "import sys, time\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, MARK: "this one"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert marked("this one") == [child.pid]
        assert marked("this") == []
        started = Running(squeezebert(None, "float32"), 0, "this one", None)  # type: ignore[arg-type]
        size, count = started.memory()
        assert size > MEBIBYTE
        assert count == 1
        assert started.cpu_seconds() > 0
        child.communicate()
    assert marked("this one") == []
    assert started.memory() == (0, 0)
