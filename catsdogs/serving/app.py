"""The HTTP service: a FastAPI app that classifies photos with ONNX Runtime, and its web page."""

import contextlib
import logging
import mimetypes
import os
import signal
import socket
import time
from pathlib import Path

import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from catsdogs.data.decode import ACCEPTED, MAX_BYTES
from catsdogs.data.structure import PhotoError, PhotoTooLarge
from catsdogs.serving.batching import Batcher, TooManyInFlightError, TooManyPixelsError
from catsdogs.serving.http import BodyReader, LimitedProtocol, overloaded, photos_in
from catsdogs.serving.models import find_model, where
from catsdogs.serving.predictor import Predictor, load_predictor

WEB = Path(__file__).parent / "web"
# Windows may know .js as text/plain, which browsers do not run.
mimetypes.add_type("text/javascript", ".js")
#: Seconds that requests in flight have to finish after SIGTERM. Many systems kill after 30.
GRACE = 25

#: Sent with every response: the page loads nothing from, and sends nothing to, another site, and
#: no other site may frame it.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class GradCam(BaseModel):
    """The regions that contributed most to the prediction (Grad-CAM).

    Rows from top to bottom, each from left to right, 0 to 255.
    """

    width: int
    height: int
    values: list[int]


class PhotoPrediction(BaseModel):
    """The prediction for one photo.

    For a photo that cannot be used: `error`, and the `status` it would have in a request of its
    own.
    """

    name: str
    label: str | None = None
    probability: float | None = None
    confidence: float | None = None
    neither: float | None = None
    map: GradCam | None = None
    error: str | None = None
    status: int | None = None


class Predictions(BaseModel):
    """The predictions, in the order of the photos."""

    photos: list[PhotoPrediction]


