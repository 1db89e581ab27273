"""The web page in a real browser, in both deployments: the HTTP service and the static site."""

import base64
import contextlib
import csv
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import small_models
from PIL import Image

from catsdogs import paths
from catsdogs.data.decode import PhotoError, decode, resize
from catsdogs.serving import static_site, web_app
from catsdogs.serving.predictor import load_predictor

WEB = paths.PROJECT / "catsdogs" / "serving" / "web"
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
#: How far a probability may be from the model's own.
CLOSE = 0.001


# Resizing needs no browser


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_photos_are_resized_as_for_training_to_the_bit(tmp_path):
    random = np.random.default_rng(0)
    sizes = [
        (1, 1, 128),
        (1, 700, 128),
        (700, 1, 128),
        (128, 128, 128),
        (128, 300, 128),
        (300, 128, 128),
        (64, 64, 128),
        (127, 129, 128),
        (2048, 1365, 128),
        (5, 7, 3),
    ]
    sizes += [
        (*random.integers(1, 600, 2).tolist(), int(random.choice([16, 100, 128])))
        for _ in range(60)
    ]
    photos = [random.integers(0, 256, (height, width, 3), np.uint8) for width, height, _ in sizes]
    photos[1::3] = [
        (photo > 127).astype(np.uint8) * 255 for photo in photos[1::3]
    ]  # the extremes of the range
    (tmp_path / "photos").write_bytes(b"".join(photo.tobytes() for photo in photos))
    (tmp_path / "run.mjs").write_text(f"""
        import {{ readFileSync, writeFileSync }} from 'fs';
        import {{ resizeBilinear }} from {json.dumps((WEB / "resize.js").as_uri())};
        let from = 0;
        const photos = readFileSync('photos');
        const resized = {json.dumps(sizes)}.map(([width, height, size]) =>
            resizeBilinear(photos.subarray(from, from += width * height * 3), width, height, size));
        writeFileSync('resized', Buffer.concat(resized));
    """)
    subprocess.run(["node", "run.mjs"], cwd=tmp_path, check=True)
    resized = np.fromfile(tmp_path / "resized", np.uint8)
    for (width, height, size), photo in zip(sizes, photos):
        found, resized = resized[: size * size * 3], resized[size * size * 3 :]
        expected = resize(photo, size)
        assert np.array_equal(found.reshape(size, size, 3), expected), f"{width}×{height} to {size}"


# What follows does


@pytest.fixture(scope="session")
def chromium():
    if not importlib.util.find_spec("playwright"):
        pytest.skip("needs playwright: pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(
            f"needs Chromium at {CHROMIUM}, or where the environment variable CHROMIUM says"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def started(command, port, **options):
    """A process that serves on `port`, once it does."""
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], stdout=log, stderr=log, **options
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return process
        except urllib.error.HTTPError:
            return process
        except OSError:
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read().decode()) from None
            time.sleep(0.1)
    process.kill()
    raise AssertionError("it did not start within a minute")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with the ONNX model, and the static site unless npm could not fetch its parts."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    out = tmp_path_factory.mktemp("exported")
    command = [
        sys.executable,
        "-m",
        "catsdogs",
        "export",
        "--output",
        out,
        "--web",
        out / "site" / "some" / "where",
    ]
    run = subprocess.run(
        command,
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        env=os.environ | {"CATSDOGS_DATA": str(out / "none")},
    )
    assert (out / "model.onnx").exists(), run.stderr
    (out / "said").write_text(run.stderr)
    return out


@contextlib.contextmanager
def serving(*models):
    """The HTTP service with `models`; its address."""
    pytest.importorskip("fastapi", reason="needs fastapi")
    port, given = free_port(), [part for model in models for part in ("--model", model)]
    command = ["catsdogs", "serve", "--port", port, *given]
    process = started(command, port, cwd=paths.PROJECT)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def hosting(folder):
    """A plain web server for `folder`; its address."""
    port = free_port()
    process = started(["http.server", port, "--bind", "127.0.0.1"], port, cwd=folder)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def server(exported):
    with serving(exported / "model.onnx") as address:
        yield address


@pytest.fixture(scope="session")
def static(exported):
    # Not at the root of the web server: the page must work at any path.
    if not (exported / "site" / "some" / "where" / "index.html").exists():
        pytest.skip((exported / "said").read_text().strip().splitlines()[-1])
    with hosting(exported / "site") as address:
        yield f"{address}some/where/"


