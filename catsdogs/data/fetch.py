"""Downloads one file over HTTP: redirects, proxies, time limits, resuming, retries.

Standard library only, Python 3.9 or newer. Passwords and signatures in addresses are never shown.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import catsdogs
from catsdogs.data import progress
from catsdogs.data.errors import DISK_FULL, ArchiveError, DownloadError, UnreachableError
from catsdogs.data.progress import say
from catsdogs.text import printable

#: Seconds for finding a server and connecting to it, encryption included.
CONNECT_SECONDS = 8
#: A connection is given up when it brings less than this many bytes per second, for this long.
MIN_SPEED = 1000
STALL_SECONDS = 30
#: Statuses after which trying again is of no use.
GONE = (401, 403, 404, 410)

USER_AGENT = f"Mozilla/5.0 (compatible; catsdogs/{catsdogs.__version__})"


class _NotConnectedError(Exception):
    """Nobody answers at the address; the message says why."""


class _LostError(Exception):
    """The server answered, but not to the end; the message says why."""


def fetch(
    url: str, file: Path, check: Callable[[Path], object], *, tries: int, pause: float, advice: str
) -> None:
    """Download `url` to `file`, in up to `tries` tries, resuming where the last one ended.

    What has come is kept in ``FILE.part``, also by an interruption. `check` raises ArchiveError if
    that is not a complete file of the expected kind. `pause`: seconds between two tries. `advice`:
    what to do when this address has nothing to offer. Raises UnreachableError if nothing came at
    all, DownloadError if the file is still incomplete or wrong.
    """
    if file.exists():
        return
    part, name, came, problem = Path(f"{file}.part"), shown(url), False, ""
    opener = make_opener()
    say(f"Downloading {name}")
    for attempt in range(tries):
        if attempt:
            time.sleep(pause)
        before = size(part)
        if before:
            say(f"Resuming after {before // 10**6} MB.")
        complete = False
        try:
            receive(opener, url, part)
            complete = True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in GONE:
                raise UnreachableError(
                    f"The server answered {error.code}: there is no archive at {name} any more.\n"
                    f"Set CATSDOGS_URL to a different address of it, or {advice}."
                ) from None
            # 416: there is nothing after what we have, so that is all of it, or something else.
            complete = error.code == 416 and before > 0
            problem = f"HTTP {error.code}"
        except _NotConnectedError as error:
            problem = str(error)
            if not came:  # more tries are only worth it if it worked a moment ago
                raise UnreachableError(
                    f"Cannot reach {name} ({problem}): is there a network?\n"
                    f"Run this again later, or {advice}."
                ) from None
        except _LostError as error:
            problem = str(error)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise DownloadError(
                f"The disk of {file.parent} is full: {size(part):,} bytes of the archive "
                "were downloaded.\nMake room, then run this again to resume."
            ) from None
        came = came or size(part) != before
        if not complete:
            continue
        try:
            check(part)
        except ArchiveError as error:
            part.unlink()
            if not before:
                raise DownloadError(
                    f"{error}\nThat is what {name} sent; it was removed. Run this again later, "
                    f"set CATSDOGS_URL to a different address, or {advice}."
                ) from None
            problem = "its parts did not match"
            say("The earlier part of the download does not match this file: starting over.")
            continue
        os.replace(part, file)
        return
    if not came:
        raise UnreachableError(
            f"No answer from {name} in {tries} tries ({problem}).\n"
            f"Run this again later, set CATSDOGS_URL to a different address of it, or {advice}."
        )
    raise DownloadError(
        f"The connection was lost {tries} times ({problem}); the {size(part):,} bytes "
        "received so far are kept.\nRun this again to resume."
    )


def receive(opener: urllib.request.OpenerDirector, url: str, part: Path) -> None:
    """Append to `part` what it lacks of `url`, or replace it if the server cannot resume.

    Raises HTTPError for an error status, _NotConnectedError or _LostError if the network fails,
    and OSError if `part` cannot be written.
    """
    before = size(part)
    with contextlib.closing(respond(opener, url, before)) as response:
        start = before
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {before}-"):
            part.unlink(missing_ok=True)
            raise _LostError("the server sent a different range than was asked for")
        if before and not start:
            say("The server cannot resume a download: starting over.")
        length = response.headers.get("Content-Length", "")
        left = int(length) if length.isdecimal() else None
        total = None if left is None else start + left
        with (
            open(part, "ab" if start else "wb") as stream,
            progress.bar("Downloading", total, "B", start) as advance,
        ):
            for block in blocks(response, left):
                stream.write(block)
                stream.flush()  # an interruption keeps it, and so does a kill
                advance(len(block))


def respond(opener: urllib.request.OpenerDirector, url: str, first: int):
    """The response to a request for `url` from byte `first` on."""
    try:
        request = make_request(url)
        if first:
            request.add_header("Range", f"bytes={first}-")
        return opener.open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError:
        raise
    except http.client.HTTPException as error:  # before OSError: some are both
        raise _LostError(printable(error) or type(error).__name__) from None
    except OSError as error:
        raise _NotConnectedError(reason(error)) from None
    except ValueError:  # not shown: there may be a password in it
        raise _NotConnectedError("the proxy in the environment is not a valid address") from None


def blocks(response: http.client.HTTPResponse, left: int | None):
    """Yield the body of `response` as it comes: `left` bytes, or to its end if that is None.

    Raises _LostError if the connection ends before that, breaks, or is too slow.
    """
    since, came = time.monotonic(), 0
    while left is None or left > 0:
        try:
            block = response.read1(1 << 18 if left is None else min(left, 1 << 18))
        except (OSError, http.client.HTTPException) as error:
            raise _LostError(reason(error)) from None
        if not block:
            if left is None:
                return
            raise _LostError("the connection was closed early")
        yield block
        came += len(block)
        if left is not None:
            left -= len(block)
        if (passed := time.monotonic() - since) >= STALL_SECONDS:
            if came < MIN_SPEED * passed:
                raise _LostError(f"fewer than {MIN_SPEED:,} bytes per second arrived")
            since, came = time.monotonic(), 0


def size(file: Path) -> int:
    """Bytes in `file`; 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def reason(error: BaseException) -> str:
    """Why a request failed, in few words."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason(inner)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified: {error.verify_message}"
    if isinstance(error, socket.timeout):
        return "timed out"
    text = getattr(error, "strerror", None) or inner or error
    return printable(text) or type(error).__name__


# --- addresses ------------------------------------------------------------------------------------


def shown(url: str) -> str:
    """`url` without what may be secret in it: user, password, query."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}")