class Metrics:
    """The metrics at ``/metrics``."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.PlatformCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "catsdogs_http_requests",
            "Requests to /predict by HTTP status code",
            ["code"],
            registry=self.registry,
        )
        self.predictions = prometheus.Counter(
            "catsdogs_predictions",
            "Photos by predicted label, or error",
            ["label"],
            registry=self.registry,
        )
        self.duration = prometheus.Histogram(
            "catsdogs_http_request_duration_seconds",
            "Time from the first byte of a request to /predict to its response",
            registry=self.registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.batch_size = prometheus.Histogram(
            "catsdogs_batch_size",
            "Images per batch (dynamic batching)",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.in_flight = prometheus.Gauge(
            "catsdogs_photos_in_flight",
            "Photos received and not yet answered",
            registry=self.registry,
        )


def create_app(predictor: Predictor) -> FastAPI:
    """The service as an ASGI application."""
    metrics, bodies = Metrics(), BodyReader()
    batcher = Batcher(predictor, metrics.batch_size.observe)
    metrics.in_flight.set_function(lambda: batcher.in_flight)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        batcher.decoders.start()
        yield
        batcher.decoders.close()

    app = FastAPI(
        title="Cats and dogs",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
        description=f"Classifies photos as cat or dog. Formats: {ACCEPTED}; up to "
        f"{MAX_BYTES // 10**6} MB per photo.",
    )

    @app.post(
        "/predict",
        response_model=Predictions,
        openapi_extra=_UPLOAD,
        responses={status: {"description": text} for status, text in _ERRORS.items()},
    )
    async def predict(
        request: Request,
        map: bool = Query(
            False, description="also return Grad-CAM: regions that contributed to the prediction"
        ),
    ):
        """Classify one or many photos: the files of a form, or one photo as the request's body.

        A photo that cannot be used has an `error` instead of a prediction. If that is all of them,
        the status is 422, or 413 if all are too large.
        """
        started, status = time.perf_counter(), 500
        try:
            async with bodies.read(request) as parts:
                photos = await photos_in(request, parts)
                try:
                    outputs = await batcher.predict([photo for _, photo in photos], map)
                except TooManyInFlightError:
                    raise overloaded() from None
                except TooManyPixelsError as error:
                    raise HTTPException(413, str(error)) from None
            found = [
                _as_json(predictor, name, output) for (name, _), output in zip(photos, outputs)
            ]
            for one in found:
                metrics.predictions.labels(one.get("label") or "error").inc()
            errors = [one["status"] for one in found if "error" in one]
            status = 200 if len(errors) < len(found) else 413 if set(errors) == {413} else 422
            return JSONResponse({"photos": found}, status)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            metrics.requests.labels(str(status)).inc()
            metrics.duration.observe(time.perf_counter() - started)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict:
        """Whether the service is ready, and which model it runs."""
        facts = {name: predictor.facts.get(name) for name in ("name", "model_sha256", "about")}
        return {
            "status": "ok",
            "size": predictor.size,
            "temperature": predictor.calibration.temperature,
            "unsure_below": predictor.calibration.unsure_below,
            "waiting": batcher.in_flight,
        } | facts

    @app.get("/metrics", response_class=Response)
    async def show_metrics():
        """Metrics for Prometheus."""
        return Response(
            prometheus.generate_latest(metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    @app.get("/docs", include_in_schema=False)
    async def docs():
        # Not FastAPI's own page, which loads its scripts from another site.
        return FileResponse(WEB / "docs.html")

    app.mount("/", StaticFiles(directory=WEB, html=True), "page")
    app.add_middleware(_WithHeaders)
    return app


_FILE = {"type": "string", "format": "binary"}
#: How OpenAPI describes the body of a request, which `predict` reads by itself.
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"photos": {"type": "array", "items": _FILE}},
                }
            },
            "application/octet-stream": {"schema": _FILE},
            "image/*": {"schema": _FILE},
        },
    }
}
_ERRORS = {
    408: "the request arrived too slowly",
    413: "a photo is too large, or there are too many",
    422: "no photo that can be read",
    503: "too many photos in flight; see Retry-After",
}


def _as_json(predictor, name, output):
    if isinstance(output, PhotoError):
        status = 413 if isinstance(output, PhotoTooLarge) else 422
        return {"name": name, "error": str(output), "status": status}
    prediction = predictor.prediction(name, output.probability, output.neither)
    heatmap = output.map
    return {
        "name": name,
        "label": prediction.label,
        "probability": round(prediction.probability, 6),
        "confidence": round(prediction.confidence, 6),
        "neither": None if prediction.neither is None else round(prediction.neither, 6),
        "map": None
        if heatmap is None
        else {
            "width": heatmap.shape[1],
            "height": heatmap.shape[0],
            "values": heatmap.ravel().tolist(),
        },
    }


class _WithHeaders:
    """Middleware that adds `_HEADERS` to every response."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_more(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self.app(scope, receive, send_more if scope["type"] == "http" else send)


def serve(host: str = "127.0.0.1", port: int = 8000, model: str | os.PathLike | None = None) -> int:
    """Serve until SIGTERM or SIGINT, which let requests in flight finish; returns the exit status.

    `model` is an ``.onnx`` file, or a folder or name of a model that has one; by default the
    included model.

    Raises `catsdogs.serving.predictor.ModelError` for a model that cannot be used, and `OSError`
    where the host and port cannot be bound.
    """
    path = find_model(model, (".onnx",))
    predictor = load_predictor(path)
    host = host or "127.0.0.1"  # to Python, "" is all addresses
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(predictor),
            http=LimitedProtocol,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            server_header=False,
            # Beyond this, uvicorn responds with 503. Most systems allow a process 1,024 open files.
            limit_concurrency=900,
        )
    )
    # Set before the line that says it is ready. uvicorn finishes the requests in flight, then
    # raises the signal once more, for these handlers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    print(f"{address} is ready, with the model {where(path)}; stop it with Ctrl-C", flush=True)
    server.run(sockets=[listening])
    return 0
