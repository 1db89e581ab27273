"""The service as a process of its own, for the tests that use it over HTTP."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time

from catsdogs import paths


class Service:
    """A running service: its process and its port."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def ask(self, method="GET", path="/health", body=None, headers=None, timeout=30):
        """Status, headers in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return (
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def predict(self, *photos, path="/predict", names=()):
        """Status and JSON for `photos`, each bytes, sent as a form; `names` for their files."""
        kind, body = form(*photos, names=names)
        status, _, answer = self.ask("POST", path, body, {"Content-Type": kind})
        return status, json.loads(answer)

    def memory(self):
        """Bytes in memory; 0 outside Linux."""
        try:
            with open(f"/proc/{self.process.pid}/status") as lines:
                return next(
                    int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")
                )
        except OSError:
            return 0


def form(*photos, names=()):
    """A form with `photos` as files: its content type and its body."""
    parts = []
    for index, photo in enumerate(photos):
        name = names[index] if index < len(names) else f"{index}.jpg"
        parts.append(
            b'--part\r\nContent-Disposition: form-data; name="photos"; filename="'
            + name.encode()
            + b'"\r\nContent-Type: image/jpeg\r\n\r\n'
            + photo
            + b"\r\n"
        )
    return "multipart/form-data; boundary=part", b"".join([*parts, b"--part--\r\n"])


@contextlib.contextmanager
def running(*arguments, code=None):
    """A service on a free port, ready; `code` is Python that its process runs first."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = (
        f"import sys; {code or 'pass'}; from catsdogs.cli import main; "
        f"sys.exit(main(['serve', '--port', '{port}', *{list(map(str, arguments))!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start],
        cwd=paths.PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    service = Service(process, port)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                if service.ask()[0] == 200:
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service did not start: {process.communicate()}")
            time.sleep(0.02)
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close(), process.stderr.close()
