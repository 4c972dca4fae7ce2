"""The ASGI application: endpoints, and what is wrong with a request. It knows neither Ray nor how work is done."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.serving.bodies import (
    Body,
    EmbeddingsBody,
    FillMaskBody,
    PredictBody,
    check_size,
    parsed,
)
from squeezebert_fast.serving.docs_page import docs_page
from squeezebert_fast.serving.metrics import CONTENT_TYPE, Metrics
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.refusals import Refused
from squeezebert_fast.serving.work import EMBEDDINGS, FILL_MASK, PREDICT, Done, Offer, Work
from squeezebert_fast.version import __version__

logger = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
WENT_AWAY = 499
Answer = Callable[[bytes], Awaitable[Any]]


class Server:
    """The endpoints of one model. ask: from work to its answers; None until the model is loaded."""

    def __init__(
        self,
        offer: Offer,
        ask: Callable[[Work], Awaitable[Done]] | None,
        options: ServingOptions,
        metrics: Metrics,
    ) -> None:
        self.offer, self.ask, self.options, self.metrics = offer, ask, options, metrics
        self.created = int(time.time())

    async def embeddings(self, data: bytes) -> Any:
        body = parsed(EmbeddingsBody, data)
        self._check_model(body.model)
        if body.dimensions not in (None, self.offer.channels):
            raise Refused(
                400,
                f"dimensions is {body.dimensions}, but the vectors of {self.offer.name} have {self.offer.channels}",
                param="dimensions",
            )
        done = await self._done(body.work())
        shown = (
            (lambda vector: base64.b64encode(vector).decode()) if body.encoding_format == "base64" else _list
        )
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": shown(vector)}
                for index, vector in enumerate(done.answers)
            ],
            "model": self.offer.name,
            "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
        }

    async def predict(self, data: bytes) -> Any:
        body = parsed(PredictBody, data)
        self._check_model(body.model)
        work = body.work(self.offer)
        return {"predictions": (await self._done(work)).answers, "model": self.offer.name}

    async def fill_mask(self, data: bytes) -> Any:
        body = parsed(FillMaskBody, data)
        self._check_model(body.model)
        answers = (await self._done(body.work())).answers
        return {"masks": answers if body.texts is not None else answers[0], "model": self.offer.name}

    def models(self) -> Any:
        model = {
            "id": self.offer.name,
            "object": "model",
            "created": self.created,
            "owned_by": "squeezebert-fast",
        }
        return {"object": "list", "data": [model | self.offer.shown]}

    def check_endpoint(self, endpoint: str) -> None:
        """Raise Refused, 404, for an endpoint of other models."""
        if endpoint != self.offer.endpoint:
            raise Refused(404, f"{self.offer.name} doesn't serve {endpoint}; it serves {self.offer.endpoint}")

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self.offer.name):
            raise Refused(
                404,
                f"the model {name!r} isn't here; this server has {self.offer.name}",
                param="model",
                code="model_not_found",
            )

    async def _done(self, work: Work) -> Done:
        if self.ask is None:
            raise Refused(503, "the model isn't loaded yet", code="loading", retry_after=1)
        return await self.ask(check_size(work, self.options))


def _list(vector: Any) -> list[float]:
    return vector.tolist()


class Application:
    """The ASGI application that answers for a server.

    What the model is asked comes here directly; FastAPI's layers, which it needs none of, would cost a quarter of a
    millisecond. They have the rest, and describe all of it.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.others = server, _others(server)
        self.posts = {
            EMBEDDINGS: server.embeddings,
            PREDICT: server.predict,
            FILL_MASK: server.fill_mask,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"][len(scope.get("root_path", "")) :]
            if answer := self.posts.get(path):
                response = await self._answered(path, answer, Request(scope, receive))
                return await response(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "HEAD":  # which FastAPI takes for another method
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        return await self.others(scope, receive, send)

    async def _answered(self, path: str, answer: Answer, request: Request) -> Response:
        start, status = time.perf_counter(), WENT_AWAY
        try:
            self.server.check_endpoint(path)
            response = _json(await answer(await read_body(request, self.server.options.max_body_bytes)))
            status = response.status_code
            return response
        except Exception as error:
            refused = _refused(error)
            status = refused.status
            return _refusal(refused)
        finally:  # also where the client is gone, which cancels this
            self.server.metrics.answered(path, status, time.perf_counter() - start)


def _others(server: Server) -> FastAPI:
    """What isn't asked of the model, and the OpenAPI document of all endpoints."""
    app = FastAPI(title="squeezebert-fast", version=__version__, docs_url=None, redoc_url=None)

    def describe(path: str, summary: str, body: type[Body]) -> None:
        schema = {"application/json": {"schema": body.model_json_schema()}}

        @app.post(path, summary=summary, openapi_extra={"requestBody": {"content": schema, "required": True}})
        async def elsewhere() -> None:
            raise AssertionError(f"{path} is Application's")

    describe(EMBEDDINGS, "Vectors of texts, as OpenAI's.", EmbeddingsBody)
    describe(PREDICT, "What the model was trained for: labels, values, entities, answers.", PredictBody)
    describe(FILL_MASK, "The likeliest tokens for the masks of texts.", FillMaskBody)

    @app.get("/v1/models", summary="The model, and what it serves.")
    async def models() -> Response:
        return _json(server.models())

    @app.get("/health", summary="Whether this process answers.")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready", summary="Whether the model is loaded; 503 until then.")
    async def ready() -> Response:
        is_ready = server.ask is not None
        return _json({"status": "ready" if is_ready else "loading"}, 200 if is_ready else 503)

    @app.get("/metrics", summary="What Prometheus reads.")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(
            docs_page(app.openapi(), server.offer.endpoint), media_type="text/html; charset=utf-8"
        )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def no_such_thing(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        return _refusal(Refused(error.status_code, said), error.headers)

    return app


def _without_body(send: Send) -> Send:
    async def sends(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sends


async def read_body(request: Request, most: int) -> bytes:
    """The request's body. Raises Refused: 413 as soon as it is known to be longer than `most` bytes, 415 if packed."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(415, f"the body's Content-Encoding is {encoding}, expected none")
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most:
        raise _too_long(most)
    chunks, length = [], 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > most:
            raise _too_long(most)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_long(most: int) -> Refused:
    return Refused(413, f"the request's body is longer than {most:,} bytes", code="body_too_long")


def _refused(error: Exception) -> Refused:
    """An error as a client gets it."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ClientDisconnect):
        return Refused(WENT_AWAY, "the client went away before its request was whole")
    if isinstance(error, SqueezeBertFastError):  # of the model, about a text: one without a mask, say
        return Refused(400 if isinstance(error, ValueError) else 500, str(error))
    logger.error("a request failed", exc_info=error)
    return Refused(500, f"the server has a fault: {type(error).__name__}", code="internal_error")


def _json(answer: Any, status: int = 200) -> Response:
    return Response(pydantic_core.to_json(answer), status, media_type="application/json")


def _refusal(refused: Refused, headers: Any = None) -> Response:
    response = _json(refused.body, refused.status)
    response.headers.update(headers or refused.headers)
    return response
