"""Load test of our HTTP service against Flask with `model.predict`: ``make bench-serve``.

    python -m tools.bench_serve [--publish] [--requests N]

Photos are those of the archive that ``CATSDOGS_BENCH_ORIGINALS`` names, or synthetic ones. Each
service runs in a process of its own, and so does the load generator, on the same machine; the two
services alternate over several rounds. A request is one photo in a form. Afterwards, our service
answers N requests in a row (default: 100,000), to measure whether its memory grows. Prints a table
and writes ``build/serve.json``, or with ``--publish`` ``benchmarks/serve.json``.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent

#: Concurrent clients, each waiting for a response before it sends its next request.
CLIENTS = (1, 8, 64)
#: Seconds of load that are measured per round, after a third as much of warm-up.
SECONDS, ROUNDS = 6, 3


# --- the services -----------------------------------------------------------------------------


def baseline(port: int) -> None:
    """What tutorials show: Flask's own server, Pillow, and one `model.predict` per photo."""
    import io

    import keras
    import numpy as np
    from flask import Flask, jsonify, request
    from PIL import Image

    model = keras.saving.load_model(PROJECT / "models" / "two-conv" / "model.keras")
    size = model.input_shape[1]
    app = Flask(__name__)

    @app.post("/predict")
    def predict():
        image = (
            Image.open(io.BytesIO(request.files["photos"].read()))
            .convert("RGB")
            .resize((size, size))
        )
        probability = float(model.predict(np.asarray(image)[None], verbose=0)[0, 0])
        return jsonify(label="dog" if probability >= 0.5 else "cat", probability=probability)

    @app.get("/health")
    def health():
        return "ok"

    import logging

    # As in production: one log line per request would slow it down.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run(port=port)


@contextlib.contextmanager
def running(service: str) -> Iterator[tuple[subprocess.Popen, int, float]]:
    """``"ours"`` or ``"baseline"``, ready: its process, port, and seconds to its first response.

    It is stopped when the block ends, with an error or without.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (
        ["-m", "catsdogs", "serve", "--port", str(port)]
        if service == "ours"
        else ["-m", "tools.bench_serve", "--baseline", str(port)]
    )
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit(f"the service {service!r} exited with status {process.returncode}")
                time.sleep(0.01)
        yield process, port, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def memory(process: subprocess.Popen) -> int:
    """The resident memory of `process` and of those it has started, in bytes."""
    parent = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True)))


# --- the load ---------------------------------------------------------------------------------


def load(port: int, photos: Path, clients: int, seconds: float, requests: int | None) -> dict:
    """Throughput and latency under load, generated in a process of its own; see `generate`."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.bench_serve",
            "--generate",
            json.dumps([port, str(photos), clients, seconds, requests]),
        ],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    if run.returncode:
        sys.exit(f"generating load failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout)


def generate(port: int, photos: str, clients: int, seconds: float, requests: int | None) -> dict:
    """Load from `clients` connections, for `seconds` or, if given, for `requests` in total.

    Returns ``photos_per_second`` and the latency's median and 99th percentile in seconds, ``p50``
    and ``p99``.
    """
    messages = []
    for path in sorted(Path(photos).glob("*/*.jpg"))[:200]:
        if content := path.read_bytes():
            body = (
                b'--part\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\n'
                b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n--part--\r\n"
            )
            messages.append(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=part\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
    times: list[tuple[float, float]] = []
    warm_up = 0 if requests else seconds / 3
    left = [requests or float("inf")]
    started = time.perf_counter()

    async def client(number):
        reader = writer = None
        while left[0] > 0 and (requests or time.perf_counter() - started < seconds + warm_up):
            left[0] -= 1
            begun = time.perf_counter()
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(messages[(number * 31 + len(times)) % len(messages)])
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(
                int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            if not lines[0].split()[1] == b"200":
                raise SystemExit(f"the service responded with {lines[0].decode()}")
            if b"connection: close" in lines or lines[0].startswith(b"http/1.0"):
                writer.close()
                writer = None
            times.append((begun - started, time.perf_counter() - begun))

    async def everyone():
        await asyncio.gather(*(client(number) for number in range(clients)))

    asyncio.run(everyone())
    counted = sorted(took for begun, took in times if begun >= warm_up)
    if not counted:
        raise SystemExit(f"no response after {warm_up:g} s of warm-up: raise SECONDS")
    span = time.perf_counter() - started - warm_up
    return {
        "photos_per_second": len(counted) / span,
        "p50": counted[len(counted) // 2],
        "p99": counted[int(len(counted) * 0.99)],
    }


# --- the run ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--publish", action="store_true", help="write to benchmarks/ instead of build/"
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=100_000,
        help="requests in a row to measure memory (default: 100000)",
    )
    parser.add_argument("--baseline", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.baseline:
        return baseline(arguments.baseline)
    if arguments.generate:
        return print(json.dumps(generate(*json.loads(arguments.generate))))

    from catsdogs import backend
    from catsdogs.training import records
    from tools import report
    from tools.bench import get_photos

    with tempfile.TemporaryDirectory() as scratch:
        originals = os.environ.get("CATSDOGS_BENCH_ORIGINALS")
        photos = get_photos(originals, Path(scratch, "photos")) / "PetImages"
        rounds: dict[tuple[str, int], list[dict]] = {}
        ready: dict[str, list[float]] = {"ours": [], "baseline": []}
        grown = []
        for round_number in range(ROUNDS):
            for service in ("ours", "baseline"):
                with running(service) as (_, port, seconds):
                    ready[service].append(seconds)
                    for clients in CLIENTS:
                        found = load(port, photos, clients, SECONDS, None)
                        rounds.setdefault((service, clients), []).append(found)
                        print(
                            f"  round {round_number + 1}, {service}, {clients} clients: "
                            f"{found['photos_per_second']:.0f} photos/s, "
                            f"p99 {found['p99'] * 1e3:.0f} ms",
                            flush=True,
                        )
        with running("ours") as (process, port, _):
            load(port, photos, 8, 0, 2_000)
            for _ in range(10):
                grown.append(memory(process))
                load(port, photos, 8, 0, arguments.requests // 10)
            grown.append(memory(process))
    loads = [
        {
            "clients": clients,
            **{
                service: {
                    key: statistics.median(found[key] for found in rounds[service, clients])
                    for key in ("photos_per_second", "p50", "p99")
                }
                for service in ("ours", "baseline")
            },
        }
        for clients in CLIENTS
    ]
    result = {
        "machine": f"{backend.device()} ({records.processor()})",
        "photos": "originals" if originals else "synthetic",
        "loads": loads,
        "ready": {service: statistics.median(found) for service, found in ready.items()},
        "requests": arguments.requests,
        "memory": grown,
    }
    folder = PROJECT / ("benchmarks" if arguments.publish else "build")
    folder.mkdir(exist_ok=True)
    (folder / "serve.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n" + report.serve_table(result))


if __name__ == "__main__":
    main()