@pytest.fixture(params=["server", "static"])
def deployment(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def open_page(chromium):
    """A function that opens an address; the test fails on errors and on requests to other sites."""
    contexts, requests, complaints = [], [], []

    def is_complaint(message):
        # A status other than 200 from /predict is for the page to report, and it does.
        return message.type == "error" and "/predict" not in message.location["url"]

    def open_page(address, browser=chromium, script="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.add_init_script(script)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append((address, request)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if is_complaint(message) else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)
        return page

    open_page.requests, open_page.complaints = requests, complaints
    yield open_page
    for context in contexts:
        context.close()
    for address, request in requests:
        assert request.url.startswith((address, "blob:", "data:")), request.url
    assert not complaints


@pytest.fixture(scope="session")
def photo(synthetic_data):
    """The synthetic photo with the least confident prediction: there, a small change shows."""
    files = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))
    unsure = np.argmin(np.abs(model_predicts([file.read_bytes() for file in files]) - 0.5))
    return Image.open(files[unsure]).convert("RGB")


def model_predicts(photos):
    import keras

    if not hasattr(model_predicts, "model"):
        model_predicts.model = keras.saving.load_model(
            paths.PROJECT / "models" / "two-conv" / "model.keras", compile=False
        )
    size = model_predicts.model.input_shape[1]
    return model_predicts.model.predict(
        np.stack([decode(photo, size) for photo in photos]), verbose=0
    )[:, 0]


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_file(name, content):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def choose(page, *files):
    page.set_input_files("#choose", list(files))
    return finished(page, len(files))


def finished(page, count):
    """The newest `count` cards, once all are classified."""
    page.locator("[data-state=queued], [data-state=classifying]").first.wait_for(
        state="detached", timeout=120_000
    )
    cards = page.locator(".card")
    assert cards.count() >= count
    return [cards.nth(index) for index in range(count)]


def probability(card):
    assert card.get_attribute("data-state") == "done", card.inner_text()
    return float(card.get_attribute("data-probability"))


def every_format(photo):
    exif = photo.getexif()
    exif[0x0112] = 6
    large = photo.resize((1400, 1050), Image.Resampling.BICUBIC)
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    return {
        "jpeg": saved(photo, "JPEG", quality=90),
        "jpeg, progressive, 4:4:4": saved(
            photo, "JPEG", quality=90, progressive=True, subsampling=0
        ),
        "jpeg, large": saved(large, "JPEG", quality=85),
        "jpeg, tall": saved(photo.resize((200, 900)), "JPEG", quality=90),
        "jpeg, rotated by EXIF": saved(photo, "JPEG", quality=90, exif=exif),
        "jpeg, grey": saved(photo.convert("L"), "JPEG"),
        "jpeg, CMYK": saved(photo.convert("CMYK"), "JPEG"),
        "png": saved(photo, "PNG"),
        "png, palette": saved(photo.quantize(64), "PNG"),
        "png, grey": saved(photo.convert("L"), "PNG"),
        "png, transparent": saved(clear, "PNG"),
        "webp": saved(photo, "WEBP", quality=85),
        "webp, lossless": saved(photo, "WEBP", lossless=True),
        "webp, transparent": saved(clear, "WEBP", lossless=True),
        "avif": saved(photo, "AVIF", quality=80),
        "gif": saved(photo.quantize(256), "GIF"),
        "gif, animated": saved(
            photo.quantize(256), "GIF", save_all=True, append_images=[Image.new("RGB", photo.size)]
        ),
        "bmp": saved(photo, "BMP"),
    }


def test_every_format_gets_the_models_prediction(deployment, open_page, photo):
    photos = every_format(photo)
    cards = choose(
        open_page(deployment), *[as_file(name, content) for name, content in photos.items()]
    )
    assert [card.locator(".name").inner_text() for card in cards] == list(photos)
    expected = model_predicts(photos.values())
    differences = {
        name: abs(probability(card) - value) for name, card, value in zip(photos, cards, expected)
    }
    print({name: f"{difference:.1e}" for name, difference in differences.items()})
    assert not {name: difference for name, difference in differences.items() if difference > CLOSE}


def test_photos_can_be_dropped_pasted_and_chosen_with_the_keyboard_alone(
    deployment, open_page, photo
):
    jpeg, png = saved(photo, "JPEG", quality=90), saved(photo, "PNG")
    of_jpeg, of_png = model_predicts([jpeg, png])
    page = open_page(deployment)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])

    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "choose"
        page.keyboard.press("Enter")
    chooser.value.set_files([as_file("chosen.jpg", jpeg)])
    assert probability(finished(page, 1)[0]) == pytest.approx(of_jpeg, abs=CLOSE)

    drop(page, "dropped.jpg", jpeg)
    card = finished(page, 2)[0]
    assert card.locator(".name").inner_text() == "dropped.jpg"  # the newest comes first
    assert probability(card) == pytest.approx(of_jpeg, abs=CLOSE)

    page.evaluate(
        """async (png) => {
        const bytes = Uint8Array.from(atob(png), (byte) => byte.charCodeAt());
        const blob = new Blob([bytes], { type: 'image/png' });
        await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
    }""",
        base64.b64encode(png).decode(),
    )
    page.keyboard.press("Control+V")
    page.locator(".card").nth(2).wait_for()
    assert probability(finished(page, 3)[0]) == pytest.approx(of_png, abs=CLOSE)

    while page.evaluate("document.activeElement.id") != "clear":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0 and page.locator("#predictions").is_hidden()
    assert page.evaluate("document.activeElement.id") == "choose"


def drop(page, name, content):
    data = page.evaluate_handle(
        """([name, content]) => {
        const data = new DataTransfer();
        const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt());
        data.items.add(new File([bytes], name));
        return data;
    }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": data})
    assert "over" in page.locator("#drop").get_attribute("class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    assert "over" not in page.locator("#drop").get_attribute("class")


def test_the_prediction_is_shown_and_announced_in_words(deployment, open_page, photo):
    page = open_page(deployment)
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    word = card.locator(".word").inner_text()
    assert (
        word == {"cat": "Cat", "dog": "Dog", "unsure": "Unsure"}[card.get_attribute("data-label")]
    )
    confidence = card.locator(".percent").inner_text()
    percent = re.fullmatch(r"(\d\d)% confidence", confidence)[1]
    meter = card.get_by_role("meter", name="Confidence")
    assert (
        meter.get_attribute("aria-valuenow") == percent
        and meter.get_attribute("aria-valuetext") == confidence
    )
    said = page.locator("[aria-live=polite]").inner_text()
    assert said.startswith(f"a.jpg, {word}, {confidence}")
    assert (word == "Unsure") == card.locator(".why").is_visible()
    if word == "Unsure":
        animal = "dog" if probability(card) >= 0.5 else "cat"
        assert card.locator(".why").inner_text().startswith(f"More likely a {animal}, {percent}%")
    assert page.locator("#about").inner_text()


def test_the_grad_cam_heatmap_is_shown_and_can_be_hidden(deployment, open_page, photo):
    from playwright.sync_api import expect

    page = open_page(deployment)
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    canvas = card.locator("canvas")
    assert canvas.bounding_box() == card.locator("img").bounding_box()
    alphas = canvas.evaluate("""(canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, 256, 256);
        return Array.from(data).filter((_, index) => index % 4 === 3);
    }""")
    assert max(alphas) > 100 > min(alphas)
    box = page.get_by_label("Show Grad-CAM heatmap")
    assert box.is_checked()
    box.press("Space")
    expect(canvas).to_have_css("opacity", "0")


def not_photos(photo):
    whole = {kind: saved(photo, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF")}
    return {
        "empty.jpg": b"",
        "text.jpg": b"no photo at all",
        "page.png": b"<!doctype html><img src=x onerror=alert(1)>",
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>"
        b"<rect width='9'/></svg>",
        "large.png": saved(Image.new("1", (10_000, 6_000)), "PNG"),
        "heavy.jpg": whole["JPEG"] + bytes(20_000_000),
        "header.jpg": whole["JPEG"][:12],
    } | {f"cut.{kind.lower()}": content[: len(content) * 2 // 3] for kind, content in whole.items()}


def test_anything_but_a_photo_is_refused_in_words(deployment, open_page, photo, tmp_path):
    page = open_page(deployment)
    files = not_photos(photo)
    for name, content in [*files.items(), ("a.jpg", saved(photo, "JPEG"))]:
        (tmp_path / name).write_bytes(content)
    cards = choose(page, *[tmp_path / name for name in files], tmp_path / "a.jpg")
    probability(cards.pop())  # the others did not affect it
    said = {}
    for (name, content), card in zip(files.items(), cards):
        assert (
            card.get_attribute("data-state") == "failed"
            and card.locator(".word").inner_text() == "No prediction"
        ), name
        assert card.locator(".again").is_hidden()
        said[name] = card.locator(".why").inner_text()
        with pytest.raises(PhotoError):
            decode(content, 8)
    assert said["empty.jpg"] == "Empty file."
    assert said["large.png"] == "10000×6000 pixels, more than 50 million."
    assert said["heavy.jpg"] == "More than 20 MB."
    for name in ("text.jpg", "page.png", "drawing.svg"):
        assert said[name].startswith("No photo") and "JPEG, PNG, WebP, GIF, AVIF" in said[name]
    for name in said:
        assert not name.startswith("cut") or said[name].startswith(("Damaged", "No photo")), said[
            name
        ]


def test_names_of_files_are_not_html(deployment, open_page, photo):
    page = open_page(deployment)
    name = "<img src=x onerror=alert(1)>.jpg"
    page.on("dialog", lambda dialog: pytest.fail("the name of a file was run"))
    (card,) = choose(page, as_file(name, saved(photo, "JPEG")))
    assert card.locator(".name").inner_text() == name
    assert page.locator("img[src=x]").count() == 0 and page.locator(".card img").count() == 1


@contextlib.contextmanager
def odd_server(folder, *, types=None, statuses=None):
    """The address of a web server with other content types by suffix, and statuses by path."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | (types or {})

        def do_GET(self):  # noqa: N802 (its name in the standard library)
            status = (statuses or {}).get(self.path)
            self.send_error(status) if status else super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(*arguments, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def site(exported, static):
    return exported / "site" / "some" / "where"


@pytest.mark.parametrize("type", ["application/octet-stream", "text/plain"])
def test_the_static_site_works_on_servers_that_do_not_know_its_files(site, open_page, photo, type):
    suffixes = (".mjs", ".wasm", ".onnx", ".json")
    with odd_server(site, types=dict.fromkeys(suffixes, type)) as address:
        probability(choose(open_page(address), as_file("a.jpg", saved(photo, "JPEG")))[0])


WASM = "ort/ort-wasm-simd-threaded.wasm"


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"statuses": {"/model.onnx": 404}}, "the web server has no model.onnx (status 404)"),
        ({"statuses": {f"/{WASM}": 403}}, f"responded with status 403 for {WASM}"),
        ({"statuses": {"/decode.js": 404}}, "the web server has no decode.js (status 404)"),
        ({"statuses": {"/page.js": 500}}, "responded with status 500 for page.js"),
        ({"types": {".js": "text/plain"}}, "sends page.js as text/plain, and browsers run"),
    ],
)
def test_what_fails_while_the_static_site_loads_is_named(site, chromium, odd, reason):
    with odd_server(site, **odd) as address:
        assert reason in failure(chromium, address)


def test_without_webassembly_and_from_a_file_the_page_says_so(site, chromium, static):
    said = failure(chromium, static, "delete globalThis.WebAssembly")
    assert "this browser has no WebAssembly" in said
    assert "opened as a file" in failure(chromium, (site / "index.html").as_uri())


def failure(chromium, address, script=""):
    with chromium.new_context() as context:
        page = context.new_page()
        page.add_init_script(script)
        page.goto(address)
        return page.locator("#progress.wrong").inner_text(timeout=60_000)


def test_the_predictions_are_counted_and_can_be_downloaded(deployment, open_page, photo):
    page = open_page(deployment)
    names = ["a.jpg", '=HYPERLINK("http://x","y").jpg', "@b, c.jpg", "Félix.jpg"]
    files = [as_file(name, saved(photo, "JPEG")) for name in names]
    choose(page, files[0])
    assert page.locator("#summary").is_hidden()  # a card says all there is to say
    cards = choose(page, *files[1:], as_file("+.jpg", b"no photo"))
    finished(page, 5)
    label = cards[0].get_attribute("data-label")
    assert page.locator("#summary").inner_text() == f"Of 5 photos: 4 {label}, 1 not read"

    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "predictions.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = {row["photo"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    # Spreadsheets would run the names that begin with =, @ and + as formulas.
    assert set(rows) == {"a.jpg", "'" + names[1], "'@b, c.jpg", "Félix.jpg", "'+.jpg"}
    row = rows["Félix.jpg"]
    assert row["label"] == label and row["error"] == ""
    assert float(row["probability"]) == pytest.approx(probability(cards[0]), abs=1e-6)
    assert 0.5 <= float(row["confidence"]) <= 1
    assert rows["'+.jpg"]["label"] == "" and rows["'+.jpg"]["error"].startswith("No photo")


def test_a_long_reason_stays_within_its_card(server, open_page, photo):
    page = open_page(server, viewport={"width": 390, "height": 844})
    reason = "could-not-be-read_" * 30
    page.route("**/predict*", lambda route: route.fulfill(status=422, json={"detail": reason}))
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    why = card.locator(".why")
    assert reason.lower() in why.inner_text().lower()
    assert why.evaluate("(element) => element.scrollWidth <= element.clientWidth")
    box, outer = why.bounding_box(), card.bounding_box()
    assert outer["x"] <= box["x"] and box["x"] + box["width"] <= outer["x"] + outer["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_photos_do_not_leave_the_device(static, open_page, photo):
    page = open_page(static)
    assert "never leave" in page.locator("#privacy").inner_text()
    page.context.set_offline(True)
    before = len(open_page.requests)
    probability(choose(page, as_file("a.jpg", saved(photo, "JPEG")))[0])
    assert all(request.url.startswith("blob:") for _, request in open_page.requests[before:])


def test_a_busy_server_is_retried_once_and_then_reported(server, open_page, photo):
    page = open_page(server)
    asked = []

    def busy(route):
        asked.append(route.request)
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "busy"})

    page.route("**/predict*", busy)
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    assert len(asked) == 2 and "busy" in card.locator(".why").inner_text()
    page.unroute("**/predict*")
    card.get_by_role("button", name="Try again").press("Enter")
    probability(finished(page, 1)[0])


def test_without_a_network_the_server_page_says_so(server, open_page, photo):
    page = open_page(server)
    page.context.set_offline(True)
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    assert card.locator(".why").inner_text() == "You are offline."
    page.context.set_offline(False)
    card.get_by_role("button", name="Try again").press("Enter")
    probability(finished(page, 1)[0])


def test_a_photo_that_the_browser_cannot_show_is_classified_by_the_server(server, open_page, photo):
    page = open_page(server)
    tiff = saved(photo, "TIFF")
    (card,) = choose(page, as_file("a.tiff", tiff))
    assert probability(card) == pytest.approx(model_predicts([tiff])[0], abs=CLOSE)
    assert card.locator(".no-photo").is_visible() and card.locator("img").is_hidden()


def test_many_photos_are_sent_in_batches_and_each_gets_its_own_prediction(
    server, open_page, synthetic_data
):
    files = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::5][:20]
    page = open_page(server)
    before = len(open_page.requests)
    cards = choose(page, *[as_file(file.name, file.read_bytes()) for file in files])
    assert sum("predict" in request.url for _, request in open_page.requests[before:]) == 2
    assert [probability(card) for card in cards] == pytest.approx(
        list(model_predicts(files)), abs=CLOSE
    )


def test_it_is_accessible_without_sight_or_a_pointer(deployment, open_page, photo):
    page = open_page(deployment)
    choose(page, as_file("a.jpg", saved(photo, "JPEG")), as_file("b.jpg", b"no photo"))
    assert page.evaluate("document.documentElement.lang") == "en" and page.title()
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    assert (
        page.evaluate(
            "[...document.querySelectorAll('input')].filter((input) => !input.labels.length).length"
        )
        == 0
    )
    assert (
        page.evaluate("[...document.querySelectorAll('img')].filter((image) => !image.alt).length")
        == 0
    )
    nameless = page.evaluate("""() => {
        const elements = [...document.querySelectorAll('button, [role=meter], section')];
        return elements.filter((element) => !(element.textContent.trim() || element.ariaLabel
            || element.getAttribute('aria-labelledby'))).length;
    }""")
    dangling = page.evaluate("""() => {
        const elements = [...document.querySelectorAll('[aria-labelledby], [aria-describedby]')];
        const target = (element) => element.getAttribute('aria-labelledby')
            ?? element.getAttribute('aria-describedby');
        return elements.filter((element) => !document.getElementById(target(element))).length;
    }""")
    assert nameless == 0 and dangling == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(server, open_page, photo, scheme):
    page = open_page(server, color_scheme=scheme)
    choose(page, as_file("a.jpg", saved(photo, "JPEG")), as_file("b.jpg", b"no photo"))
    faint = page.evaluate("""() => {
        const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
            .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
            .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
        const behind = (element) => {
            const color = getComputedStyle(element).backgroundColor;
            return /, 0\\)$/.test(color) ? behind(element.parentElement) : color;
        };
        const hasText = (element) => [...element.childNodes]
            .some((node) => node.nodeType === 3 && node.textContent.trim());
        const contrast = (element) => {
            const colors = [getComputedStyle(element).color, behind(element)];
            const [low, high] = colors.map(light).sort((a, b) => a - b);
            return (high + 0.05) / (low + 0.05);
        };
        return [...document.querySelectorAll('body *')]
            .filter((element) => element.checkVisibility() && hasText(element))
            .map((element) => [contrast(element), element.outerHTML.slice(0, 90)])
            .filter(([value]) => value < 4.5);
    }""")
    assert not faint


@pytest.mark.parametrize("width, touch", [(320, True), (390, True), (1280, False)])
def test_it_fits_phones_and_desktops(server, open_page, photo, tmp_path, width, touch):
    page = open_page(
        server, viewport={"width": width, "height": 844}, has_touch=touch, is_mobile=touch
    )
    choose(
        page,
        as_file(
            "a rather long name without any blanks ".replace(" ", "_") * 4 + ".jpg",
            saved(photo, "JPEG"),
        ),
        as_file("wide.png", saved(photo.resize((900, 100)), "PNG")),
        as_file("b.jpg", b"no photo"),
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_text("Take a photo").is_visible() == touch
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)


# Several networks


@pytest.fixture(scope="session")
def second_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second") / "bright"
    small_models.with_neither(folder)
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def server_of_two(exported, second_model):
    with serving(exported / "model.onnx", second_model) as address:
        yield address


@pytest.fixture(scope="session")
def static_of_two(exported, second_model, static, tmp_path_factory):
    site = tmp_path_factory.mktemp("two") / "site"
    static_site.build([exported / "model.onnx", second_model], site)
    with hosting(site) as address:
        yield address


@pytest.fixture(params=["server_of_two", "static_of_two"])
def deployment_of_two(request):
    return request.getfixturevalue(request.param)


def test_the_page_offers_every_network_and_both_side_by_side(
    deployment_of_two, second_model, open_page, photo
):
    jpeg = saved(photo, "JPEG", quality=90)
    white = saved(Image.new("RGB", (60, 40), "white"), "PNG")
    page = open_page(deployment_of_two)
    first = page.locator("#network option").first.inner_text()
    offered = page.locator("#network option").all_inner_texts()
    assert offered == [first, "bright", "Both, side by side"]
    fetched = [request.url for _, request in open_page.requests]
    assert not any(url.endswith("model1.onnx") for url in fetched)  # it was not chosen yet
    cards = choose(page, as_file("a.jpg", jpeg), as_file("white.png", white))
    expected = model_predicts([jpeg, white])
    assert [probability(card) for card in cards] == pytest.approx(expected, abs=CLOSE)
    assert page.locator(".others:visible").count() == 0
    about = page.locator("#about").inner_text()

    # Another network classifies the photos that are there already.
    page.select_option("#network", label="bright")
    cards = finished(page, 2)
    predictor = load_predictor(second_model)
    images = np.stack([decode(one, predictor.size) for one in (jpeg, white)])
    bright = predictor.run(images)
    assert [probability(card) for card in cards] == pytest.approx(bright.probabilities, abs=CLOSE)
    assert cards[1].locator(".word").inner_text() == "Neither"
    assert "Probably no cat and no dog" in cards[1].locator(".why").inner_text()
    assert page.locator("#about").inner_text() != about
    assert "1 neither" in page.locator("#summary").inner_text()

    page.select_option("#network", label="Both, side by side")
    cards = finished(page, 2)
    assert [probability(card) for card in cards] == pytest.approx(expected, abs=CLOSE)
    line = cards[1].locator(".others li")
    assert re.fullmatch(r"bright: Neither, \d\d% confidence", line.inner_text())
    with page.expect_download() as download:
        page.click("#csv")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["photo"], row["network"]) for row in rows] == [
        (name, network) for name in ("a.jpg", "white.png") for network in (first, "bright")
    ]
    assert [row["neither"] == "" for row in rows] == [True, False] * 2
    assert float(rows[3]["neither"]) == pytest.approx(bright.neither[1], abs=CLOSE)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_choice_while_photos_are_classified_is_for_all_of_them(
    static_of_two, second_model, open_page, photo
):
    page = open_page(static_of_two)
    jpeg = saved(photo, "JPEG", quality=90)
    page.set_input_files("#choose", [as_file(f"{n}.jpg", jpeg) for n in range(8)])
    page.select_option("#network", label="bright")
    cards = finished(page, 8)
    (expected,) = load_predictor(second_model).predict(decode(jpeg, 48)[None])
    assert [probability(card) for card in cards] == pytest.approx([expected] * 8, abs=CLOSE)
    assert page.locator("#summary").inner_text().startswith("Of 8 photos")


def test_a_network_that_cannot_be_fetched_can_be_tried_again(static_of_two, open_page, photo):
    page = open_page(static_of_two, service_workers="block")  # a route sees no request of theirs
    page.route("**/model1.onnx", lambda route: route.abort())
    page.select_option("#network", label="bright")
    (card,) = choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    assert card.get_attribute("data-state") == "failed"
    assert "The network bright could not be loaded: model1.onnx" in card.inner_text()
    page.unroute("**/model1.onnx")
    card.locator(".again").click()
    (card,) = finished(page, 1)
    assert card.get_attribute("data-state") == "done"
    page.wait_for_function("document.querySelector('#progress').textContent === ''")
    # Chromium itself reports the request that was stopped, and the page what it could not load.
    open_page.complaints.clear()


# The live camera

FAKE_CAMERA = "--use-fake-device-for-media-stream"


@contextlib.contextmanager
def browser_of_its_own(chromium, arguments):
    """A Chromium started with `arguments`: it learns of its cameras when it starts."""
    args = [*ARGUMENTS, *arguments]
    browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=args)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="session")
def filmed(chromium, synthetic_data, tmp_path_factory):
    """A browser whose camera sees two synthetic photos in turn, of a cat and of a dog."""
    files = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))
    probabilities = model_predicts([file.read_bytes() for file in files])
    chosen = [files[index] for index in (np.argmin(probabilities), np.argmax(probabilities))]
    assert probabilities.min() < 0.2 and probabilities.max() > 0.8
    video = tmp_path_factory.mktemp("video") / "photos.mjpeg"
    frames = [Image.open(file).convert("RGB").resize((320, 240)) for file in chosen]
    jpegs = [saved(frame, "JPEG", quality=95) for frame in frames]
    video.write_bytes(b"".join(jpeg * 60 for jpeg in jpegs))
    arguments = [FAKE_CAMERA, "--use-fake-ui-for-media-stream"]
    arguments.append(f"--use-file-for-fake-video-capture={video}")
    with browser_of_its_own(chromium, arguments) as browser:
        yield browser


