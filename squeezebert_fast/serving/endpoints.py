"""The ASGI application: endpoints, and what is wrong with a request. It knows neither Ray nor how work is done."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.serving.bodies import (
    Body,
    EmbeddingsBody,
    FillMaskBody,
    PredictBody,
    check_count,
    parsed,
)
from squeezebert_fast.serving.metrics import CONTENT_TYPE, Metrics
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.refusals import Refused
from squeezebert_fast.serving.work import EMBEDDINGS, FILL_MASK, PREDICT, Done, Offer, Work
from squeezebert_fast.version import __version__

PAGE = Path(__file__).with_name("page.html")
WENT_AWAY = 499


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
        self._check_endpoint(EMBEDDINGS, body)
        if body.dimensions not in (None, self.offer.channels):
            raise Refused(
                400,
                f"dimensions is {body.dimensions}, but the vectors of {self.offer.name} have {self.offer.channels}",
                param="dimensions",
            )
        done = await self._done(body.work())
        shown = (lambda vector: base64.b64encode(vector).decode()) if body.encoding_format == "base64" else _list
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
        self._check_endpoint(PREDICT, body)
        work = body.work(self.offer.takes_pairs, self.offer.choices, self.offer.needs_pairs)
        return {"predictions": (await self._done(work)).answers, "model": self.offer.name}

    async def fill_mask(self, data: bytes) -> Any:
        body = parsed(FillMaskBody, data)
        self._check_endpoint(FILL_MASK, body)
        answers = (await self._done(body.work())).answers
        return {"masks": answers if body.texts is not None else answers[0], "model": self.offer.name}

    def models(self) -> Any:
        model = {"id": self.offer.name, "object": "model", "created": self.created, "owned_by": "squeezebert-fast"}
        return {"object": "list", "data": [model | {"endpoint": self.offer.endpoint}]}

    def _check_endpoint(self, endpoint: str, body: Any) -> None:
        if endpoint != self.offer.endpoint:
            raise Refused(
                404, f"{self.offer.name} doesn't serve {endpoint}; it serves {self.offer.endpoint}"
            )
        if body.model not in (None, self.offer.name):
            raise Refused(
                404,
                f"the model {body.model!r} isn't here; this server has {self.offer.name}",
                param="model",
                code="model_not_found",
            )

    async def _done(self, work: Work) -> Done:
        if self.ask is None:
            raise Refused(503, "the model isn't loaded yet", code="loading", retry_after=1)
        return await self.ask(check_count(work, self.options.max_texts))


def _list(vector: Any) -> list[float]:
    return vector.tolist()


async def read_body(request: Request, most: int) -> bytes:
    """The request's body. Raises Refused, 413, as soon as it is known to be longer than `most` bytes."""
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


def create_app(server: Server) -> FastAPI:
    """The application that answers for a server."""
    app = FastAPI(title="squeezebert-fast", version=__version__, docs_url=None, redoc_url=None)

    def post(path: str, body: type[Body], answer: Callable[[bytes], Awaitable[Any]]) -> None:
        async def endpoint(request: Request) -> Response:
            return await _answered(server, path, request, answer)

        schema = {"application/json": {"schema": body.model_json_schema()}}
        app.post(
            path,
            summary=(answer.__doc__ or path).strip(),
            openapi_extra={"requestBody": {"content": schema, "required": True}},
        )(endpoint)

    post(EMBEDDINGS, EmbeddingsBody, server.embeddings)
    post(PREDICT, PredictBody, server.predict)
    post(FILL_MASK, FillMaskBody, server.fill_mask)

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(server.models())

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        is_ready = server.ask is not None
        return _json({"status": "ready" if is_ready else "loading"}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def no_such_thing(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        return _refusal(Refused(error.status_code, said), error.headers)

    return app


async def _answered(
    server: Server, path: str, request: Request, answer: Callable[[bytes], Awaitable[Any]]
) -> Response:
    start, status = time.perf_counter(), WENT_AWAY
    try:
        response = _json(await answer(await read_body(request, server.options.max_body_bytes)))
    except Refused as refused:
        response = _refusal(refused)
    except SqueezeBertFastError as error:  # of the model, about a text: one without a mask, say
        is_theirs = isinstance(error, ValueError)
        response = _refusal(Refused(400 if is_theirs else 500, str(error)))
    finally:
        if "response" in locals():
            status = response.status_code
        server.metrics.answered(path, status, time.perf_counter() - start)
    return response


def _json(answer: Any, status: int = 200) -> Response:
    return Response(pydantic_core.to_json(answer), status, media_type="application/json")


def _refusal(refused: Refused, headers: Any = None) -> Response:
    response = _json(refused.body, refused.status)
    response.headers.update(headers or refused.headers)
    return response
