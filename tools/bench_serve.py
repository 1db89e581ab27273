"""Our service beside the usual one, Flask with `model.predict`, under the same load: ``make bench-serve``.

    python benchmarks/bench_serve.py [--publish] [--requests N]

Photos are those of the archive that ``CATSDOGS_BENCH_ORIGINALS`` names, or synthetic ones. Each service runs in a process of its
own, and so does what asks them, on the same machine, one after the other; rounds alternate. A request is one photo, as a
form's file. Then our service answers N requests in a row (100,000), to see whether its memory grows. Prints a table and
writes ``build/serve.json``, or with ``--publish`` ``benchmarks/serve.json``.
"""

import argparse
import asyncio
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
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

#: Clients at a time, each waiting for its answer before it asks again.
CLIENTS = (1, 8, 64)
#: Seconds of asking that count, a round; as much as a third of it before does not.
SECONDS, ROUNDS = 6, 3


# --- the services ----------------------------------------------------------------------------------------------------


def peer(port: int) -> None:
    """What tutorials show: Flask's own server, threaded as it comes, Pillow, and `model.predict` for every photo."""
    import io

    import keras
    import numpy as np
    from flask import Flask, jsonify, request
    from PIL import Image

    model = keras.saving.load_model(PROJECT / "models" / "cats_vs_dogs.keras")
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

    logging.getLogger("werkzeug").setLevel(
        logging.ERROR
    )  # as it is in use: a line a request would make it slower
    app.run(port=port)


def start(way: str) -> tuple[subprocess.Popen, int, float]:
    """The service `way`, ready: its process, port, and the seconds it took until it answered."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (
        ["-m", "catsdogs", "serve", "--port", str(port)]
        if way == "ours"
        else ["-m", "tools.bench_serve", "--peer", str(port)]
    )
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()
            return process, port, time.perf_counter() - started
        except OSError:
            if process.poll() is not None:
                sys.exit(f"the service {way!r} ended with status {process.returncode}")
            time.sleep(0.01)


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def memory(process: subprocess.Popen) -> int:
    """What `process` has in memory, in bytes; 0 outside Linux."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


# --- the load --------------------------------------------------------------------------------------------------------


def load(port: int, photos: Path, clients: int, seconds: float, requests: int | None) -> dict:
    """Ask from a process of its own: photos a second, and the seconds that 50% and 99% of the answers took at most."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.bench_serve",
            "--ask",
            json.dumps([port, str(photos), clients, seconds, requests]),
        ],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    if run.returncode:
        sys.exit(f"asking failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout)


def ask(port: int, photos: str, clients: int, seconds: float, requests: int | None) -> dict:
    """`clients` connections that ask until `seconds` have gone by, or for `requests` answers in all."""
    asked = []
    for path in sorted(Path(photos).glob("*/*.jpg"))[:200]:
        if content := path.read_bytes():
            body = (
                b'--part\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
                + content
                + b"\r\n--part--\r\n"
            )
            asked.append(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=part\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
    times, warm_up = [], 0 if requests else seconds / 3
    left = [requests or float("inf")]
    started = time.perf_counter()

    async def client(number):
        reader = writer = None
        while left[0] > 0 and (requests or time.perf_counter() - started < seconds + warm_up):
            left[0] -= 1
            begun = time.perf_counter()
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(asked[(number * 31 + len(times)) % len(asked)])
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(
                int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            if not lines[0].split()[1] == b"200":
                raise SystemExit(f"answered {lines[0].decode()}")
            if b"connection: close" in lines or lines[0].startswith(b"http/1.0"):
                writer.close()
                writer = None
            times.append((begun - started, time.perf_counter() - begun))

    async def everyone():
        await asyncio.gather(*(client(number) for number in range(clients)))

    asyncio.run(everyone())
    counted = sorted(took for begun, took in times if begun >= warm_up)
    span = time.perf_counter() - started - warm_up
    return {
        "photos_per_second": len(counted) / span,
        "p50": counted[len(counted) // 2],
        "p99": counted[int(len(counted) * 0.99)],
    }


# --- the run ---------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--publish", action="store_true", help="keep the result in benchmarks/")
    parser.add_argument(
        "--requests", type=int, default=100_000, help="how many in a row, to watch memory"
    )
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return peer(arguments.peer)
    if arguments.ask:
        return print(json.dumps(ask(*json.loads(arguments.ask))))

    from catsdogs import backend
    from catsdogs.training import records
    from tools import report
    from tools.bench import get_photos

    with tempfile.TemporaryDirectory() as scratch:
        originals = os.environ.get("CATSDOGS_BENCH_ORIGINALS")
        photos = get_photos(originals, Path(scratch, "photos")) / "PetImages"
        rounds, ready, grown = {}, {"ours": [], "baseline": []}, []
        for round_number in range(ROUNDS):
            for way in ("ours", "baseline"):
                process, port, seconds = start(way)
                ready[way].append(seconds)
                for clients in CLIENTS:
                    found = load(port, photos, clients, SECONDS, None)
                    rounds.setdefault((way, clients), []).append(found)
                    print(
                        f"  round {round_number + 1}, {way}, {clients} clients: {found['photos_per_second']:.0f} photos/s, "
                        f"p99 {found['p99'] * 1e3:.0f} ms",
                        flush=True,
                    )
                stop(process)
        process, port, _ = start("ours")
        load(port, photos, 8, 0, 2_000)
        for _ in range(10):
            grown.append(memory(process))
            load(port, photos, 8, 0, arguments.requests // 10)
        grown.append(memory(process))
        stop(process)
    loads = [
        {
            "clients": clients,
            **{
                way: {
                    key: statistics.median(found[key] for found in rounds[way, clients])
                    for key in ("photos_per_second", "p50", "p99")
                }
                for way in ("ours", "baseline")
            },
        }
        for clients in CLIENTS
    ]
    result = {
        "machine": f"{backend.device()} ({records.processor()})",
        "photos": "originals" if originals else "synthetic",
        "loads": loads,
        "ready": {way: statistics.median(found) for way, found in ready.items()},
        "requests": arguments.requests,
        "memory": grown,
    }
    folder = PROJECT / ("benchmarks" if arguments.publish else "build")
    folder.mkdir(exist_ok=True)
    (folder / "serve.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n" + report.serve_table(result))


if __name__ == "__main__":
    main()