@pytest.mark.parametrize(
    "deployment, width", [("server", 1280), ("static", 390)], indirect=["deployment"]
)
def test_the_camera_shows_the_prediction_for_what_it_sees(deployment, filmed, open_page, width):
    viewport = {"width": width, "height": 850}
    page = open_page(deployment, filmed, viewport=viewport, permissions=["camera"])
    page.evaluate(LONG_TASKS)
    live = page.locator("#live")
    assert live.is_hidden()
    page.click("#camera")
    for label in ("cat", "dog", "cat"):  # it sees one after the other
        page.locator(f"#live[data-label={label}]").wait_for(timeout=30_000)
    assert live.locator(".percent").inner_text().endswith("% confidence")
    live.locator(".rate", has_text="predictions per second").wait_for(timeout=30_000)
    assert int(live.locator(".rate").inner_text().split()[0]) >= 3  # on a busy machine
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if "some/where" in deployment:  # a worker does the work
        assert page.evaluate("Math.max(0, ...globalThis.longTasks)") < 300
    drawn = page.evaluate(PIXELS_OF_THE_MAP)
    assert drawn > 0

    # A frame is frozen, and kept among the photos.
    page.click("#freeze")
    page.locator("#keep").wait_for()
    page.wait_for_timeout(500)
    before = live.get_attribute("data-probability")
    page.wait_for_timeout(1500)
    assert live.get_attribute("data-probability") == before
    page.click("#keep")
    (card,) = finished(page, 1)
    assert probability(card) == float(before)
    assert re.fullmatch(r"camera-\d\d-\d\d-\d\d.jpg", card.locator(".name").inner_text())
    page.click("#freeze")
    page.wait_for_function(
        "before => document.querySelector('#live').dataset.probability !== before", arg=before
    )
    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
    page.click("#stop")
    assert live.is_hidden() and track.evaluate("track => track.readyState") == "ended"
    assert "stopped" in page.locator("#progress").inner_text()


LONG_TASKS = """
    globalThis.longTasks = [];
    new PerformanceObserver((list) => {
      for (const task of list.getEntries()) globalThis.longTasks.push(task.duration);
    }).observe({ entryTypes: ['longtask'] });
"""
PIXELS_OF_THE_MAP = """
    (() => {
      const canvas = document.querySelector('#live canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, index) => index % 4 === 3 && value > 100).length;
    })()
"""


def test_a_lost_camera_is_reported_and_can_be_started_again(static, filmed, open_page):
    page = open_page(static, filmed, permissions=["camera"])
    page.click("#camera")
    page.locator("#live[data-state=done]").wait_for(timeout=30_000)
    page.evaluate(
        "document.querySelector('video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))"
    )
    assert page.locator("#live").is_hidden()
    assert page.locator("#progress").inner_text() == "The camera was disconnected."
    page.click("#camera")
    page.locator("#live").wait_for()


@pytest.mark.parametrize(
    ("arguments", "script", "said"),
    [
        ([FAKE_CAMERA, "--deny-permission-prompts"], "", "The camera may not be used: allow it"),
        (["--use-fake-ui-for-media-stream"], "", "No camera was found."),
        ([], "delete Navigator.prototype.mediaDevices", "The camera needs a secure page"),
        (
            [],
            "navigator.mediaDevices.getUserMedia = () =>"
            " Promise.reject(new DOMException('', 'NotReadableError'))",
            "another program may be using it",
        ),
    ],
)
def test_without_a_camera_the_page_says_why(
    chromium, server, open_page, photo, arguments, script, said
):
    with browser_of_its_own(chromium, arguments) as browser:
        page = open_page(server, browser, script)
        page.click("#camera")
        page.locator("#progress", has_text=said).wait_for(timeout=20_000)
        assert page.locator("#live").is_hidden()
        probability(choose(page, as_file("a.jpg", saved(photo, "JPEG")))[0])  # the rest works


def test_one_of_several_cameras_can_be_chosen(chromium, server, open_page):
    arguments = [f"{FAKE_CAMERA}=device-count=2", "--use-fake-ui-for-media-stream"]
    with browser_of_its_own(chromium, arguments) as browser:
        page = open_page(server, browser, permissions=["camera"])
        page.click("#camera")
        page.locator("#live[data-state=done]").wait_for(timeout=30_000)
        used = "document.querySelector('video').srcObject.getTracks()[0].getSettings().deviceId"
        first = page.evaluate(used)
        page.click("#switch")
        page.wait_for_function(f"first => {used} !== first", arg=first)
        page.click("#switch")
        page.wait_for_function(f"first => {used} === first", arg=first)
        page.click("#stop")


# The web app


