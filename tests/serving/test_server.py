"""A server as a process: what clients get of it, alone and many at once."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import openai
import psutil
import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.serving.work import EMBEDDINGS
from tests.cli_helpers import save_model, succeeds
from tests.serving.running import Running, serving, until

TEXTS = [" ".join(["word"] * length) + f" {number}" for number, length in enumerate([1, 30, 3, 12, 50, 2])]
MANY = [f"text number {number} " + "and so on " * (number % 9) for number in range(2000)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, but so that 2,000 texts take some tenths of a second."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
    return save_model(SqueezeBertModel, tmp_path_factory.mktemp("model") / "tiny", **sizes)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--threads", 1, "--max-batch", 16, "--max-queue", 64)
    with serving(folder, model, *options) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def vectors(model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What `embed` makes of TEXTS."""
    folder = tmp_path_factory.mktemp("embed")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    succeeds("embed", folder / "texts.txt", "-m", model, "-o", folder / "out.npy", "--threads", 1)
    return np.load(folder / "out.npy")


def test_openais_client_gets_the_vectors_of_embed(client: openai.OpenAI, vectors: np.ndarray) -> None:
    for encoding in ("float", "base64"):
        answer = client.embeddings.create(model="tiny", input=TEXTS, encoding_format=encoding)
        assert np.array_equal(_decoded(answer), vectors)
        assert answer.usage.prompt_tokens > sum(len(text.split()) for text in TEXTS)
    default = client.embeddings.create(model="tiny", input=TEXTS[0])
    assert np.array_equal(np.float32(default.data[0].embedding), vectors[0])
    assert [each.id for each in client.models.list()] == ["tiny"]


def _decoded(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    rows = []
    for each in answer.data:
        if isinstance(each.embedding, str):
            import base64

            rows.append(np.frombuffer(base64.b64decode(each.embedding), np.float32))
        else:
            rows.append(np.float32(each.embedding))
    return np.stack(rows)


def test_openais_client_understands_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has tiny"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError, match="empty list"):
        client.embeddings.create(model="tiny", input=[])


def test_requests_that_come_together_are_one_batch_and_their_bits_are_as_alone(
    server: Running, vectors: np.ndarray
) -> None:
    batches, texts = "squeezebert_batch_texts_count", "squeezebert_batch_texts_sum"
    before = {name: server.number(name) for name in (batches, texts)}

    def ask(number: int) -> tuple[int, np.ndarray]:
        which = number % len(TEXTS)
        status, answer, _ = server.post(EMBEDDINGS, {"input": TEXTS[which]})
        assert status == 200, answer
        return which, np.float32(answer["data"][0]["embedding"])

    with ThreadPoolExecutor(24) as pool:
        for which, vector in pool.map(ask, range(480)):
            assert np.array_equal(vector, vectors[which])
    assert server.number(texts) - before[texts] == 480
    assert server.number(batches) - before[batches] < 400


def test_a_full_queue_is_answered_503_and_empties(server: Running) -> None:
    with ThreadPoolExecutor(5) as pool:  # one is computed, and four times 16 texts wait
        large = [pool.submit(server.post, EMBEDDINGS, {"input": MANY}) for _ in range(5)]
        until(lambda: server.number("squeezebert_waiting_texts") >= 64)
        asked = (server.post(EMBEDDINGS, {"input": "a"}) for _ in range(1000))
        status, answer, headers = next(each for each in asked if each[0] != 200)
        assert status == 503
        assert answer["error"]["code"] == "queue_full"
        assert int(headers["Retry-After"]) >= 1
        for each in large:
            assert len(each.result()[1]["data"]) == len(MANY)
    assert server.post(EMBEDDINGS, {"input": "a"})[0] == 200


def test_a_client_that_goes_away_frees_its_place(server: Running) -> None:
    texts = server.number("squeezebert_batch_texts_sum")
    body = json.dumps({"input": MANY}).encode()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", EMBEDDINGS, body)
    until(lambda: server.number("squeezebert_batch_texts_sum") > texts)
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()  # with a reset, as of a process that died
    until(lambda: server.number("squeezebert_waiting_texts") == 0)
    assert server.post(EMBEDDINGS, {"input": "a"})[0] == 200
    assert server.number("squeezebert_batch_texts_sum") - texts < len(MANY)
    gone = 'squeezebert_requests_total{endpoint="/v1/embeddings",status="499"}'
    until(lambda: server.number(gone) >= 1)


def test_a_body_that_is_too_long_is_refused_on_the_wire(server: Running) -> None:
    status, answer, _ = server.post(EMBEDDINGS, {"input": "a" * 9 * 2**20})
    assert status == 413
    assert "longer than 8,388,608 bytes" in answer["error"]["message"]


def test_all_of_its_processes_listen_at_loopback_alone(server: Running) -> None:
    family = server.family()
    assert {"raylet", "gcs_server", "haproxy"} <= {process.name() for process in family}
    listening = [
        (process.name(), connection.laddr)
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
        or (connection.type == socket.SOCK_DGRAM and connection.laddr)
    ]
    assert len(listening) > 5
    addresses = {(name, ip_address(at.ip.removeprefix("::ffff:"))) for name, at in listening}
    assert [each for each in addresses if not each[1].is_loopback] == []


def test_two_servers_run_side_by_side_and_one_predicts_as_predict_does(
    server: Running, tmp_path: Path
) -> None:
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    classifier = save_model(SqueezeBertForSequenceClassification, tmp_path / "classifier", **labels)
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, " "]))
    lines = succeeds_with_blanks("predict", tmp_path / "texts.txt", "-m", classifier, "--threads", 1)
    wanted = [{name: row[name] for name in ("label", "score")} for row in map(json.loads, lines.splitlines())]
    with serving(tmp_path, classifier, "--threads", 1) as other:
        status, answer, _ = other.post("/predict", {"texts": [*TEXTS, " "]})
        assert (status, answer) == (200, {"predictions": wanted, "model": "classifier"})
        assert wanted[-1] == {"label": None, "score": None}
        assert server.post(EMBEDDINGS, {"input": "a"})[0] == 200
        assert other.post(EMBEDDINGS, {"input": "a"})[0] == 404
        assert other.stop() == 0
    assert server.post(EMBEDDINGS, {"input": "a"})[0] == 200


def succeeds_with_blanks(*arguments: object) -> str:
    """stdout of a command that ends well and warns of a blank text."""
    from tests.cli_helpers import run

    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout
