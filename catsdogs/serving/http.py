"""HTTP with limits on time and size: uvicorn's protocol, request bodies, the photos in them."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import httptools
from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catsdogs.data.decode import MAX_BYTES
from catsdogs.text import printable

#: Photos per request, and bytes per request, at most.
MAX_PHOTOS, MAX_REQUEST = 64, 64_000_000
#: Bytes of request bodies in memory at a time, over all requests, at most.
MAX_RECEIVING = 128_000_000
#: A request may take SECONDS to arrive, plus one second per BYTES_PER_SECOND bytes.
SECONDS, BYTES_PER_SECOND = 10, 16_384
#: Bytes in the head of a request, at most (and what arrives together with its end).
MAX_HEAD = 65_536


class BodyReader:
    """Reads request bodies within the limits on their size, their speed and memory in total."""

    def __init__(self):
        self.receiving = 0

    @asynccontextmanager
    async def read(self, request: Request):
        """The body of `request`, as it arrives: an asynchronous iterator of parts.

        The parts count against `MAX_RECEIVING` until the block ends.

        The iterator raises `HTTPException`: 408 too slow, 413 too large, 503 too much at a time.
        """
        counted = 0

        async def parts():
            nonlocal counted
            limit = MAX_REQUEST if _is_multipart(request) else MAX_BYTES
            count, start = 0, time.monotonic()
            while True:
                deadline = start + SECONDS + count / BYTES_PER_SECOND
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
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
                        raise overloaded()
                    self.receiving += len(part)
                    counted += len(part)
                    yield part
                elif count > 4 * MAX_REQUEST:
                    raise _too_large(limit, {"Connection": "close"})
                # Otherwise it is read and dropped for a while: a client that is still sending would
                # not see the response.
                if not message.get("more_body", False):
                    break
            if count > limit:
                raise _too_large(limit)

        try:
            async with aclosing(parts()) as arriving:
                yield arriving
        finally:
            self.receiving -= counted


async def photos_in(
    request: Request, parts: AsyncGenerator[bytes, None]
) -> list[tuple[str, bytes]]:
    """The photos in a request's body: the files of a form, or the body itself.

    `parts` are those of the body. Returns pairs of name and content.

    Raises `HTTPException`: 413 too many photos, 422 a malformed form, one without files, or a body
    that cannot be a photo.
    """
    if _is_multipart(request):
        try:
            return await _files(request, parts)
        except HTTPException:
            async for _ in parts:  # a client that is still sending would not see the response
                pass
            raise
    body = b"".join([part async for part in parts])
    if mistake := _mistake(request, body):
        raise HTTPException(422, mistake)
    return [("photo", body)]


class _InMemory(MultiPartParser):
    """Starlette's parser, which would write files of more than 1 MB to the disk, if there is one.

    `BodyReader` limits how much is in memory.
    """

    spool_max_size = MAX_REQUEST + 1


async def _files(request, parts):
    beginning = end = b""

    async def stream():
        nonlocal beginning, end
        async for part in parts:
            if len(beginning) < 1024:
                beginning += part[:1024]
            end = (end + part[-1024:])[-1024:]
            yield part

    if not re.search(r"(?i);\s*boundary=", request.headers["content-type"]):
        raise HTTPException(
            422,
            "the form cannot be read: its Content-Type, multipart/form-data, has no boundary; "
            "leave this header to your client, which adds one, as curl -F photos=@cat.jpg does",
        )
    try:
        # One file more than the limit, to tell too many files from a malformed form.
        form = await _InMemory(
            request.headers, stream(), max_files=MAX_PHOTOS + 1, max_fields=16
        ).parse()
    except MultiPartException as error:
        if "Too many" in error.message:
            raise HTTPException(413, printable(error.message)) from None
        if not beginning.lstrip().startswith(b"--"):
            raise HTTPException(
                422,
                "the form cannot be read: it does not begin with its boundary; to send a photo "
                "without a form, use another Content-Type, such as image/jpeg",
            ) from None
        raise HTTPException(
            422, f"the form cannot be read: {printable(error.message)[:200]}"
        ) from None
    except (FormParserError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise HTTPException(422, f"the form cannot be read: {printable(error)[:200]}") from None
    try:
        if not beginning:
            raise HTTPException(422, f"the form is empty: {_EXPECTED}")
        if not end.rstrip(b" \t\r\n").endswith(b"--"):
            # Otherwise a truncated form would be answered as if its last photos had not been in it.
            raise HTTPException(422, "the form cannot be read: its end is missing")
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise HTTPException(422, f"no file in the form: {_EXPECTED}")
        if len(files) > MAX_PHOTOS:
            raise HTTPException(
                413, f"{len(files)} photos: expected at most {MAX_PHOTOS} per request"
            )
        photos = []
        for file in files:
            name = printable(file.filename or "photo")[:200]
            photos.append((name, await file.read(MAX_BYTES + 1)))
            await file.close()
        return photos
    finally:
        await form.close()


_EXPECTED = "expected photos as files, as in curl -F photos=@cat.jpg"


def _mistake(request, body):
    """What a client did wrong, if `body` cannot be a photo for a reason that its headers tell."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if not body:
        return f"empty body: {_EXPECTED} or curl --data-binary @cat.jpg"
    if kind == "application/x-www-form-urlencoded" and not re.search(rb"[\0\r\n]", body):
        # Every photo has such bytes, and others would be taken for it in what is left of a JPEG.
        return (
            "not a photo, or one without its line breaks and zeros, which curl -d removes: send it "
            "with curl --data-binary @cat.jpg or curl -F photos=@cat.jpg"
        )
    if kind == "application/json" and body.lstrip()[:1] in (b"{", b"[", b'"'):
        return f"JSON: {_EXPECTED}, or the file's bytes as the body"
    if encoding in ("gzip", "deflate", "br", "zstd") and not body.startswith(b"\xff\xd8"):
        return f"Content-Encoding {encoding}: expected the photo as it is, it is compressed already"
    return None


