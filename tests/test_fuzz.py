"""Thousands of broken photos and requests against the service: no 500, no crash, no memory growth.

`make fuzz` runs more of them.
"""

import http.client
import io
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from served import form, running

COUNT = int(os.environ.get("CATSDOGS_FUZZ", "1500"))
#: Statuses that are expected: a response, a refusal with a reason, or a redirect for odd spellings
#: of the page's own address.
EXPECTED = {200, 307, 400, 404, 405, 408, 413, 422, 503}


def _seeds():
    """A small image in every format, to be broken."""
    x, y = np.meshgrid(np.arange(48), np.arange(40))
    image = Image.fromarray(np.stack([x * 5, y * 6, (x * y) % 256], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind, some, options in (
        ("JPEG", image, {"exif": exif}),
        ("JPEG", image.convert("CMYK"), {"progressive": True}),
        ("PNG", image.convert("RGBA"), {}),
        ("PNG", image.quantize(16), {}),
        ("GIF", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("WEBP", image, {}),
        ("AVIF", image, {}),
        ("BMP", image, {}),
        ("TIFF", image, {"compression": "tiff_lzw"}),
        ("TIFF", image.convert("L"), {}),
    ):
        file = io.BytesIO()
        some.save(file, kind, **options)
        found.append(file.getvalue())
    return found


SEEDS = _seeds()


@st.composite
def broken_photos(draw):
    """A photo with some bytes changed, removed, inserted or repeated."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        what = draw(st.sampled_from(["change", "cut", "insert", "delete", "repeat", "number"]))
        if what == "change" and content:
            content[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del content[at:]
        elif what == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        elif what == "delete":
            del content[at : at + draw(st.integers(1, 40))]
        elif what == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 60))]
        elif what == "number":  # decoders go wrong at lengths and sizes
            content[at : at + 4] = draw(
                st.sampled_from(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x00\x01\x00\x00"]
                )
            )
    return bytes(content)


@st.composite
def requests(draw):
    """Method, path, headers and body: photos, broken or not, in a form or raw, or a broken form."""
    photos = draw(st.lists(broken_photos(), min_size=1, max_size=3))
    way = draw(st.sampled_from(["form", "form", "raw", "raw", "broken form", "other"]))
    path = draw(st.sampled_from(["/predict", "/predict?map=1", "/predict?map=0"]))
    if way == "raw":
        return (
            "POST",
            path,
            {
                "Content-Type": draw(
                    st.sampled_from(["image/jpeg", "application/octet-stream", "text/html"])
                )
            },
            photos[0],
        )
    if way == "other":
        text = draw(st.text("abc/%.?=&;:<>\"'\\{}-_0", max_size=30))
        return (
            draw(st.sampled_from(["GET", "PUT", "POST", "DELETE"])),
            "/" + text.replace("\\", ""),
            {},
            b"",
        )
    kind, body = form(
        *photos, names=draw(st.lists(st.text('abc./\\"<>;=\x01é', max_size=12), max_size=3))
    )
    if way == "broken form":
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=30)) + body[at + draw(st.integers(0, 30)) :]
        kind = draw(
            st.sampled_from(
                [
                    kind,
                    kind,
                    "multipart/form-data",
                    "multipart/form-data; boundary=",
                    'multipart/form-data; boundary="a',
                ]
            )
        )
    return "POST", path, {"Content-Type": kind}, body


def test_the_service_answers_or_refuses_whatever_is_sent():
    with running() as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        counts, memory = {}, []

        @settings(
            max_examples=COUNT,
            deadline=None,
            database=None,
            derandomize=COUNT <= 1500,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests())
        def throw(request):
            method, path, headers, body = request
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
            except (http.client.HTTPException, ConnectionError):
                # It closes the connection after some refusals; the next request opens a new one.
                connection.close()
                connection.request(method, path, body, headers)
                response = connection.getresponse()
            answer = response.read()
            counts[response.status] = counts.get(response.status, 0) + 1
            assert response.status in EXPECTED, (response.status, answer[:500], request)
            assert response.status != 307 or response.getheader("location").startswith(
                f"http://127.0.0.1:{service.port}/"
            )
            if response.getheader("content-type") == "application/json" and path.startswith(
                "/predict"
            ):
                for one in json.loads(answer).get("photos", []):
                    assert ("error" in one) != ("label" in one)
            if sum(counts.values()) in (COUNT // 3, COUNT):
                memory.append(service.memory())

        throw()
        assert service.process.poll() is None and service.predict(SEEDS[0])[0] == 200
        total = sum(counts.values())
        print(
            f"\n{total:,} requests: {dict(sorted(counts.items()))}; "
            f"memory after a third and after all: {[m // 10**6 for m in memory]} MB"
        )
        assert (
            total >= COUNT * 0.9
            and counts.get(200, 0) > total * 0.1
            and counts.get(422, 0) > total * 0.1
        )
        if len(memory) == 2:
            assert memory[1] - memory[0] < 60e6
        connection.close()
        assert pytest.approx(0) == json.loads(service.ask()[2])["waiting"]
