"""catsdogs/data/fetch.py: what networks, proxies and servers do to a download."""

import base64
import contextlib
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

from catsdogs.data import fetch as module
from catsdogs.data.errors import ArchiveError, DownloadError, UnreachableError

CONTENT = bytes(range(256)) * 400
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Handler(http.server.BaseHTTPRequestHandler):
    """The path says what happens; ``/file`` is a good server that can resume."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def start(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def do_GET(self):
        self.server.requests.append((self.path, self.headers))
        what = urllib.parse.urlsplit(self.path).path.strip("/")
        first = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        rest = CONTENT[first:]
        with contextlib.suppress(OSError):
            if what.startswith("redirect-"):  # redirect-STATUS?TARGET
                target = urllib.parse.unquote(urllib.parse.urlsplit(self.path).query)
                self.start(int(what[-3:]), Location=target, Content_Length=0)
            elif what == "slow" and not first:
                self.start(200, Content_Length=len(rest))
                for at in range(0, 4000, 4):
                    self.wfile.write(rest[at : at + 4])
                    if self.server.released.wait(0.02):
                        break
                self.close_connection = True
            elif what == "mute" or (what == "stall" and not first):
                if what == "stall":
                    self.start(200, Content_Length=len(rest))
                    self.wfile.write(rest[:1000])
                self.server.released.wait(20)
                self.close_connection = True
            elif what in ("chunked", "chunked-broken"):
                self.start(200, Transfer_Encoding="chunked")
                for at in range(0, len(CONTENT), 5000):
                    block = CONTENT[at : at + 5000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
                    if what == "chunked-broken" and len(self.server.requests) == 1:
                        self.close_connection = True
                        return
                self.wfile.write(b"0\r\n\r\n")
            elif what == "no-length":
                self.start(200, Connection="close")
                self.wfile.write(CONTENT)
            elif what == "wrong-range" and first:
                wrong = f"bytes {first + 5}-{len(CONTENT) - 1}/{len(CONTENT)}"
                self.start(206, Content_Length=len(rest) - 5, Content_Range=wrong)
                self.wfile.write(rest[5:])
            elif what == "no-answer":
                self.close_connection = True
            elif first:
                span = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
                self.start(206, Content_Length=len(rest), Content_Range=span)
                self.wfile.write(rest)
            else:
                self.start(200, Content_Length=len(rest))
                self.wfile.write(rest)


@contextlib.contextmanager
def serving(context=None):
    """A running server; `context` makes it an HTTPS server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.released = [], threading.Event()
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # handshakes that fail, as they should
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def complete(file):
    if file.read_bytes() != CONTENT:
        raise ArchiveError("not the file")


@pytest.fixture
def fetch(tmp_path):
    """``fetch(url)``: downloads it; returns the file."""

    def run(url, tries=3, part=b""):
        file = tmp_path / "file"
        if part:
            (tmp_path / "file.part").write_bytes(part)
        module.fetch(url, file, complete, tries=tries, pause=0.01, advice="go elsewhere")
        assert file.read_bytes() == CONTENT and os.listdir(tmp_path) == ["file"]
        return file

    return run


def redirect(server, target, status=302, host=None):
    url = f"{server.url}/redirect-{status}?{urllib.parse.quote(target)}"
    return url.replace("127.0.0.1", host) if host else url


# --- redirects and passwords -------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_keep_the_range(server, fetch, status):
    fetch(redirect(server, "/file", status), part=CONTENT[:700])
    assert [path for path, _ in server.requests][1:] == ["/file"]
    assert [headers["Range"] for _, headers in server.requests] == ["bytes=700-"] * 2


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file", "data:,x"])
def test_redirects_away_from_http_are_not_followed(server, fetch, tmp_path, target):
    with pytest.raises(UnreachableError, match="HTTP 302"):
        fetch(redirect(server, target))
    assert not os.listdir(tmp_path)


def test_redirects_in_a_circle_end(server, fetch):
    with pytest.raises(UnreachableError, match="HTTP 302"):
        fetch(redirect(server, "/redirect-302?/redirect-302"), tries=1)
    assert len(server.requests) < 20


def with_password(url):
    return url.replace("://", "://me:p%40ss@")


BASIC = "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_a_password_in_the_address_is_sent_and_not_shown(server, fetch, capsys):
    fetch(with_password(f"{server.url}/file?signature=secret"))
    assert server.requests[0][1]["Authorization"] == BASIC
    assert server.requests[0][0] == "/file?signature=secret"
    shown = "".join(capsys.readouterr())
    assert f"{server.url}/file" in shown and "p%40ss" not in shown and "secret" not in shown


def test_a_password_is_sent_to_its_own_host_only(server, fetch, tmp_path):
    fetch(with_password(redirect(server, "/file")))
    assert server.requests[1][1]["Authorization"] == BASIC
    (tmp_path / "file").unlink()
    other = f"http://localhost:{server.server_port}/file"
    fetch(with_password(redirect(server, other)))
    assert server.requests[3][1]["Authorization"] is None


