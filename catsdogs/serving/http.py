"""HTTP with limits on time and size: uvicorn's protocol, request bodies, the photos in them."""

import asyncio
import re
import time
from contextlib import asynccontextmanager

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
MAX_RECEIVING = 256_000_000
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
        """The complete body of `request`, counted against `MAX_RECEIVING` inside the block.

        Raises `HTTPException`: 408 too slow, 413 too large, 503 too much at a time.
        """
        limit = MAX_REQUEST if _is_multipart(request) else MAX_BYTES
        count, parts, counted = 0, [], 0
        start = time.monotonic()
        try:
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
                    parts.append(part)
                else:
                    # Read on and drop the rest for a while: a client that is still sending would
                    # not see the response.
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


async def photos_in(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """The photos in `body`, pairs of name and content: the files of a form, or the body itself.

    Raises `HTTPException`: 413 too many photos, 422 a malformed form, or one without files.
    """
    if not _is_multipart(request):
        return [("photo", body)]

    async def stream():
        yield body

    if not body.rstrip(b" \t\r\n").endswith(b"--"):
        # Otherwise a truncated form would be answered as if its last photos had not been in it.
        raise HTTPException(422, "the form cannot be read: its end is missing")
    try:
        # One file more than the limit, to tell too many files from a malformed form.
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
                422, "no photo in the form: expected files, as in curl -F photos=@cat.jpg"
            )
        if len(files) > MAX_PHOTOS:
            raise HTTPException(
                413, f"{len(files)} photos: expected at most {MAX_PHOTOS} per request"
            )
        return [
            (printable(file.filename or "photo")[:200], await file.read(MAX_BYTES + 1))
            for file in files
        ]
    finally:
        await form.close()


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
        if self._complete or self._head_timer is not None:
            # Java's client offers an upgrade to HTTP/2 with every request. The offer may be
            # ignored, but httptools would ignore the body along with it.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = re.sub(rb"(?i)\r\nupgrade:", b"\r\nx-upgrade:", head) + end + rest
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._head_timer is not None else 0
        if self._head_bytes > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def connection_made(self, transport):
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(SECONDS, self._too_slow)

    def on_message_begin(self):
        super().on_message_begin()
        self._complete = False
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(SECONDS, self._too_slow)

    def on_headers_complete(self):
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self):
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
