"""The endpoints in this process, with a model that answers at once: what is asked, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from squeezebert_fast.errors import CheckpointError, InputError
from squeezebert_fast.serving.endpoints import Application, Server
from squeezebert_fast.serving.metrics import Metrics
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.work import EMBEDDINGS, FILL_MASK, PREDICT, Done, Offer, Work

OPTIONS = ServingOptions(max_texts=3, max_characters=50, max_body_mib=0.001)
EMBEDDER = Offer("minilm", EMBEDDINGS, channels=2)
CLASSIFIER = Offer("sentiment", PREDICT, pairs="may")
ENTITIES = Offer("entities", PREDICT)
QUESTIONS = Offer("squad", PREDICT, pairs="must", columns=("question", "context"))
CHOICES = Offer("choices", PREDICT, choices=2)
MASKED = Offer("masked", FILL_MASK, mask_token="[MASK]")


class Fake:
    """asked: the work that came. client: of a server with this offer."""

    def __init__(self, offer: Offer, answer: Callable[[Work], list[Any]]) -> None:
        self.asked: list[Work] = []
        self.answer = answer
        self.server = Server(offer, self._ask, OPTIONS, Metrics())
        self.client = TestClient(Application(self.server))

    async def _ask(self, work: Work) -> Done:
        self.asked.append(work)
        return Done(self.answer(work), 7)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, content=body if isinstance(body, bytes) else json.dumps(body))


def embedder() -> Fake:
    return Fake(EMBEDDER, lambda work: [np.array([0.1, len(r.text)], np.float32) for r in work.records])


def predictor(offer: Offer = CLASSIFIER) -> Fake:
    return Fake(offer, lambda work: [{"label": "yes", "score": 0.5} for _ in work.records])


def error_of(response: Any, status: int) -> str:
    """The message of an error, which must have OpenAI's form and be one line."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error["message"]


def test_vectors_come_in_the_order_of_the_texts() -> None:
    answer = embedder().post(EMBEDDINGS, {"input": ["a", "bb"], "model": "minilm", "user": "me"}).json()
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert np.array_equal(np.float32(answer["data"][1]["embedding"]), np.float32([0.1, 2]))
    assert answer["model"] == "minilm"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_base64_holds_the_float32_bytes() -> None:
    answer = embedder().post(EMBEDDINGS, {"input": "a", "encoding_format": "base64", "dimensions": 2}).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert np.array_equal(vector, np.float32([0.1, 1]))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "invalid JSON"),
        (b"[", "invalid JSON"),
        (b'{"input": "a"} b', "trailing characters"),
        (b'{"input": "\xff"}', "invalid unicode"),
        (b'{"input": "\\ud800"}', "invalid JSON"),
        (b'{"input": "a", "input": NaN}', "input is a number"),
        (b'{"input": "a", "user": NaN}', "user: "),
        (b'{"input": ' + b"[" * 900, "recursion limit"),
        ([], "isn't a JSON object"),
        ("a", "isn't a JSON object"),
        ({}, "input: Field required"),
        ({"input": None}, "input is null, expected a string or a list of strings"),
        ({"input": 1}, "input is a number"),
        ({"input": {"a": "b"}}, "input is an object"),
        ({"input": []}, "input is an empty list"),
        ({"input": [1, 2]}, "token ids"),
        ({"input": [[1, 2]]}, "token ids"),
        ({"input": ["a", 1]}, "input.1: "),
        ({"input": ["a"] * 4}, "4 texts, expected at most 3"),
        ({"input": ["a", "a" * 51]}, "text 2 has 51 characters, expected at most 50"),
        ({"input": "a", "dimensions": 3}, "dimensions is 3, but the vectors of minilm have 2"),
        ({"input": "a", "dimensions": "2"}, "dimensions: "),
        ({"input": "a", "encoding_format": "int8"}, "'float' or 'base64'"),
        ({"input": "a", "top_p": 1}, "top_p is no part of this request"),
    ],
)
def test_a_wrong_body_is_said_in_one_line(body: Any, said: str) -> None:
    fake = embedder()
    assert said in error_of(fake.post(EMBEDDINGS, body), 400)
    assert not fake.asked


