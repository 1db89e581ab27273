"""The HTTP door: a service that classifies photos with ONNX Runtime, and the page in front of it."""

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catsdogs.data.decode import ACCEPTED, MAX_BYTES, PhotoError, PhotoTooLarge, decode
from catsdogs.serving.predictor import Predictor, load_predictor, printable

#: Photos in one request, and bytes in one, at most.
MAX_PHOTOS, MAX_REQUEST = 64, 64_000_000
#: What is taken on at a time, over all requests: photos that wait for their answer, bytes that are being received.
MAX_WAITING, MAX_RECEIVING = 512, 256_000_000
#: Photos that go through the network at once, at most.
MAX_BATCH = 32
#: A request may take this long to arrive, and a second longer for each of so many bytes.
SECONDS, BYTES_PER_SECOND = 10, 16_384
#: Bytes in the head of a request, at most (and what arrives together with its end).
MAX_HEAD = 65_536

WEB = Path(__file__).parent / "web"

#: Sent with everything: nothing of the page comes from, or goes to, another site, and no other site may frame it.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class Map(BaseModel):
    """Where the network looked: rows from top to bottom, each from left to right, 0 to 255."""

    width: int
    height: int
    values: list[int]


class PhotoAnswer(BaseModel):
    """The answer for one photo; or, where it cannot be used, `error`, and the `status` it would have alone."""

    name: str
    label: str | None = None
    probability: float | None = None
    confidence: float | None = None
    map: Map | None = None
    error: str | None = None
    status: int | None = None


class Answers(BaseModel):
    """The answers, in the order of the photos."""

    photos: list[PhotoAnswer]


class Busy(Exception):
    """More is waiting than is taken on."""


