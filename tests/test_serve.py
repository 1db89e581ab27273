"""The service, over HTTP: what it predicts, what it refuses, how it shuts down."""

import asyncio
import base64
import concurrent.futures
import gzip
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import hostile
import numpy as np
import pytest
import small_models
from PIL import Image
from served import form, running

from catsdogs import cli, paths
from catsdogs.data.decode import decode
from catsdogs.data.structure import PhotoError, PhotoTooLarge
from catsdogs.serving import decoders
from catsdogs.serving.predictor import load_model, load_predictor

ONNX = paths.PROJECT / "models" / "two-conv" / "model.onnx"


@pytest.fixture(scope="module")
def service():
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def photos(synthetic_data):
    return [
        path.read_bytes() for path in sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::3]
    ]


@pytest.fixture(scope="module")
def keras_model():
    return load_model()


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def formats(image):
    """One image in every file format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "upright JPEG", encoded(image, "JPEG", quality=95)
    yield "rotated JPEG", encoded(image, "JPEG", exif=exif)
    yield "progressive JPEG", encoded(image, "JPEG", progressive=True)
    yield "CMYK JPEG", encoded(image.convert("CMYK"), "JPEG")
    yield "grey JPEG", encoded(image.convert("L"), "JPEG")
    yield "large JPEG", encoded(image.resize((1800, 1400)), "JPEG")
    yield "PNG", encoded(image, "PNG")
    yield "palette PNG", encoded(image.quantize(64), "PNG")
    yield "RGBA PNG", encoded(image.convert("RGBA"), "PNG")
    yield (
        "16-bit PNG",
        encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
    )
    yield (
        "animated GIF",
        encoded(image, "GIF", save_all=True, append_images=[Image.new("RGB", image.size)]),
    )
    for kind in ("WEBP", "AVIF", "BMP", "TIFF"):
        yield kind, encoded(image, kind)


# --- predictions ------------------------------------------------------------------------------


def test_every_format_gets_the_probability_that_keras_predicts(service, photos, keras_model):
    files = [
        (f"{kind} {index}", content)
        for index, photo in enumerate(photos[:3])
        for kind, content in formats(Image.open(io.BytesIO(photo)).convert("RGB"))
    ]
    expected = keras_model.predict(
        np.stack([decode(content, 128) for _, content in files]), verbose=0
    )[:, 0]
    for (kind, content), probability in zip(files, expected):
        status, response = service.predict(content)
        assert status == 200, (kind, response)
        assert response["photos"][0]["probability"] == pytest.approx(probability, abs=1e-3), kind


def test_many_photos_in_a_form_are_answered_in_order_and_an_unusable_one_does_no_harm(
    service, photos
):
    status, response = service.predict(
        photos[0], b"no photo", *photos[1:4], names=["a.jpg", "b.jpg", "c d.jpg", "é.jpg", "e.jpg"]
    )
    assert status == 200 and [one["name"] for one in response["photos"]] == [
        "a.jpg",
        "b.jpg",
        "c d.jpg",
        "é.jpg",
        "e.jpg",
    ]
    assert response["photos"][1]["status"] == 422 and "no photo" in response["photos"][1]["error"]
    expected = load_predictor(ONNX)
    for one, photo in zip(response["photos"][:1] + response["photos"][2:], photos):
        alone = expected.prediction("", expected.predict(decode(photo, expected.size)[None])[0])
        assert (
            one["probability"] == pytest.approx(alone.probability, abs=1e-4)
            and one["label"] == alone.label
        )
        assert one["confidence"] == pytest.approx(alone.confidence, abs=1e-4) and one["map"] is None


def test_raw_bytes_and_a_form_get_the_same(service, photos):
    from_form = service.predict(photos[0])[1]["photos"][0]
    for kind in ({"Content-Type": "image/jpeg"}, {"Content-Type": "application/octet-stream"}, {}):
        status, _, body = service.ask("POST", "/predict", photos[0], kind)
        assert status == 200 and json.loads(body)["photos"][0] == from_form | {"name": "photo"}


def test_grad_cam_is_returned_on_request(service, photos):
    predictor = load_predictor(ONNX)
    heatmap = service.predict(photos[0], path="/predict?map=1")[1]["photos"][0]["map"]
    expected = predictor.explain(decode(photos[0], predictor.size)[None])[1][0]
    found = np.array(heatmap["values"]).reshape(heatmap["height"], heatmap["width"])
    assert found.max() == 255 and abs(found / 255 - expected).max() < 0.01


def test_concurrent_requests_are_batched(service, photos):
    def numbers():
        text = service.ask("GET", "/metrics")[2].decode()
        return {
            name: float(value)
            for name, value in re.findall(
                r"^(catsdogs_batch_size_(?:count|sum)) (\S+)$", text, re.M
            )
        }

    before = numbers()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        responses = list(
            pool.map(lambda index: service.predict(photos[index % len(photos)]), range(320))
        )
    after = numbers()
    batches = after["catsdogs_batch_size_count"] - before["catsdogs_batch_size_count"]
    together = after["catsdogs_batch_size_sum"] - before["catsdogs_batch_size_sum"]
    assert together == 320 and batches < 300  # some of them were
    for index, (status, response) in enumerate(responses):  # and each got its own
        assert status == 200 and response["photos"][0]["probability"] == pytest.approx(
            responses[index % len(photos)][1]["photos"][0]["probability"], abs=1e-4
        )


def test_health_metrics_and_docs(service):
    status, headers, body = service.ask()
    facts = json.loads(body)
    assert (
        status == 200
        and facts["status"] == "ok"
        and facts["name"] == "two-conv"
        and "parameters" in facts["about"]
    )
    assert (
        headers["content-security-policy"].startswith("default-src 'none'")
        and headers["x-content-type-options"] == "nosniff"
    )
    text = service.ask("GET", "/metrics")[2].decode()
    for name in (
        "catsdogs_http_requests_total",
        "catsdogs_predictions_total",
        "catsdogs_http_request_duration_seconds_bucket",
        "catsdogs_photos_in_flight",
        "process_resident_memory_bytes",
    ):
        assert f"# TYPE {name.removesuffix('_total').removesuffix('_bucket')}" in text, name
    description = json.loads(service.ask("GET", "/openapi.json")[2])
    operation = description["paths"]["/predict"]["post"]
    assert set(operation["responses"]) >= {"200", "408", "413", "422", "503"}
    assert set(operation["requestBody"]["content"]) >= {
        "multipart/form-data",
        "application/octet-stream",
    }
    status, headers, page = service.ask("GET", "/docs")
    assert status == 200 and b"/predict" in page and not re.search(rb"(src|href)=.https?://", page)


def test_the_page_and_nothing_else_is_served(service):
    status, headers, page = service.ask("GET", "/")
    assert (
        status == 200
        and headers["content-type"].startswith("text/html")
        and b'data-classifier="server.js"' in page
    )
    for path in ("/page.js", "/page.css", "/server.js"):
        assert service.ask("GET", path)[0] == 200, path
    for path in ("/../serve.py", "/%2e%2e/serve.py", "/..%2fserve.py", "/nothing", "//etc/passwd"):
        assert service.ask("GET", path)[0] in (404, 400), path


# --- refusals ---------------------------------------------------------------------------------


def bomb(side=30_000):
    """A PNG of a few bytes whose header promises 30,000 by 30,000 pixels."""
    return hostile.png(width=side, height=1).replace(
        struct.pack(">II", side, 1), struct.pack(">II", side, side)
    )


@pytest.mark.parametrize(
    "content, status, said",
    [
        (b"", 422, "empty"),
        (b"hello", 422, "no photo"),
        (b"<html><body>404</body></html>", 422, "expected JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "expected JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "expected JPEG"),
        (bomb(), 413, "million"),
        (b"\xff" * 20_000_001, 413, "20 MB"),
    ],
    ids=["empty", "text", "html", "svg", "postscript", "bomb", "20 MB"],
)
def test_anything_but_a_photo_is_refused_alone_and_in_a_form(service, content, status, said):
    before = service.memory()
    for given in ((content,), (content, content)):
        found, response = service.predict(*given)
        assert found == status and all(
            said in one["error"] and one["status"] == status for one in response["photos"]
        )
    raw, _, body = service.ask("POST", "/predict", content, {"Content-Type": "image/jpeg"})
    assert raw == status and said in body.decode()
    assert (
        service.memory() - before < 150e6
    )  # what was sent, and no more: the bomb alone would be 2,700 MB


@pytest.fixture(scope="module")
def large_png():
    """Twelve megapixels in 50 kB, which take a third of a second to decode."""
    return hostile.png(width=4000, height=3000, channels=4)


def test_no_request_delays_another(service, photos, large_png):
    """64 files that would each take a second and 1.6 GB, and others that do take their time."""
    for sent in ([hostile.TIFF_TILES] * 64, [large_png] * 8):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            hostile_request, delays = pool.submit(service.predict, *sent), []
            while not hostile_request.done() or not delays:
                started = time.monotonic()
                assert service.predict(photos[0])[0] == 200
                delays.append(time.monotonic() - started)
        assert hostile_request.result()[0] == (422 if sent[0] is hostile.TIFF_TILES else 200)
        assert max(delays) < 2, delays
    assert service.memory() < 1e9


def test_a_request_has_a_budget_of_pixels(service):
    photo = hostile.png(width=7071, height=7071)
    status, response = service.predict(*[photo] * 17)
    assert status == 413 and "849 megapixels in one request" in response["detail"]


def test_a_decoder_that_takes_too_long_is_killed_and_replaced(photos, large_png, monkeypatch):
    decoding = decoders.Decoders()

    def decoded(content, pixels=10_000):
        async def run():
            return await decoding.submit([(content, pixels)], 128)[0]

        # In a thread: that of the tests may have a loop already, of the browser of test_page.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(run())).result()

    try:
        assert np.array_equal(decoded(photos[0]), decode(photos[0], 128))
        with monkeypatch.context() as patched:
            patched.setattr(decoders, "SECONDS", 0.1)
            patched.setattr(decoders, "SECONDS_PER_PIXEL", 0)
            with pytest.raises(PhotoError, match="took more than 0.1 seconds of processor time"):
                decoded(large_png, 12_000_000)
        assert np.array_equal(decoded(photos[0]), decode(photos[0], 128))
        with pytest.raises(PhotoError, match="more memory than its pixels"):
            decoded(large_png)  # taken for a photo of 10,000 pixels
        with pytest.raises(PhotoTooLarge, match="takes 680 MB of memory"):
            decoded(b"RIFF\0\0\0\0WEBP", 40_000_000)
        assert np.array_equal(decoded(photos[0]), decode(photos[0], 128))
    finally:
        decoding.close()


def test_a_signal_ends_the_service_within_its_grace_whatever_it_decodes(large_png):
    with running(code="import catsdogs.serving.app as a; a.GRACE = 0.5") as service:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(service.predict, *[large_png] * 60)
            time.sleep(1)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(10) == 0
            assert asked.exception()


def test_a_truncated_photo_is_refused(service, photos):
    status, response = service.predict(photos[0][: len(photos[0]) // 2])
    assert status == 422 and "truncated" in response["photos"][0]["error"]


def test_too_many_photos(service, photos):
    assert service.predict(*[photos[0]] * 64)[0] == 200
    for count in (65, 66, 200):
        status, response = service.predict(*[photos[0]] * count)
        assert (
            status == 413 and "64" in str(response["detail"]) or "Too many" in response["detail"]
        ), count


def test_too_much_in_one_request_is_refused_and_memory_stays_as_it_is(service):
    before = service.memory()
    status, _, body = service.ask(
        "POST",
        "/predict",
        b"x" * 150_000_000,
        {"Content-Type": "multipart/form-data; boundary=part"},
    )
    assert status == 413 and b"64 MB in one request" in body
    assert service.memory() - before < 100e6


@pytest.mark.parametrize(
    "kind, body, status",
    [
        ("multipart/form-data", b"no boundary", 422),
        ("multipart/form-data; boundary=part", b"garbage", 422),
        (
            "multipart/form-data; boundary=part",
            b'--part\r\nContent-Disposition: form-data; name="photos"\r\n\r\n'
            b"not a file\r\n--part--\r\n",
            422,
        ),
        ("multipart/form-data; boundary=part", b"", 422),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--", 422),
    ],
)
def test_a_malformed_form_is_reported(service, kind, body, status):
    found, headers, response = service.ask("POST", "/predict", body, {"Content-Type": kind})
    assert found == status and json.loads(response)["detail"]


@pytest.mark.parametrize(
    "kind, change, said",
    [
        ("application/x-www-form-urlencoded", lambda b: re.sub(rb"[\0\r\n]", b"", b), "curl -d"),
        ("application/x-www-form-urlencoded", lambda b: b"photos=@cat.jpg", "--data-binary"),
        ("application/json", lambda b: b'{"photo": "/9j/4AAQSkZJRg"}', "JSON"),
        ("text/plain", base64.b64encode, "base64"),
        ("text/plain", lambda b: b"data:image/jpeg;base64," + base64.b64encode(b), "base64"),
        ("multipart/form-data", lambda b: b, "no boundary"),
        ("multipart/form-data; boundary=part", lambda b: b, "does not begin with its boundary"),
        ("multipart/form-data; boundary=part", lambda b: b"", "empty"),
        ("multipart/form-data; boundary=part", lambda b: form(b)[1][:-9], "its end is missing"),
        ("image/jpeg", lambda b: b"", "empty"),
        ("image/jpeg", gzip.compress, "compressed"),
    ],
)
def test_a_clients_mistake_is_named(service, photos, kind, change, said):
    headers = {"Content-Type": kind}
    if change is gzip.compress:
        headers["Content-Encoding"] = "gzip"
    status, _, answer = service.ask("POST", "/predict", change(photos[0]), headers)
    assert status == 422 and said in answer.decode()


def test_a_photo_is_accepted_whatever_its_type_is_said_to_be(service, photos):
    for kind in ("application/x-www-form-urlencoded", "application/json", "text/plain"):
        assert service.ask("POST", "/predict", photos[0], {"Content-Type": kind})[0] == 200, kind


def test_a_form_needs_no_disk(photos):
    """Files of more than 1 MB too, which Starlette would write to a temporary folder."""
    large = photos[0] + bytes(3_000_000)
    code = "import os, tempfile; tempfile.tempdir = '/nowhere'"
    with running(code=code) as service:
        assert service.predict(large, large)[0] == 200


def test_names_are_text_and_nothing_else(service, photos):
    names = ["../../etc/passwd", "<script>alert(1)<!--.jpg", "a\x1b[31m.jpg", "x" * 3000]
    status, response = service.predict(*photos[:4], names=names)
    found = [one["name"] for one in response["photos"]]
    assert (
        status == 200
        and found[:3] == ["../../etc/passwd", "<script>alert(1)<!--.jpg", "a\\x1b[31m.jpg"]
        and len(found[3]) == 200
    )
    _, headers, _ = service.ask("POST", "/predict", photos[0])
    assert headers["content-type"] == "application/json"


def exchange(service, *sent, pause=0.3, seconds=10):
    """The response on one connection to parts that are sent one after the other."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        for part in sent:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        return received_on(connection)