@pytest.fixture
def own_site(site, tmp_path):
    """A copy of the static site that the test may change, and its address."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    with odd_server(copy) as address:
        yield copy, address


def controlled(page):
    """Wait until the service worker has all files and answers for the page."""
    page.evaluate("navigator.serviceWorker.ready")
    page.wait_for_function("navigator.serviceWorker.controller !== null", timeout=60_000)


def test_the_site_can_be_installed(own_site, open_page):
    folder, address = own_site
    page = open_page(address)
    link = page.locator("link[rel=manifest]").get_attribute("href")
    manifest = json.loads((folder / link).read_text())
    assert manifest["name"] and manifest["display"] == "standalone"
    assert manifest["start_url"] == manifest["scope"] == "./"
    sizes = set()
    for icon in manifest["icons"]:
        image = Image.open(folder / icon["src"])
        assert icon["type"] == "image/png" and icon["sizes"] == f"{image.width}x{image.height}"
        sizes.add((image.width, icon["purpose"]))
        pixels = np.asarray(image.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2
    assert {(192, "any"), (512, "any"), (512, "maskable")} <= sizes
    client = page.context.new_cdp_session(page)
    assert client.send("Page.getAppManifest")["errors"] == []
    controlled(page)
    found = client.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [one["errorId"] for one in found] == ["in-incognito"]  # as every context of a test is


def test_after_one_visit_it_works_offline(own_site, open_page, photo):
    folder, address = own_site
    page = open_page(address)
    controlled(page)
    page.context.set_offline(True)
    page.goto(address)
    page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)
    jpeg = saved(photo, "JPEG", quality=90)
    (card,) = choose(page, as_file("a.jpg", jpeg))
    assert probability(card) == pytest.approx(model_predicts([jpeg])[0], abs=CLOSE)
    other = page.context.new_page()  # as from the home screen
    other.goto(address + "index.html?from=home")
    other.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)


def another_version(folder, about):
    """What `catsdogs export` would write for a model of a different description."""
    listed = json.loads((folder / "models.json").read_text())
    listed["models"][0]["about"] = about
    (folder / "models.json").write_text(json.dumps(listed))
    shutil.copy(WEB / "sw.js", folder)
    web_app.write(folder)


def test_a_new_version_replaces_the_old_one_as_a_whole(own_site, open_page, photo):
    folder, address = own_site
    page = open_page(address)
    controlled(page)
    first = page.locator("#about").inner_text()
    assert page.locator("#version").is_hidden()
    another_version(folder, "The second version.")
    page.goto(address)
    page.locator("#version").wait_for(timeout=30_000)
    assert page.locator("#about").inner_text() == first  # not a mix
    with page.expect_navigation():
        page.click("#version button")
    page.locator("#about", has_text="The second version.").wait_for(timeout=60_000)
    assert page.locator("#version").is_hidden()
    names = page.evaluate("caches.keys()")
    assert len(names) == 1  # the old one is gone
    probability(choose(page, as_file("a.jpg", saved(photo, "JPEG")))[0])


def test_a_version_that_is_being_uploaded_is_not_used(own_site, open_page):
    folder, address = own_site
    page = open_page(address)
    controlled(page)
    first, listed = page.locator("#about").inner_text(), (folder / "models.json").read_text()
    another_version(folder, "The second version.")
    (folder / "models.json").write_text(listed)  # this one has not arrived yet
    page.goto(address)
    page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    assert page.locator("#version").is_hidden()
    assert page.locator("#about").inner_text() == first
    page.context.set_offline(True)
    page.goto(address)
    page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)


def test_the_size_is_stated_before_it_is_fetched(own_site, chromium):
    folder, address = own_site
    needed = [*(folder / "ort").iterdir(), folder / "model.onnx"]
    size = sum(path.stat().st_size for path in needed)
    with chromium.new_context(service_workers="block") as context:
        page = context.new_page()
        held = []
        page.route("**/*.wasm", lambda route: held.append(route))
        page.goto(address)
        text = f"Loading the network, {size / 1e6:.1f} MB…"
        page.locator("#progress", has_text=text).wait_for(timeout=30_000)
        page.wait_for_timeout(1000)
        assert len(held) == 1
        for route in held:
            route.continue_()
        page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)


def test_a_network_that_was_chosen_once_works_offline(static_of_two, open_page, photo):
    page = open_page(static_of_two)
    controlled(page)
    names = page.evaluate(
        "caches.keys().then(([name]) => caches.open(name))"
        ".then((cache) => cache.keys()).then((all) => all.map((one) => one.url))"
    )
    assert not any(name.endswith("model1.onnx") for name in names)
    page.select_option("#network", label="bright")
    choose(page, as_file("a.jpg", saved(photo, "JPEG")))
    page.context.set_offline(True)
    page.goto(static_of_two)
    page.locator("#privacy", has_text="Photos").wait_for(timeout=60_000)
    page.select_option("#network", label="bright")
    probability(choose(page, as_file("a.jpg", saved(photo, "JPEG")))[0])