class Batcher:
    """Puts photos of concurrent requests through the network together.

    While one batch is in the network, the photos that arrive wait, and are the next batch. `decode` runs on all cores.
    """

    def __init__(self, predictor: Predictor, metrics: "Metrics"):
        self.predictor, self.metrics = predictor, metrics
        self.waiting, self.taken, self.runner = deque(), 0, None
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decode")
        self.network = ThreadPoolExecutor(1, "network")

    async def answer(self, photos: list[tuple[str, bytes]], with_map: bool) -> list[dict]:
        """An answer for each of `photos`, (name, content). Raises `Busy` where too many are waiting."""
        if self.taken + len(photos) > MAX_WAITING:
            raise Busy
        self.taken += len(photos)
        try:
            return await asyncio.gather(
                *(self._answer(name, content, with_map) for name, content in photos)
            )
        finally:
            self.taken -= len(photos)

    async def _answer(self, name, content, with_map):
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(self.decoders, decode, content, self.predictor.size)
        except PhotoError as error:
            status = 413 if isinstance(error, PhotoTooLarge) else 422
            return {"name": name, "error": str(error), "status": status}
        future = loop.create_future()
        self.waiting.append((pixels, with_map, future))
        if self.runner is None:
            self.runner = loop.create_task(self._run())
        probability, drawn = await future
        answer = self.predictor.answer(name, probability)
        return {
            "name": name,
            "label": answer.label,
            "probability": round(answer.probability, 6),
            "confidence": round(answer.confidence, 6),
            "map": drawn,
        }

    async def _run(self):
        loop = asyncio.get_running_loop()
        try:
            while self.waiting:
                batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), MAX_BATCH))]
                self.metrics.batch.observe(len(batch))
                try:
                    found = await loop.run_in_executor(self.network, self._through_network, batch)
                except Exception as error:
                    # Whoever waits for an answer must get one, if only that there is none.
                    for _, _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, _, future), answer in zip(batch, found):
                    if not future.done():  # whoever asked may have gone
                        future.set_result(answer)
        finally:
            self.runner = None

    def _through_network(self, batch):
        images = np.stack([pixels for pixels, _, _ in batch])
        if self.predictor.explain is None or not any(with_map for _, with_map, _ in batch):
            return [(probability, None) for probability in self.predictor.predict(images)]
        probabilities, maps = self.predictor.explain(images)
        drawn = (np.clip(maps, 0, 1) * 255).round().astype(np.uint8)
        return [
            (
                probability,
                {"width": one.shape[1], "height": one.shape[0], "values": one.ravel().tolist()}
                if with_map
                else None,
            )
            for probability, one, (_, with_map, _) in zip(probabilities, drawn, batch)
        ]


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.PlatformCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "catsdogs_requests",
            "Requests to /predict by status",
            ["status"],
            registry=self.registry,
        )
        self.photos = prometheus.Counter(
            "catsdogs_photos", "Photos by answer", ["answer"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "catsdogs_request_seconds",
            "From the first byte to the answer",
            registry=self.registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.batch = prometheus.Histogram(
            "catsdogs_batch_photos",
            "Photos that went through the network together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.waiting = prometheus.Gauge(
            "catsdogs_photos_waiting", "Photos taken on and not answered", registry=self.registry
        )


class Receiver:
    """Reads the bodies of requests, with an eye on how much and how slowly."""

    def __init__(self):
        self.receiving = 0

    @asynccontextmanager
    async def body(self, request: Request):
        """The body of `request`, whole. Raises `HTTPException`: 408 too slow, 413 too large, 503 too many at once."""
        limit = MAX_REQUEST if _is_multipart(request) else MAX_BYTES
        count, parts, counted = 0, [], 0
        deadline = time.monotonic() + SECONDS
        try:
            while True:
                try:
                    async with asyncio.timeout(
                        deadline + count / BYTES_PER_SECOND - time.monotonic()
                    ):
                        message = await request.receive()
                except TimeoutError:
                    raise HTTPException(
                        408,
                        f"after {count:,} bytes, the rest did not arrive in time",
                        {"Connection": "close"},
                    ) from None
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "the connection was closed before all had arrived")
                part = message.get("body", b"")
                count += len(part)
                if count <= limit:
                    if self.receiving + len(part) > MAX_RECEIVING:
                        raise _busy()
                    self.receiving += len(part)
                    counted += len(part)
                    parts.append(part)
                else:
                    # What is too large is read on for a while, and dropped: whoever is still sending would not see an answer.
                    self.receiving -= counted
                    counted, parts = 0, []
                    if count > 4 * MAX_REQUEST:
                        raise _too_large(limit, {"Connection": "close"})
                if not message.get("more_body", False):
                    break
            if count > limit:
                raise _too_large(limit)
            yield b"".join(parts)
        finally:
            self.receiving -= counted


def _is_multipart(request):
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _too_large(limit, headers=None):
    what = "one photo" if limit == MAX_BYTES else "one request"
    return HTTPException(413, f"more than {limit // 10**6} MB in {what}", headers)


def _busy():
    return HTTPException(
        503, "too many photos are waiting: try again in a moment", {"Retry-After": "1"}
    )


async def _photos(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """The photos in `body`, (name, content): the files of a form, or else the body itself."""
    if not _is_multipart(request):
        return [("photo", body)]

    async def stream():
        yield body

    if not body.rstrip(b" \t\r\n").endswith(b"--"):
        # Or a form that was cut off would be answered as if its last photos had never been in it.
        raise HTTPException(422, "the form cannot be read: its end is missing")
    try:
        # One file more than is taken, so that too many can be told from a broken form.
        form = await MultiPartParser(
            request.headers, stream(), max_files=MAX_PHOTOS + 1, max_fields=16
        ).parse()
    except MultiPartException as error:
        raise HTTPException(
            413 if "Too many" in error.message else 422, printable(error.message)
        ) from None
    except (FormParserError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise HTTPException(422, f"the form cannot be read: {printable(error)[:200]}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise HTTPException(
                422,
                "no photo in the form: expected files, such as curl -F photos=@cat.jpg sends them",
            )
        if len(files) > MAX_PHOTOS:
            raise HTTPException(413, f"{len(files)} photos: at most {MAX_PHOTOS} in one request")
        return [
            (printable(file.filename or "photo")[:200], await file.read(MAX_BYTES + 1))
            for file in files
        ]
    finally:
        await form.close()


def create_app(predictor: Predictor) -> FastAPI:
    """The service as an ASGI application."""
    metrics, receiver = Metrics(), Receiver()
    batcher = Batcher(predictor, metrics)
    app = FastAPI(
        title="Cats and dogs",
        version="1",
        redoc_url=None,
        docs_url=None,
        description=f"Says of photos whether they show a cat or a dog. Photos: {ACCEPTED}; up to {MAX_BYTES // 10**6} MB each.",
    )
    file = {"type": "string", "format": "binary"}
    upload = {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"photos": {"type": "array", "items": file}},
                    }
                },
                "application/octet-stream": {"schema": file},
                "image/*": {"schema": file},
            },
        }
    }
    wrong = {
        408: "the request arrived too slowly",
        413: "a photo is too large, or there are too many",
        422: "no photo that can be read",
        503: "too many photos are waiting; see Retry-After",
    }

    @app.post(
        "/predict",
        response_model=Answers,
        openapi_extra=upload,
        responses={status: {"description": text} for status, text in wrong.items()},
    )
    async def predict(
        request: Request, map: bool = Query(False, description="also say where the network looked")
    ):
        """Classify one or many photos: as a form's files, or one as the body itself.

        A photo that cannot be used has an `error` in place of an answer. Where that is all of them, the status is 422, or
        413 where they are too large.
        """
        started, status = time.perf_counter(), 500
        try:
            async with receiver.body(request) as body:
                photos = await _photos(request, body)
                metrics.waiting.set(batcher.taken + len(photos))
                try:
                    answers = await batcher.answer(photos, map)
                except Busy:
                    raise _busy() from None
                finally:
                    metrics.waiting.set(batcher.taken)
            for answer in answers:
                metrics.photos.labels(answer.get("label") or "error").inc()
            failed = [answer["status"] for answer in answers if "error" in answer]
            status = 200 if len(failed) < len(answers) else 413 if set(failed) == {413} else 422
            return JSONResponse({"photos": answers}, status)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            metrics.requests.labels(str(status)).inc()
            metrics.seconds.observe(time.perf_counter() - started)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict:
        """That the service is ready, and what model it has."""
        facts = {name: predictor.facts.get(name) for name in ("name", "model_sha256", "about")}
        return {
            "status": "ok",
            "size": predictor.size,
            "temperature": predictor.calibration.temperature,
            "unsure_below": predictor.calibration.unsure_below,
            "waiting": batcher.taken,
        } | facts

    @app.get("/metrics", response_class=Response)
    async def show_metrics():
        """Numbers for Prometheus."""
        return Response(
            prometheus.generate_latest(metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    @app.get("/docs", include_in_schema=False)
    async def docs():
        # Not FastAPI's own, which is put together from another site's scripts.
        return FileResponse(WEB / "docs.html")

    app.mount("/", StaticFiles(directory=WEB, html=True), "page")
    app.add_middleware(_WithHeaders)
    return app


class _WithHeaders:
    """Adds `_HEADERS` to every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_more(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self.app(scope, receive, send_more if scope["type"] == "http" else send)


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with limits on the time and the bytes that the head of a request may take, for which it has none."""

    _limit, _rest, _head, _arrived = None, None, 0, True

    def data_received(self, data):
        if self._arrived or self._limit is not None:
            # An upgrade to HTTP/2, which Java offers with every request, may be ignored; httptools ignores the body instead.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = re.sub(rb"(?i)\r\nupgrade:", b"\r\nx-upgrade:", head) + end + rest
        super().data_received(data)
        self._head = self._head + len(data) if self._limit is not None else 0
        if self._head > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def connection_made(self, transport):
        super().connection_made(transport)
        self._limit = self.loop.call_later(SECONDS, self._too_slow)

    def on_message_begin(self):
        super().on_message_begin()
        self._arrived = False
        if self._limit is None:
            self._limit = self.loop.call_later(SECONDS, self._too_slow)

    def on_headers_complete(self):
        self._cancel()
        super().on_headers_complete()

    def on_message_complete(self):
        super().on_message_complete()
        self._arrived = True
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def on_response_complete(self):
        super().on_response_complete()
        if not self._arrived and self.cycle.response_complete and not self.transport.is_closing():
            # Answered before all had arrived, such as 404: the rest may not take forever.
            self._rest = self.loop.call_later(SECONDS, self.transport.close)

    def connection_lost(self, exc):
        self._cancel()
        super().connection_lost(exc)

    def _cancel(self):
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self):
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status):
        self._cancel()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.transport.close()


def serve(host: str = "127.0.0.1", port: int = 8000, model: str | os.PathLike | None = None) -> int:
    """Serve until SIGTERM or SIGINT, which lets the requests in flight finish; returns the exit status.

    Raises `catsdogs.serving.predictor.ModelError` for a model that cannot be used, and `OSError` where the port cannot be had.
    """
    predictor, host = load_predictor(model), host or "127.0.0.1"  # to Python, "" is all addresses
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(predictor),
            http=_Protocol,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=30,
            server_header=False,
            limit_concurrency=900,
        )
    )  # beyond which it answers 503; most systems allow a process 1,024 files
    # Before it says that it is ready. uvicorn finishes the requests in flight, then raises the signal once more, for these.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]}/ is ready; stop it with Ctrl-C", flush=True)
    server.run(sockets=[listening])
    return 0