@pytest.mark.parametrize(
    "url",
    [
        "cats.zip",
        "ftp://me:secret@host/cats.zip",
        "file:///secret/cats.zip",
        "https:/me:secret@host/cats.zip",
        "http://",
        "http://[::1/secret",
        "http://me:secret@host:port/cats.zip",
        "http://my secret host/cats.zip",
    ],
)
def test_addresses_that_make_no_sense(url):
    with pytest.raises(DownloadError, match="CATSDOGS_URL is not a valid address") as caught:
        module.check_address(url)
    assert "secret" not in str(caught.value) and caught.value.status == 1


def test_addresses_as_people_paste_them(server, fetch):
    module.check_address(f"{server.url}/my cäts.zip")
    fetch(f"{server.url}/my cäts%20(1).zip#top")
    assert server.requests[0][0] == "/my%20c%C3%A4ts%20(1).zip"


# --- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment_are_used(server, fetch, monkeypatch, variable, tmp_path):
    monkeypatch.setenv(variable, with_password(server.url))
    fetch("http://nowhere.invalid/file")
    path, headers = server.requests[0]
    assert path == "http://nowhere.invalid/file" and headers["Proxy-Authorization"] == BASIC
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "file").unlink()
    fetch(f"{server.url}/file")
    assert server.requests[1][0] == "/file" and "Proxy-Authorization" not in server.requests[1][1]


def test_a_password_for_the_proxy_is_not_redirected(server, fetch, monkeypatch):
    monkeypatch.setenv("http_proxy", with_password(server.url))
    monkeypatch.setenv("no_proxy", "localhost")
    target = f"http://localhost:{server.server_port}/file"
    fetch(f"http://nowhere.invalid/redirect-302?{target}")
    assert "Proxy-Authorization" not in server.requests[1][1]


def test_proxies_of_other_kinds_are_refused(server, fetch, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@127.0.0.1:9")
    with pytest.raises(DownloadError, match="a socks5 proxy; an HTTP proxy was expected") as caught:
        fetch(f"{server.url}/file")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://me:secret@127.0.0.1:9", "http:/me:secret@host"])
def test_a_proxy_that_does_not_work_is_unreachable(server, fetch, monkeypatch, proxy, capsys):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UnreachableError, match="Cannot reach") as caught:
        fetch(f"{server.url}/file")
    assert "secret" not in str(caught.value) + "".join(capsys.readouterr())


# --- servers that break, stall, or say little --------------------------------------------------


@pytest.mark.parametrize("path", ["slow", "stall"])
def test_a_connection_that_brings_too_little_is_given_up_and_resumed(
    server, fetch, monkeypatch, path
):
    monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2)
    fetch(f"{server.url}/{path}")
    first, second = (headers["Range"] for _, headers in server.requests)
    assert first is None and 0 < int(second[len("bytes=") : -1]) <= 1000


def test_a_server_that_never_answers_is_unreachable(server, fetch, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    with pytest.raises(UnreachableError, match="timed out"):
        fetch(f"{server.url}/mute")
    assert len(server.requests) == 1


def test_a_server_that_hangs_up_is_tried_again(server, fetch):
    with pytest.raises(UnreachableError, match="No answer from .* in 3 tries"):
        fetch(f"{server.url}/no-answer")
    assert len(server.requests) == 3


@pytest.mark.parametrize("path", ["no-length", "chunked", "chunked-broken"])
def test_bodies_without_a_length(server, fetch, path):
    fetch(f"{server.url}/{path}")
    assert len(server.requests) == 1 + (path == "chunked-broken")


def test_a_range_that_was_not_asked_for_is_not_appended(server, fetch):
    fetch(f"{server.url}/wrong-range", part=CONTENT[:700])
    assert [headers["Range"] for _, headers in server.requests] == ["bytes=700-", None]


# --- finding and connecting --------------------------------------------------------------------


def test_an_address_that_drops_packets_leaves_time_for_the_next(server, fetch, monkeypatch):
    """As where IPv6 leads nowhere: a queue of connections that nobody accepts stands for it."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(silent.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", where)
            for where in (silent.getsockname(), server.server_address)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
        before = time.monotonic()
        fetch("http://two-addresses.example/file")
        assert 0.4 < time.monotonic() - before < 3


def test_a_name_look_up_that_takes_too_long(fetch, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(20))
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    before = time.monotonic()
    with pytest.raises(UnreachableError, match="timed out"):
        fetch("http://slow-names.example/file")
    assert time.monotonic() - before < 3


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
def test_names_that_no_host_can_have(fetch, host):
    with pytest.raises(UnreachableError, match="Cannot reach"):
        fetch(f"http://{host}/file")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("making a certificate needs the openssl command")
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-keyout", key, "-out", made, "-subj", "/CN=127.0.0.1"]
        + ["-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_bytes(made.read_bytes() + key.read_bytes())
    return both


def test_https(certificate, fetch, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as server:
        with pytest.raises(UnreachableError, match="its certificate cannot be verified: self"):
            fetch(f"{server.url}/file")
        assert not server.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch(f"{server.url}/file", part=CONTENT[:100])
        assert server.requests[0][1]["Range"] == "bytes=100-"