def test_a_body_is_nothing_but_a_body(service, photos):
    """What looks like a head in a body is not changed, and not answered."""
    smuggled = b"\r\nUpgrade: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    body = photos[0] + smuggled  # what follows a JPEG's end is ignored
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    head = head % len(body)
    for cut in (1, 2, 3, 10):
        found = exchange(service, head[:-cut], head[-cut:] + body)
        assert found.count(b"HTTP/1.1 ") == 1 and found.startswith(b"HTTP/1.1 200"), cut
    _, response = service.predict(b"x" + smuggled, names=["Upgrade: x"])
    assert "starts with 'x\\r\\nUpgrade: '" in response["photos"][0]["error"]


def test_an_offered_upgrade_is_ignored_wherever_the_head_is_cut(service, photos):
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(photos[0])
    )
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for cut in (0, 30, head.index(b"Upgrade: h2c") + 4, len(head) - 2, len(head)):
        found = exchange(service, head[:cut], head[cut:] + photos[0] + head + photos[0] + last)
        assert found.count(b"HTTP/1.1 200") == 3 and found.count(b'"probability"') == 2, cut
    for request, status in (
        (b"GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", b"200"),
        (b"CONNECT x:80 HTTP/1.1\r\n", b"405"),
    ):
        found = exchange(service, request + b"Host: x\r\n\r\n" + last)
        assert found.startswith(b"HTTP/1.1 " + status), found
    assert b'"status":"ok"' in exchange(service, last)