def overloaded() -> HTTPException:
    """The response to a request that exceeds what the service holds in memory at a time."""
    return HTTPException(503, "too many photos in flight: retry in a moment", {"Retry-After": "1"})


def _is_multipart(request):
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _too_large(limit, headers=None):
    what = "one photo" if limit == MAX_BYTES else "one request"
    return HTTPException(413, f"more than {limit // 10**6} MB in {what}", headers)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with limits on the time and size of a request's head.

    uvicorn has none of its own. `BodyReader` limits the body.
    """

    _head_timer, _body_timer, _head_bytes, _complete = None, None, 0, True

    def data_received(self, data):
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        self._head_bytes = self._head_bytes + len(data) if self._head_timer is not None else 0
        if self._head_bytes > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def _feed(self, data):
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as end:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(b"405 Method Not Allowed")
                    return
                # Java's client offers an upgrade to HTTP/2 with every request. The offer may be
                # ignored, but with it httptools takes no body: the head is parsed once more.
                data = self._head_without_upgrade() + data[end.args[0] :]
                self.parser = httptools.HttpRequestParser(self)

    def _head_without_upgrade(self):
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def connection_made(self, transport):
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(SECONDS, self._too_slow)

    def on_message_begin(self):
        super().on_message_begin()
        self._complete = False
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(SECONDS, self._too_slow)

    def on_headers_complete(self):
        if self.parser.should_upgrade():  # see `_feed`
            return
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self):
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._complete = True
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def on_response_complete(self):
        super().on_response_complete()
        if not self._complete and self.cycle.response_complete and not self.transport.is_closing():
            # Answered before the body arrived, as with 404: the rest may not take forever.
            self._body_timer = self.loop.call_later(SECONDS, self.transport.close)

    def connection_lost(self, exc):
        self._stop_head_timer()
        super().connection_lost(exc)

    def _stop_head_timer(self):
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self):
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status):
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.transport.close()
