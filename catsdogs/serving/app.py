"""The HTTP service: a FastAPI app that classifies photos with ONNX Runtime, and its web page."""

import contextlib
import logging
import mimetypes
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from catsdogs import paths
from catsdogs.data.decode import ACCEPTED, MAX_BYTES
from catsdogs.data.structure import PhotoError, PhotoTooLarge
from catsdogs.serving.batching import Batcher, TooManyInFlightError, TooManyPixelsError
from catsdogs.serving.http import BodyReader, LimitedProtocol, overloaded, photos_in
from catsdogs.serving.models import ModelError, find_model, where
from catsdogs.serving.predictor import Predictor, load_predictor
from catsdogs.text import printable

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
    """The predictions of a model, in the order of the photos."""

    model: str
    photos: list[PhotoPrediction]


class Model(BaseModel):
    """A model that the service runs.

    `size`: pixels per side of the image that it is given. `temperature` and `unsure_below` are its
    calibration. `map`: whether it has Grad-CAM; `neither`: whether it has a score for "neither".
    """

    name: str
    about: str | None
    model_sha256: str | None
    size: int
    temperature: float
    unsure_below: float
    map: bool
    neither: bool


class Models(BaseModel):
    """The models; the first is the default of /predict."""

    models: list[Model]


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
            "Photos by model and predicted label, or error",
            ["model", "label"],
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


def create_app(predictors: dict[str, Predictor], origins: Sequence[str] = ()) -> FastAPI:
    """The service as an ASGI application.

    `predictors` are the models by name, the first of them the default. Pages of `origins`, such as
    ``https://example.org``, may use it from a browser.
    """
    default, metrics, bodies = next(iter(predictors)), Metrics(), BodyReader()
    batcher = Batcher(predictors, metrics.batch_size.observe)
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
        model: str = Query(default, description="the name of one of /models"),
    ):
        """Classify one or many photos: the files of a form, or one photo as the request's body.

        A photo that cannot be used has an `error` instead of a prediction. If that is all of them,
        the status is 422, or 413 if all are too large.
        """
        started, status = time.perf_counter(), 500
        try:
            if model not in predictors:
                expected = ", ".join(predictors)
                raise HTTPException(404, f"no model {model[:100]!r} here: expected {expected}")
            async with bodies.read(request) as parts:
                photos = await photos_in(request, parts)
                try:
                    outputs = await batcher.predict([photo for _, photo in photos], model, map)
                except TooManyInFlightError:
                    raise overloaded() from None
                except TooManyPixelsError as error:
                    raise HTTPException(413, str(error)) from None
            found = [
                _as_json(predictors[model], name, output)
                for (name, _), output in zip(photos, outputs)
            ]
            for one in found:
                metrics.predictions.labels(model, one.get("label") or "error").inc()
            errors = [one["status"] for one in found if "error" in one]
            status = 200 if len(errors) < len(found) else 413 if set(errors) == {413} else 422
            return JSONResponse({"model": model, "photos": found}, status)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            metrics.requests.labels(str(status)).inc()
            metrics.duration.observe(time.perf_counter() - started)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict:
        """Whether the service is ready, and which model it runs by default."""
        return {"status": "ok", "waiting": batcher.in_flight} | _about(default, predictors[default])

    @app.get("/models", response_model=Models)
    async def models() -> dict:
        """The models that the service runs."""
        return {"models": [_about(name, one) for name, one in predictors.items()]}

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
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
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
    404: "no model of this name",
    408: "the request arrived too slowly",
    413: "a photo is too large, or there are too many",
    422: "no photo that can be read",
    503: "too many photos in flight; see Retry-After",
}


def _about(name, predictor):
    return {
        "name": name,
        "about": predictor.facts.get("about"),
        "model_sha256": predictor.facts.get("model_sha256"),
        "size": predictor.size,
        "temperature": predictor.calibration.temperature,
        "unsure_below": predictor.calibration.unsure_below,
        "map": predictor.can_explain,
        "neither": predictor.has_neither,
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


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    models: Sequence[str | os.PathLike] = (),
    origins: Sequence[str] = (),
) -> int:
    """Serve until SIGTERM or SIGINT, which let requests in flight finish; returns the exit status.

    `models` are ``.onnx`` files, or folders or names of models that have one; by default the
    included model. The first is the one that is used unless a request names another. Pages of
    `origins` may use the service from a browser.

    Raises `catsdogs.serving.predictor.ModelError` for a model that cannot be used, and `OSError`
    where the host and port cannot be bound.
    """
    found = [find_model(model, (".onnx",)) for model in models or (None,)]
    predictors = {}
    for path in found:
        predictor = load_predictor(path)
        name = predictor.facts["name"]
        if name in predictors:
            raise ModelError(
                f"{printable(paths.shown(path))} and another model are both called {name!r}: "
                "expected names that differ, since requests choose by them"
            )
        predictors[name] = predictor
    host = host or "127.0.0.1"  # to Python, "" is all addresses
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(predictors, origins),
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
    ready = f"the model {where(found[0])}" if len(found) == 1 else f"{len(found)} models"
    if len(found) > 1:
        ready += f" ({'; '.join(where(path) for path in found)})"
    print(f"{address} is ready, with {ready}; stop it with Ctrl-C", flush=True)
    server.run(sockets=[listening])
    return 0