def test_another_model_isnt_here() -> None:
    response = embedder().post(EMBEDDINGS, {"input": "a", "model": "text-embedding-3-small"})
    assert "this server has minilm" in error_of(response, 404)
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_long_body_is_refused_whether_its_length_is_told_or_not() -> None:
    fake = embedder()
    body = json.dumps({"input": "a" * 2000}).encode()
    assert "longer than 1,048 bytes" in error_of(fake.client.post(EMBEDDINGS, content=body), 413)
    chunks = (body[at : at + 100] for at in range(0, len(body), 100))
    assert "longer than" in error_of(fake.client.post(EMBEDDINGS, content=chunks), 413)
    assert not fake.asked


def test_a_client_that_is_gone_before_its_body_is_whole_is_nobodys_fault() -> None:
    fake = embedder()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": EMBEDDINGS, "headers": []}
    asyncio.run(Application(fake.server)(scope, receive, send))
    assert sent[0]["status"] == 499
    assert not fake.asked


def test_a_server_below_a_prefix_answers_there() -> None:
    fake = embedder()
    client = TestClient(fake.client.app, root_path="/minilm")
    assert client.post("/minilm/v1/embeddings", content=b'{"input": "a"}').status_code == 200


def test_predictions_of_texts_and_pairs() -> None:
    fake = predictor()
    assert fake.post(PREDICT, {"text": "a"}).json() == {
        "predictions": [{"label": "yes", "score": 0.5}],
        "model": "sentiment",
    }
    assert len(fake.post(PREDICT, {"texts": ["a", ""]}).json()["predictions"]) == 2
    assert len(fake.post(PREDICT, {"pairs": [["a", "b"]]}).json()["predictions"]) == 1
    assert [(r.text, r.pair) for work in fake.asked for r in work.records] == [
        ("a", None),
        ("a", None),
        ("", None),
        ("a", "b"),
    ]


@pytest.mark.parametrize(
    ("offer", "body", "said"),
    [
        (CLASSIFIER, {}, "holds no texts, expected one of text, texts, pairs"),
        (CLASSIFIER, {"text": "a", "texts": ["b"]}, "holds text and texts"),
        (CLASSIFIER, {"texts": []}, "texts is an empty list"),
        (CLASSIFIER, {"texts": "a"}, "texts: "),
        (CLASSIFIER, {"texts": ["a", None]}, "texts.1: "),
        (CLASSIFIER, {"pairs": [["a"]]}, "pairs.0"),
        (CLASSIFIER, {"pairs": [["a", "b", "c"]]}, "pairs.0"),
        (CLASSIFIER, {"pairs": ["ab"]}, "pairs.0"),
        (CLASSIFIER, {"text": "a", "choices": [["b"]]}, "takes no choices"),
        (ENTITIES, {"pairs": [["a", "b"]]}, "entities takes texts, not pairs"),
        (QUESTIONS, {"text": "a"}, "squad takes pairs, each a question and its context"),
        (CLASSIFIER, {"pairs": [["a", "b" * 51]]}, "text 1 has 51 characters"),
        (CHOICES, {"texts": ["a"], "choices": [["b", "c" * 51]]}, "text 1 has 51 characters"),
        (CHOICES, {"text": "a"}, "choices takes 2 choices for each text"),
        (CHOICES, {"texts": ["a", "b"], "choices": [["c", "d"]]}, "as many lists as texts"),
    ],
)
def test_texts_that_the_model_doesnt_take(offer: Offer, body: Any, said: str) -> None:
    assert said in error_of(predictor(offer).post(PREDICT, body), 400)


def test_choices_go_with_their_text() -> None:
    fake = predictor(CHOICES)
    assert fake.post(PREDICT, {"texts": ["a"], "choices": [["b", "c"]]}).status_code == 200
    assert fake.asked[0].records[0].choices == ("b", "c")


def test_masks_of_one_text_and_of_several() -> None:
    fake = Fake(MASKED, lambda work: [[[{"token": "x", "score": 1.0}] * work.top_k]] * len(work.records))
    assert fake.post(FILL_MASK, {"text": "[MASK]", "top_k": 1}).json()["masks"] == [
        [{"token": "x", "score": 1.0}]
    ]
    assert len(fake.post(FILL_MASK, {"texts": ["[MASK]", "[MASK]"]}).json()["masks"]) == 2
    assert "top_k: " in error_of(fake.post(FILL_MASK, {"text": "[MASK]", "top_k": 0}), 400)