def check_address(url: str) -> None:
    """Raise DownloadError unless `url` is an address that `fetch` can download from."""
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        valid = valid and not any(character.isspace() for character in parts.netloc)
    except ValueError:  # brackets that do not match, a port that is no number
        valid = False
    if not valid:  # not shown: what is wrong with it may be in front of a password
        raise DownloadError(
            "CATSDOGS_URL is not a valid address; http://… or https://… was expected.\n"
            "Correct CATSDOGS_URL, or unset it."
        )


def make_request(url: str) -> urllib.request.Request:
    """A request for `url`; the user and password in it, if any, become an Authorization header."""
    parts = urllib.parse.urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    # Addresses are pasted by people: spaces and letters of all alphabets become what HTTP allows.
    path, query = (
        urllib.parse.quote(text, safe="%/:=&?~+!$,;'@()*[]") for text in (parts.path, parts.query)
    )
    request = urllib.request.Request(
        urllib.parse.urlunsplit((parts.scheme, host, path, query, "")),
        headers={"User-Agent": USER_AGENT},
    )
    if account:
        account = ":".join(urllib.parse.unquote(text) for text in account.split(":", 1))
        account += "" if ":" in account else ":"
        coded = base64.b64encode(account.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    return request


# --- connections ----------------------------------------------------------------------------------


def make_opener() -> urllib.request.OpenerDirector:
    """What opens addresses: HTTP and HTTPS only, through the proxies that the environment names."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies()),
        _Http(),
        _Https(context=certificates()),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def proxies() -> dict[str, str]:
    """The proxy per scheme. Raises DownloadError for kinds that the standard library has not."""
    found = urllib.request.getproxies()
    common = found.pop("all", None)
    if common:
        found = {"http": common, "https": common, **found}
    found = {scheme: proxy for scheme, proxy in found.items() if scheme in ("http", "https")}
    for scheme, proxy in found.items():
        kind = proxy.partition("://")[0] if "://" in proxy else "http"
        if kind not in ("http", "https"):
            raise DownloadError(
                f"The proxy for {scheme} is a {printable(kind)} proxy; an HTTP proxy was "
                "expected.\n"
                "Set http_proxy and https_proxy to one, unset ALL_PROXY, or download the archive "
                "yourself and use it as zip FILE."
            )
    return found


def certificates() -> ssl.SSLContext:
    """A context that verifies certificates, also in a Python that comes without any authorities."""
    context, known = ssl.create_default_context(), ssl.get_default_verify_paths()
    if not (
        context.cert_store_stats()["x509_ca"]
        or known.cafile
        or (known.capath and os.listdir(known.capath))
    ):  # as Python from python.org on macOS; the system has some all the same
        with contextlib.suppress(OSError):
            context.load_verify_locations("/etc/ssl/cert.pem")
        with contextlib.suppress(ImportError, OSError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context


def connect(address: tuple[str, int], timeout: float, source_address=None) -> socket.socket:
    """As `socket.create_connection`, but `timeout` covers the look-up and all addresses found.

    One that does not answer is left in time for the next: many networks have an IPv6 that leads
    nowhere beside an IPv4 that works.
    """
    end = time.monotonic() + timeout
    found = look_up(*address, timeout)
    problem: OSError = socket.timeout("timed out")
    for index, (family, kind, protocol, _, where) in enumerate(found):
        left = max(0.1, end - time.monotonic())
        connection = None
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(left / (len(found) - index))
            connection.connect(where)
            connection.settimeout(max(1.0, end - time.monotonic()))  # for the encryption
            return connection
        except OSError as error:
            problem = error
            if connection:
                connection.close()
    raise problem


def look_up(host: str, port: int, seconds: float) -> list[tuple]:
    """`socket.getaddrinfo` for TCP with a time limit, which it does not have itself."""
    found = []

    def ask():
        try:
            found.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise socket.timeout("timed out")
    if isinstance(found[0], UnicodeError):
        raise OSError(f"{host} is not a valid host name")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


class _Patient:
    """A connection that is made within CONNECT_SECONDS and then waits for STALL_SECONDS."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._create_connection = connect

    def connect(self):
        super().connect()
        self.sock.settimeout(STALL_SECONDS)


class _Plain(_Patient, http.client.HTTPConnection):
    pass


class _Encrypted(_Patient, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Plain, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, context):
        super().__init__(context=context)
        self.context = context

    def https_open(self, request):
        return self.do_open(_Encrypted, request, context=self.context)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP and HTTPS; a password goes to no host but the one it is for."""

    def redirect_request(self, request, response, code, message, headers, url):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(
                shown(request.full_url), code, "redirected away from HTTP", headers, response
            )
        redirected = make_request(url)
        for name, value in request.headers.items():
            if name != "Proxy-authorization":  # added anew, if the proxy is used again
                redirected.add_header(name, value)
        old, new = (urllib.parse.urlsplit(one.full_url) for one in (request, redirected))
        if (old.scheme, old.netloc) == (new.scheme, new.netloc):
            for name, value in request.unredirected_hdrs.items():
                if name == "Authorization" and not redirected.has_header(name):
                    redirected.add_unredirected_header(name, value)
        return redirected

    def http_error_308(self, request, response, code, message, headers):  # Python 3.9 lacks it
        return self.http_error_302(request, response, code, message, headers)