def test_an_offered_upgrade_to_http_2_is_ignored(service, photos):
    """As Java's client sends it with every request."""
    found = exchange(
        service,
        b"POST /predict HTTP/1.1\r\nHost: x\r\n"
        b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: %d\r\n\r\n"
        % len(photos[0])
        + photos[0],
    )
    assert found.startswith(b"HTTP/1.1 200") and b"probability" in found


def test_a_head_without_end_is_refused_and_memory_stays_as_it_is(service):
    before = service.memory()
    lines = b"".join(b"X-%d: %s\r\n" % (index, b"a" * 1000) for index in range(20_000))
    for head in (lines, b"X-Long: " + b"a" * 20_000_000):
        assert exchange(service, b"GET /health HTTP/1.1\r\n" + head, pause=0)[:12] in (
            b"HTTP/1.1 431",
            b"",
        )
    assert service.memory() - before < 30e6 and service.ask()[0] == 200


def test_a_truncated_form_is_reported(service, photos):
    kind, body = form(photos[0], photos[1])
    cut = body[: len(body) - len(photos[1]) // 2]
    status, _, response = service.ask("POST", "/predict", cut, {"Content-Type": kind})
    assert status == 422 and b"its end is missing" in response


def test_methods_and_parameters(service):
    assert service.ask("HEAD", "/health")[0] == 200
    assert service.ask("GET", "/predict")[0] in (404, 405)
    assert service.ask("PUT", "/predict", b"x")[0] in (404, 405)
    assert service.ask("POST", "/predict?map=perhaps", b"x")[0] == 422


# --- slow, busy, shutdown ---------------------------------------------------------------------


def slow(seconds):
    """Python that makes decoding a photo take `seconds` longer."""
    return (
        "import time; from catsdogs.serving.decoders import _Worker as w; d = w.decode; "
        f"w.decode = lambda *a: (time.sleep({seconds}), d(*a))[1]"
    )


def received_on(connection):
    """Everything received on `connection` until the other side closes it."""
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except OSError:
        pass
    return received


def test_a_client_that_trickles_bytes_is_disconnected(photos):
    with running(code="import catsdogs.serving.http as h; h.SECONDS = 1.5") as service:
        heads = {
            "in its head": b"POST /predict HTTP/1.1\r\nX-Slow: ",
            "in its body": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
        }
        for where, head in heads.items():
            with socket.create_connection(("127.0.0.1", service.port), timeout=10) as slow:
                slow.sendall(head)
                started = time.monotonic()

                def trickle():
                    try:
                        for _ in range(20):
                            time.sleep(0.25)
                            slow.sendall(b"x")
                    except OSError:
                        pass

                threading.Thread(target=trickle, daemon=True).start()
                received = received_on(slow)
                assert received.startswith(b"HTTP/1.1 408"), (where, received)
                assert 1 < time.monotonic() - started < 5, where
        assert service.predict(photos[0])[0] == 200


def test_a_full_queue_says_when_to_retry(photos):
    code = f"import catsdogs.serving.batching as b; b.MAX_IN_FLIGHT = 4; {slow(0.4)}"
    with running(code=code) as service:
        kind, body = form(photos[0])

        def ask(_):
            return service.ask("POST", "/predict", body, {"Content-Type": kind})

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            found = list(pool.map(ask, range(12)))
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 4
        assert all(headers["retry-after"] == "1" for status, headers, _ in found if status == 503)
        assert ask(0)[0] == 200
        assert json.loads(service.ask()[2])["waiting"] == 0


def test_clients_that_disconnect_leave_nothing_behind(service, photos):
    kind, body = form(*photos[:8])
    head = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for cut in (len(head) + 50, len(head) + len(body) // 2, len(head) + len(body)):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall((head + body)[:cut])
    deadline = time.monotonic() + 20
    while json.loads(service.ask()[2])["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert service.predict(photos[0])[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish_and_exits_with_0(photos, number):
    with running(code=slow(1)) as service:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(service.predict, photos[0])
            time.sleep(0.4)
            service.process.send_signal(number)
            status, response = asked.result()
        assert status == 200 and response["photos"][0]["label"]
        assert service.process.wait(10) == 0
        assert "Traceback" not in service.process.stderr.read()


def test_the_rest_of_a_refused_request_may_not_take_forever():
    with running(code="import catsdogs.serving.http as h; h.SECONDS = 1") as service:
        started = time.monotonic()
        found = exchange(
            service, b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"x"
        )
        assert found.startswith(b"HTTP/1.1 405") and time.monotonic() - started < 6


def test_a_signal_as_soon_as_it_is_ready_exits_with_0():
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "catsdogs", "serve", "--port", "0"],
            cwd=paths.PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "is ready" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()


def test_an_empty_host_is_localhost():
    process = subprocess.Popen(
        [sys.executable, "-m", "catsdogs", "serve", "--port", "0", "--host", ""],
        cwd=paths.PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


# --- starting ---------------------------------------------------------------------------------


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "catsdogs", "serve", *map(str, arguments)],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_needs_no_tensorflow_and_is_ready_soon():
    barred = (
        "sys.modules.update({name: None for name in "
        "('tensorflow', 'keras', 'pandas', 'scipy', 'sklearn')})"
    )
    started = time.monotonic()
    with running(code=barred) as service:
        assert time.monotonic() - started < 5  # on a busy machine; `make bench-serve` measures
        assert service.ask()[0] == 200


def test_importing_the_service_loads_no_heavy_package():
    code = (
        "import sys, catsdogs.serving.app; "
        "print({'tensorflow', 'keras', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'torch'} "
        "& set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.PROJECT, capture_output=True, text=True
    )
    assert run.stdout == "set()\n", run.stdout + run.stderr


def test_a_failure_to_start_is_reported_in_one_line(tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(ONNX.read_bytes()[:1000])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, said in (
            (["--model", tmp_path / "none.onnx"], "no model"),
            (["--model", tmp_path / "damaged.onnx"], "cannot be loaded"),
            (["--model", "README.md"], "only those are loaded"),
            (["--port", taken.getsockname()[1]], "Cannot bind to"),
            (["--port", 99999], "Cannot bind to"),
            (["--host", "no.such.host.invalid"], "Cannot bind to"),
        ):
            run = start(*arguments)
            assert (
                run.returncode == 2 and said in run.stderr and len(run.stderr.splitlines()) == 1
            ), (arguments, run.stderr)


def test_it_binds_to_localhost_by_default(service):
    assert service.process.poll() is None
    with pytest.raises(OSError):
        socket.create_connection((_other_address(), service.port), timeout=2)


def _other_address():
    """An address of this machine other than localhost; if it has none, one nobody listens at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            found = probe.getsockname()[0]
        except OSError:
            found = "127.0.0.2"
    return found if found != "127.0.0.1" else "127.0.0.2"


def test_the_client_in_the_readme_works(service, photos, tmp_path):
    text = (paths.PROJECT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json\n.*?)```", text, re.DOTALL)
    code = code.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    code = code.replace('predict("photo.jpg")', 'print(json.dumps(predict("photo.jpg")))')
    (tmp_path / "client.py").write_text(code, encoding="utf-8")
    (tmp_path / "photo.jpg").write_bytes(photos[0])
    command = [sys.executable, "-I", "client.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    found = json.loads(run.stdout)
    assert found["label"] == service.predict(photos[0])[1]["photos"][0]["label"]
    assert set(found) >= {"label", "probability", "confidence"}


# --- several models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """A service with the included model and one that has a score for "neither"."""
    folder = tmp_path_factory.mktemp("models") / "bright"
    small_models.with_neither(folder)
    with running(
        "--model", "two-conv", "--model", folder, "--cors", "https://a.example"
    ) as started:
        yield started, folder


def test_one_service_runs_several_models(two_models, photos):
    service, folder = two_models
    status, _, body = service.ask("GET", "/models")
    listed = {one["name"]: one for one in json.loads(body)["models"]}
    assert status == 200 and list(listed) == ["two-conv", "bright"]
    assert [one["size"] for one in listed.values()] == [128, 48]
    assert [one["neither"] for one in listed.values()] == [False, True]
    for name in ("two-conv", "bright"):
        predictor = load_predictor(folder / "model.onnx" if name == "bright" else ONNX)
        status, found = service.predict(photos[0], path=f"/predict?model={name}&map=true")
        (one,) = found["photos"]
        image = decode(photos[0], predictor.size)[None]
        expected = predictor.prediction("", *predictor.run(image).of(0))
        assert status == 200 and found["model"] == name and one["label"] == expected.label
        assert one["probability"] == pytest.approx(expected.probability, abs=1e-4)
        assert one["map"]["width"] == predictor.explain(image)[1].shape[2]
        if name == "bright":
            assert one["neither"] == pytest.approx(expected.neither, abs=1e-4)
        else:
            assert one["neither"] is None
    assert service.predict(photos[0])[1]["model"] == "two-conv"  # the first
    white = encoded(Image.new("RGB", (9, 9), "white"), "PNG")
    assert (
        service.predict(white, path="/predict?model=bright")[1]["photos"][0]["label"] == "neither"
    )
    status, refused = service.predict(photos[0], path="/predict?model=three")
    assert status == 404 and refused["detail"].endswith("expected two-conv, bright")
    # Even where the request is large, and its response would come before its end.
    large = [bytes(15_000_000)] * 3
    status, refused = service.predict(*large, path="/predict?model=three")
    assert status == 404 and "'three'" in refused["detail"]


def test_requests_to_two_models_are_not_mixed_up(two_models, photos):
    service, _ = two_models
    models = ["two-conv", "bright", "bright", "two-conv"] * 20

    def ask(index):
        path = f"/predict?model={models[index]}"
        return service.predict(photos[index % 5], path=path)[1]

    alone = {
        (model, i): ask_one(service, photos[i], model) for model in set(models) for i in range(5)
    }
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for index, found in enumerate(pool.map(ask, range(len(models)))):
            assert found["model"] == models[index]
            expected = alone[models[index], index % 5]
            assert found["photos"][0]["probability"] == pytest.approx(expected, abs=1e-4)


def ask_one(service, photo, model):
    return service.predict(photo, path=f"/predict?model={model}")[1]["photos"][0]["probability"]


def test_responses_are_as_openapi_describes_them(two_models, photos):
    service, _ = two_models
    described = json.loads(service.ask("GET", "/openapi.json")[2])
    schemas = described["components"]["schemas"]

    def fits(value, schema):
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            return any(fits(value, one) for one in schema["anyOf"])
        kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
        kinds |= {"null": type(None), "array": list, "object": dict}
        if not isinstance(value, kinds[schema["type"]]):
            return False
        if schema["type"] == "array":
            return all(fits(one, schema["items"]) for one in value)
        if schema["type"] == "object":
            properties = schema["properties"]
            return set(schema.get("required", ())) <= set(value) <= set(properties) and all(
                fits(one, properties[name]) for name, one in value.items()
            )
        return True

    for name in ("two-conv", "bright"):
        found = service.predict(photos[0], b"no photo", path=f"/predict?model={name}&map=1")[1]
        assert fits(found, {"$ref": "/Predictions"}), found
    assert fits(json.loads(service.ask("GET", "/models")[2]), {"$ref": "/Models"})
    assert not fits({"model": "x"}, {"$ref": "/Predictions"})


def test_pages_of_other_origins_need_permission(service, two_models, photos):
    allowed, _ = two_models
    header = "access-control-allow-origin"
    kind, body = form(photos[0])
    for origin, given in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        headers = {"Origin": origin, "Content-Type": kind}
        status, found, _ = allowed.ask("POST", "/predict", body, headers)
        assert status == 200 and found.get(header) == given
        asked = headers | {"Access-Control-Request-Method": "POST"}
        status, found, _ = allowed.ask("OPTIONS", "/predict", None, asked)
        assert found.get(header) == given and (status == 200) == (given is not None)
        assert header not in service.ask("POST", "/predict", body, headers)[1]


@pytest.mark.parametrize("origin", ["example.org", "https://a.example/page", "https://", "null"])
def test_what_is_no_origin_is_refused(origin, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--cors", origin])
    assert ended.value.code == 2 and "is no origin: expected" in capsys.readouterr().err


def test_two_models_of_one_name_are_refused(two_models, tmp_path, capsys):
    _, folder = two_models
    again = tmp_path / "bright"
    again.mkdir()
    (again / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    given = ["serve", "--port", "0", "--model", str(folder), "--model", str(again)]
    assert cli.main(given) == 2
    assert "both called 'bright': expected names that differ" in capsys.readouterr().err