@pytest.mark.parametrize("path", [PREDICT, FILL_MASK])
def test_an_endpoint_of_other_models_says_which_one_this_has(path: str) -> None:
    said = error_of(embedder().post(path, b"whatever"), 404)
    assert said == f"minilm doesn't serve {path}; it serves /v1/embeddings"


def test_what_the_model_says_of_a_text_is_the_clients_and_what_it_says_of_itself_is_not() -> None:
    def fails(error: Exception) -> Any:
        def answer(work: Work) -> list[Any]:
            raise error

        return Fake(CLASSIFIER, answer).post(PREDICT, {"text": "a"})

    assert error_of(fails(InputError("the text has no [MASK]")), 400) == "the text has no [MASK]"
    assert error_of(fails(CheckpointError("damaged weights?")), 500) == "damaged weights?"
    assert error_of(fails(KeyError("secret")), 500) == "the server has a fault: KeyError"


def test_until_the_model_is_loaded_it_isnt_ready_but_healthy() -> None:
    fake = embedder()
    assert fake.client.get("/ready").status_code == 200
    fake.server.ask = None
    assert fake.client.get("/ready").status_code == 503
    assert fake.client.get("/health").status_code == 200
    response = fake.post(EMBEDDINGS, {"input": "a"})
    assert "isn't loaded yet" in error_of(response, 503)
    assert response.headers["Retry-After"] == "1"


def test_the_model_says_what_it_serves() -> None:
    assert embedder().client.get("/v1/models").json()["data"][0] | {"created": 0} == {
        "id": "minilm",
        "object": "model",
        "created": 0,
        "owned_by": "squeezebert-fast",
        "endpoints": [EMBEDDINGS],
        "dimensions": 2,
    }
    shown = predictor(QUESTIONS).client.get("/v1/models").json()["data"][0]
    assert (shown["pairs"], shown["columns"]) == ("must", ["question", "context"])


def test_other_paths_and_methods_are_refused_as_openai_does() -> None:
    client = embedder().client
    assert error_of(client.get("/v1/nothing"), 404) == "GET /v1/nothing: Not Found"
    response = client.get(EMBEDDINGS)
    assert "Method Not Allowed" in error_of(response, 405)
    assert response.headers["Allow"] == "POST"


def test_head_is_answered_as_get_without_a_body() -> None:
    client = embedder().client
    for path in ("/health", "/ready", "/v1/models", "/metrics", "/docs", "/", "/openapi.json"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b""), path
        assert response.headers["content-type"] == client.get(path).headers["content-type"]
    assert client.head("/v1/nothing").status_code == 404


def test_a_packed_body_is_refused_as_one() -> None:
    fake = embedder()
    body = gzip.compress(b'{"input": "a"}')
    response = fake.client.post(EMBEDDINGS, content=body, headers={"Content-Encoding": "gzip"})
    assert error_of(response, 415) == "the body's Content-Encoding is gzip, expected none"
    plain = fake.client.post(EMBEDDINGS, content=b'{"input": "a"}', headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


def test_requests_are_counted_by_endpoint_and_status() -> None:
    fake = embedder()
    fake.post(EMBEDDINGS, {"input": "a"})
    fake.post(EMBEDDINGS, {"input": []})
    text = fake.client.get("/metrics").text
    for status in (200, 400):
        assert f'squeezebert_requests_total{{endpoint="/v1/embeddings",status="{status}"}} 1.0' in text
    assert 'squeezebert_request_seconds_count{endpoint="/v1/embeddings"} 2.0' in text


def test_the_openapi_document_describes_every_endpoint_and_its_body() -> None:
    paths = embedder().client.get("/openapi.json").json()["paths"]
    assert set(paths) == {EMBEDDINGS, PREDICT, FILL_MASK, "/v1/models", "/health", "/ready", "/metrics"}
    schema = paths[EMBEDDINGS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["input"]


def test_the_docs_name_all_that_can_be_asked_and_load_nothing() -> None:
    response = embedder().client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    for word in (EMBEDDINGS, PREDICT, FILL_MASK, "/metrics", "encoding_format", "top_k", "pairs"):
        assert word in response.text
    for loaded in ("<script", "http://", "https://", "src="):
        assert loaded not in response.text.replace("default-src", "")


def test_the_page_is_a_page() -> None:
    response = embedder().client.get("/")
    assert response.status_code == 200
    assert response.text.startswith("<!doctype html>")
