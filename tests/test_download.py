"""Downloading, as a user starts it: from each source, and in each way that it can go wrong."""

import ast
import contextlib
import errno
import hashlib
import http.server
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from catsdogs import paths
from catsdogs.data import archives, check, progress, store, unpack
from catsdogs.data import download as downloading
from catsdogs.serving.photos import find_photos

SCRIPT = paths.PROJECT / "download_data.sh"
TOKEN = "KGAT_0123456789abcdef"
NUMBERS = range(0, 6)


def jpeg(seed: int) -> bytes:
    """A small JPEG of noise."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (24, 24), random.Random(seed).randbytes(24 * 24 * 3)).save(
        stream, "JPEG"
    )
    return stream.getvalue()


CATS = {n: jpeg(n) for n in NUMBERS}
DOGS = {n: jpeg(100 + n) for n in NUMBERS}
UNLABELLED = {n: jpeg(200 + n) for n in range(1, 4)}
MICROSOFT = {
    **{f"PetImages/Cat/{n}.jpg": b for n, b in CATS.items()},
    **{f"PetImages/Dog/{n}.jpg": b for n, b in DOGS.items()},
    "PetImages/": b"",
    "PetImages/Cat/Thumbs.db": b"thumbs",
    "readme[1].txt": b"read me",
}
TRAIN = {
    "train/": b"",
    **{f"train/cat.{n}.jpg": b for n, b in CATS.items()},
    **{f"train/dog.{n}.jpg": b for n, b in DOGS.items()},
}


def zipped(members) -> bytes:
    """A zip of {name or ZipInfo: content}, or of a list of such pairs."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as out:
        for name, content in members.items() if isinstance(members, dict) else members:
            out.writestr(
                name, content, zipfile.ZIP_DEFLATED if len(content) > 10**6 else zipfile.ZIP_STORED
            )
    return stream.getvalue()


def kaggle_zip(test: str) -> bytes:
    """As Kaggle packs a competition: archives in an archive. `test`: test1 (2013), test (2016)."""
    unlabelled = zipped({f"{test}/{n}.jpg": b for n, b in UNLABELLED.items()})
    return zipped(
        {"sampleSubmission.csv": b"id", f"{test}.zip": unlabelled, "train.zip": zipped(TRAIN)}
    )


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """An empty data folder, for the script and for this process."""
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def start(
    data, *arguments, cwd=None, command=("bash",), preexec_fn=None, **environment
) -> subprocess.Popen:
    """Start the script in a process group of its own, without our credentials or proxies."""
    unwanted = ("kaggle", "catsdogs", "xdg", "http_", "https_", "all_")
    inherited = {
        name: value for name, value in os.environ.items() if not name.lower().startswith(unwanted)
    }
    (data.parent / "home").mkdir(exist_ok=True)

    def prepare():
        # Whoever runs the tests in the background may ignore these, and a child inherits that.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if preexec_fn:
            preexec_fn()

    return subprocess.Popen(
        [*command, str(SCRIPT), *map(str, arguments)],
        cwd=cwd,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        preexec_fn=prepare,
        env={
            **inherited,
            "HOME": str(data.parent / "home"),
            "CATSDOGS_DATA": str(data),
            "no_proxy": "*",
            "CATSDOGS_PAUSE": "0.1",
            "CATSDOGS_TRIES": "3",
            **environment,
        },
    )


def download(data: Path, *arguments, **options) -> subprocess.CompletedProcess:
    """Run the script to its end. Whatever happens, it leaves no traceback and nothing half-made."""
    process = start(data, *arguments, **options)
    out, err = process.communicate(timeout=50)
    assert "Traceback" not in out + err
    assert not (data / ".unpacking").exists() and not (data / ".unpacked").exists()
    if process.returncode:
        assert err.strip(), "a failure must be explained"
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def contents(folder: Path) -> dict:
    """{number: bytes} of the photos in a folder."""
    return {int(photo.stem): photo.read_bytes() for photo in folder.iterdir()}


def assert_real(data: Path, source: str) -> dict:
    """All photos of the test archives are there, and nothing else; returns source.json."""
    assert sorted(os.listdir(data / "PetImages")) == ["Cat", "Dog"]
    assert contents(data / "PetImages/Cat") == CATS and contents(data / "PetImages/Dog") == DOGS
    record = json.loads((data / "source.json").read_text())
    assert record["source"] == source and record["photos"] == {"Cat": len(CATS), "Dog": len(DOGS)}
    assert record["finished"].endswith("+00:00")
    assert not (data / "downloads").exists(), "archives are kept only while incomplete"
    return record


def assert_nothing(data: Path):
    """No photos, whole or half-made."""
    assert set(os.listdir(data)) <= {".lock", "downloads"}


def write_zip(data: Path, content: bytes, name="photos.zip") -> Path:
    file = data.parent / name
    file.write_bytes(content)
    return file


def put_photos(data: Path, cats=range(1, 4), dogs=range(1, 4)):
    """Other photos than those in the archives, as a user might have put them there."""
    for folder, numbers in (("Cat", cats), ("Dog", dogs)):
        (data / "PetImages" / folder).mkdir(parents=True, exist_ok=True)
        for n in numbers:
            (data / "PetImages" / folder / f"{n}.jpg").write_bytes(f"{folder} {n}".encode())


def put_synthetic(data: Path):
    """Photos that pass for synthetic ones."""
    put_photos(data)
    record = {
        "source": "synthetic",
        "photos": {"Cat": 3, "Dog": 3},
        "sha256": store.digest(data / "PetImages"),
    }
    store.write_record(data / "source.json", record)


# --- microsoft: a server that answers as the real one, well and badly --------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `answers` says how, one word per request; after those, well."""

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.answers, self.ranges, self.release = content, [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cats.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; the words of ``Server.answers`` are explained here."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        server.ranges.append(span)
        answer = server.answers.pop(0) if server.answers else "good"
        content, status, extra = server.content, 200, {}
        first = int(span[len("bytes=") : -1]) if span and answer != "no ranges" else 0
        if isinstance(answer, int):  # an error status
            status, content = answer, b"<html>error</html>"
        elif answer == "web page":  # 200, but of something else, as from a hotel's login page
            content = b"<!DOCTYPE html><html>Log in</html>"
        elif answer == "truncated":  # whole as far as HTTP can tell
            content = content[:-500]
        elif first >= len(content):
            status, content, extra = 416, b"", {"Content-Range": f"bytes */{len(content)}"}
        elif first:
            status, extra = (
                206,
                {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"},
            )
            content = content[first:]
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **extra}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if answer in (
            "drop",
            "hang",
        ):  # half of it, then the connection is lost, or nothing more comes
            content = content[: len(content) // 2]
            self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(content)
            self.wfile.flush()
            if answer == "hang":
                server.release.wait(30)


@pytest.fixture
def server():
    """A running ``Server`` of Microsoft's layout."""
    served = Server(zipped(MICROSOFT))
    threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
    yield served
    served.release.set()
    served.shutdown()
    served.server_close()


def part(data: Path) -> Path:
    """The incomplete download."""
    [found] = (data / "downloads").glob("*.part")
    return found


def test_microsoft(data, server):
    done = download(data, CATSDOGS_URL=server.url)
    assert done.returncode == 0, done.stderr
    record = assert_real(data, "microsoft")
    assert record["bytes"] == len(server.content) and record["archive"].endswith("cats.zip")
    assert (
        record["sha256"] == hashlib.sha256(server.content).hexdigest() and record["unlabelled"] == 0
    )
    assert "\r" not in done.stderr, "no progress bar without a terminal"

    before = time.monotonic()
    again = download(data, CATSDOGS_URL=server.url)
    assert again.returncode == 0 and "6 cats and 6 dogs" in again.stdout and server.ranges == [None]
    assert time.monotonic() - before < 2


def test_dropped_connection_is_resumed(data, server):
    server.answers = ["drop", "drop"]
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")
    half = len(server.content) // 2
    assert server.ranges == [
        None,
        f"bytes={half}-",
        f"bytes={half + (len(server.content) - half) // 2}-",
    ]


def test_lost_network_keeps_what_came(data, server):
    server.answers = ["drop"]
    lost = download(data, CATSDOGS_URL=server.url, CATSDOGS_TRIES="1")
    assert lost.returncode == 1 and "Run this again" in lost.stderr
    assert part(data).read_bytes() == server.content[: len(server.content) // 2]
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert server.ranges[1] == f"bytes={len(server.content) // 2}-"
    assert_real(data, "microsoft")


def test_range_ignored(data, server):
    server.answers = ["drop", "no ranges", "no ranges"]
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")


@pytest.mark.parametrize("stale", [False, True])
def test_416(data, server, stale):
    server.answers = ["drop"]
    download(data, CATSDOGS_URL=server.url, CATSDOGS_TRIES="1")
    part(data).write_bytes(b"x" * 2 * len(server.content) if stale else server.content)
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")
    assert len(server.ranges) == 2 + stale, "a complete part is not fetched again, a stale one is"


def test_leftover_of_another_file(data, server):
    server.answers = ["drop"]
    download(data, CATSDOGS_URL=server.url, CATSDOGS_TRIES="1")
    part(data).write_bytes(b"x" * (len(server.content) - 100))  # resumes well, and is no zip
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_address_gone(data, server, status):
    server.answers = [status] * 5
    gone = download(data, CATSDOGS_URL=server.url)
    assert gone.returncode == 3 and len(server.ranges) == 1
    for word in (str(status), "CATSDOGS_URL", "kaggle", "zip FILE", "synthetic"):
        assert word in gone.stderr
    assert_nothing(data)


def test_server_error_is_retried(data, server):
    server.answers = [503, 500]
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")
    server.answers = [503] * 9
    shutil.rmtree(data)
    assert download(data, CATSDOGS_URL=server.url).returncode == 3 and len(server.answers) == 6


@pytest.mark.parametrize(
    "answer, found", [("web page", "is a web page"), ("truncated", "is cut short")]
)
def test_wrong_file(data, server, answer, found):
    server.answers = [answer]
    wrong = download(data, CATSDOGS_URL=server.url)
    assert wrong.returncode == 1 and found in wrong.stderr
    assert_nothing(data)
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")


def test_damaged_download_is_removed(data, server):
    good, server.content = server.content, server.content.replace(CATS[3], CATS[3][:-1] + b"?")
    damaged = download(data, CATSDOGS_URL=server.url)
    assert (
        damaged.returncode == 1
        and "Cat/3.jpg" in damaged.stderr
        and "run this again" in damaged.stderr
    )
    assert_nothing(data)
    server.content = good
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert_real(data, "microsoft")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/cats.zip", "http://nowhere.invalid/cats.zip"])
def test_no_network(data, url):
    before = time.monotonic()
    lost = download(data, CATSDOGS_URL=url, CATSDOGS_PAUSE="60")
    assert lost.returncode == 3 and "Cannot reach" in lost.stderr and "synthetic" in lost.stderr
    assert time.monotonic() - before < 12
    assert_nothing(data)


def test_silent_network(data):
    """An address that drops every packet: a queue of connections that nobody accepts fills up."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(silent.getsockname())
        before = time.monotonic()
        lost = download(data, CATSDOGS_URL=f"http://127.0.0.1:{silent.getsockname()[1]}/cats.zip")
        assert (
            lost.returncode == 3
            and "Cannot reach" in lost.stderr
            and time.monotonic() - before < 12
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_download_is_resumed(data, server, number):
    server.answers = ["hang"]
    running = start(data, CATSDOGS_URL=server.url)
    wait_for(lambda: list(data.glob("downloads/*.part")) and part(data).stat().st_size)
    running.send_signal(number)
    _, err = running.communicate(timeout=10)
    assert running.returncode == 130 and "Stopped" in err and "run this again" in err
    size = part(data).stat().st_size
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert server.ranges == [None, f"bytes={size}-"]
    assert_real(data, "microsoft")


def test_what_nohup_ignores_stays_ignored(data, server):
    server.answers = ["hang"]
    running = start(data, command=("nohup", "bash"), CATSDOGS_URL=server.url)
    wait_for(lambda: list(data.glob("downloads/*.part")) and part(data).stat().st_size)
    running.send_signal(signal.SIGHUP)
    server.release.set()
    running.communicate(timeout=20)
    assert running.returncode == 0
    assert_real(data, "microsoft")


def test_two_at_once(data, server):
    server.answers = ["hang"]
    running = start(data, CATSDOGS_URL=server.url)
    wait_for(lambda: server.ranges)
    second = download(data, "zip", write_zip(data, zipped(MICROSOFT)))
    assert (
        second.returncode == 1
        and "Another run" in second.stderr
        and not (data / "PetImages").exists()
    )
    server.release.set()
    running.communicate(timeout=20)
    assert running.returncode == 0  # the lost connection is resumed
    assert_real(data, "microsoft")


def test_many_starts_at_once(data, server):
    """One of them downloads; none makes it fail."""
    runs = [start(data, CATSDOGS_URL=server.url) for _ in range(5)]
    ends = [(run.communicate(timeout=50)[1], run.returncode) for run in runs]
    assert any(status == 0 for _, status in ends)
    assert all("Another run" in err for err, status in ends if status)
    assert server.ranges == [None], "nothing is downloaded twice"
    assert_real(data, "microsoft")


@pytest.mark.parametrize(
    "name, value",
    [
        ("CATSDOGS_TRIES", "abc"),
        ("CATSDOGS_TRIES", "0"),
        ("CATSDOGS_TRIES", "-1"),
        ("CATSDOGS_TRIES", "2.5"),
        ("CATSDOGS_TRIES", "9999999"),
        ("CATSDOGS_PAUSE", "-1"),
        ("CATSDOGS_PAUSE", "nan"),
        ("CATSDOGS_PAUSE", "a while"),
    ],
)
def test_settings_that_are_no_numbers(data, server, monkeypatch, capsys, name, value):
    monkeypatch.setenv("CATSDOGS_URL", server.url)
    monkeypatch.setenv(name, value)
    assert downloading.main([]) == 1
    said = capsys.readouterr().err
    assert f"{name} is {value!r}" in said and "was expected" in said and not server.ranges
    assert_nothing(data)


def test_a_home_of_nobody_is_a_folder_like_any_other(data, tmp_path):
    file = write_zip(data, zipped(MICROSOFT))
    assert download(data, "zip", file, cwd=tmp_path, CATSDOGS_DATA="~nobody-at-all").returncode == 0
    assert_real(tmp_path / "~nobody-at-all", "zip")


def test_an_address_that_makes_no_sense(data):
    wrong = download(data, CATSDOGS_URL="htp:/me:secret@host/cats.zip")
    assert wrong.returncode == 1 and "Correct CATSDOGS_URL" in wrong.stderr
    assert "secret" not in wrong.stderr
    assert_nothing(data)


def test_unknown_checksum_is_told_and_contents_decide(data):
    # Complete, but killed before it was unpacked; for the default address the checksum is known.
    (data / "downloads").mkdir(parents=True)
    (data / "downloads/kagglecatsanddogs_5340.zip").write_bytes(zipped(MICROSOFT))
    done = download(data)
    assert done.returncode == 0 and "SHA-256" in done.stderr
    assert_real(data, "microsoft")


def test_password_in_an_address_is_not_shown(data):
    lost = download(data, CATSDOGS_URL="http://me:secret@127.0.0.1:9/cats.zip?sig=secret")
    assert lost.returncode == 3 and "secret" not in lost.stdout + lost.stderr


# --- kaggle: a stand-in for the command --------------------------------------------------------

# As kaggle 2.2.4 does.
# - kaggle/cli.py main(): a 401 prints print_auth_help() to stdout, other HTTPErrors go to stderr;
#   exit 1.
# - kagglesdk/kaggle_http_client.py _prepare_response(): the text of an error is the server's JSON
#   "message" if there is one, else that of requests: "403 Client Error: Forbidden for url: ...".
# - kaggle/api/kaggle_api_extended.py authenticate(): without valid credentials, or with a token
#   that _introspect_token() is refused for, print_auth_help() and exit 1; the help comes twice, as
#   `import kaggle` tries it too. Without network _introspect_token() ends in a traceback.
# - competition_download_files() writes FOLDER/COMPETITION.zip, competition_download_file()
#   FOLDER/FILE; download_file() keeps FILE.kaggle-partial beside an incomplete file; -q prints
#   nothing.
# One thing is worse than in the real one, where it takes VERBOSE: every answer shows the token.
FAKE_KAGGLE = """#!{python}
import os, pathlib, sys
_, _, competition, *options = sys.argv[1:]
if os.environ["VERBOSE"] != "false":  # the caller's "true" must not get here
    sys.exit("verbose")
options = dict(zip(options[::2], options[1::2]))
answers = dict(pair.split("=") for pair in os.environ["FAKE"].split())
answer = answers.get(competition, "404")
print("Authorization: Bearer", os.environ.get("KAGGLE_API_TOKEN"))
with open(os.environ["FAKE_LOG"], "a") as log:
    print(competition, options.get("-f", "all"), file=log)
folder = pathlib.Path(options["-p"])
if answer == "good":
    name = options.get("-f", competition + ".zip")
    source = pathlib.Path(os.environ["FAKE_FILES"]) / (competition + "-" + name)
    (folder / name).write_bytes(source.read_bytes())
    sys.exit()
if answer == "hang":
    import time
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(30)
if answer == "cancelled":
    (folder / (competition + ".zip")).write_bytes(b"PK")
    (folder / (competition + ".zip.kaggle-partial")).write_text("{{}}")
    print("User cancelled operation")
    sys.exit()
if answer == "401":
    for _ in range(2):
        print("Authentication required to call the Kaggle API.\\n\\nYou will need an account.")
elif answer == "401-json":
    print("401 Client Error: Unauthorized for url: https://api.kaggle.com/v1/x", file=sys.stderr)
elif answer == "403":
    sys.stderr.write("You must accept this competition's rules before you'll be able to "
                     "download files.\\n")
elif answer == "403-plain":
    print("403 Client Error: Forbidden for url: https://api.kaggle.com/v1/x", file=sys.stderr)
elif answer == "404":
    print("404 Client Error: Not Found for url: https://api.kaggle.com/v1/x", file=sys.stderr)
elif answer == "network":
    print("Traceback (most recent call last):\\n"
          "requests.exceptions.ConnectionError: HTTPSConnectionPool("
          "host='api.kaggle.com', port=443): Max retries exceeded with url: /v1/x", file=sys.stderr)
sys.exit(1)
"""
FIRST, SECOND = "dogs-vs-cats", "dogs-vs-cats-redux-kernels-edition"


def kaggle(data: Path, answers: dict, *, run=None, command=("bash",), **environment):
    """Run ``download_data.sh kaggle`` with a kaggle that answers so; returns run and requests.

    `run` is `download`, or `start`.
    """
    folder = data.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "kaggle").write_text(FAKE_KAGGLE.format(python=sys.executable))
    (folder / "kaggle").chmod(0o755)
    for competition, test in ((FIRST, "test1"), (SECOND, "test")):
        (folder / f"{competition}-{competition}.zip").write_bytes(kaggle_zip(test))
        unlabelled = zipped({f"{test}/{n}.jpg": b for n, b in UNLABELLED.items()})
        (folder / f"{competition}-{test}.zip").write_bytes(unlabelled)
    log = data.parent / "requests"
    log.write_text("")
    done = (run or download)(
        data,
        "kaggle",
        command=command,
        PATH=f"{folder}:{os.environ['PATH']}",
        FAKE_LOG=str(log),
        CATSDOGS_KAGGLE="kaggle",
        FAKE=" ".join(f"{c}={a}" for c, a in answers.items()),
        FAKE_FILES=str(folder),
        VERBOSE="true",
        **environment,
    )
    if run:
        return done, log
    assert TOKEN not in done.stdout + done.stderr
    for file in data.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()
    return done, log.read_text().splitlines()


@pytest.mark.parametrize("refused", [None, "403", "403-plain"])
def test_kaggle(data, refused):
    """Both competitions, each in its own layout; the second is asked when the first refuses."""
    done, requests = kaggle(
        data, {FIRST: refused or "good", SECOND: "good"}, KAGGLE_API_TOKEN=TOKEN
    )
    assert done.returncode == 0, done.stderr
    assert requests == [f"{FIRST} all"] + [f"{SECOND} all"] * bool(refused)
    assert assert_real(data, "kaggle")["unlabelled"] == len(UNLABELLED)
    assert contents(data / "test") == UNLABELLED
    assert kaggle(data, {})[1] == [], "all is there"


def test_kaggle_competition_can_be_chosen(data):
    done, requests = kaggle(data, {SECOND: "good"}, CATSDOGS_COMPETITION=SECOND)
    assert done.returncode == 0 and requests == [f"{SECOND} all"]


def test_kaggle_adds_test_photos_to_real_ones(data):
    assert download(data, "zip", write_zip(data, zipped(MICROSOFT))).returncode == 0
    done, requests = kaggle(data, {FIRST: "403", SECOND: "good"})
    assert done.returncode == 0 and requests == [f"{FIRST} test1.zip", f"{SECOND} test.zip"]
    assert assert_real(data, "zip")["unlabelled"] == len(UNLABELLED)
    assert contents(data / "test") == UNLABELLED


def kaggle_json(home: Path):
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle/kaggle.json").write_text(json.dumps({"username": "me", "key": TOKEN}))


def access_token(home: Path):
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle/access_token").write_text(TOKEN)


@pytest.mark.parametrize(
    "prepare, environment, place",
    [
        (None, {"KAGGLE_API_TOKEN": TOKEN}, "KAGGLE_API_TOKEN"),
        (access_token, {}, ".kaggle/access_token"),
        (None, {"KAGGLE_USERNAME": "me", "KAGGLE_KEY": TOKEN}, "KAGGLE_USERNAME and KAGGLE_KEY"),
        (kaggle_json, {}, ".kaggle/kaggle.json"),
        (kaggle_json, {"KAGGLE_CONFIG_DIR": "home/.kaggle"}, ".kaggle/kaggle.json"),
    ],
)
@pytest.mark.parametrize("answer", ["401", "401-json"])
def test_kaggle_refused_credentials(data, prepare, environment, place, answer):
    if prepare:
        prepare(data.parent / "home")
    if "KAGGLE_CONFIG_DIR" in environment:
        environment = {"KAGGLE_CONFIG_DIR": str(data.parent / "home/.kaggle")}
    done, requests = kaggle(data, {FIRST: answer, SECOND: "good"}, **environment)
    assert done.returncode == 1 and "(401)" in done.stderr and place in done.stderr
    assert "Generate New Token" in done.stderr and requests == [f"{FIRST} all"]
    assert_nothing(data)


def test_kaggle_without_credentials(data):
    done, _ = kaggle(data, {FIRST: "401"})
    assert done.returncode == 1 and "No Kaggle credentials" in done.stderr
    assert "Generate New Token" in done.stderr and "~/.kaggle/access_token" in done.stderr
    assert "401" not in done.stderr
    assert_nothing(data)


def test_kaggle_rules_not_accepted(data):
    done, requests = kaggle(data, {FIRST: "403", SECOND: "403"}, KAGGLE_API_TOKEN=TOKEN)
    assert done.returncode == 1 and "(403)" in done.stderr and len(requests) == 2
    assert f"https://www.kaggle.com/competitions/{SECOND}/rules" in done.stderr
    assert_nothing(data)


@pytest.mark.parametrize(
    "answer, status, words",
    [
        ("network", 3, "Cannot reach Kaggle"),
        ("404", 1, "(404)"),
        ("new", 1, "failed (exit status 1)"),
        ("cancelled", 1, "no archive"),
    ],
)
def test_kaggle_other_failures(data, answer, status, words):
    done, _ = kaggle(data, {FIRST: answer}, KAGGLE_API_TOKEN=TOKEN)
    assert done.returncode == status and words in done.stderr
    assert not (data / "PetImages").exists()


def test_token_is_not_traced(data):
    done, _ = kaggle(data, {FIRST: "401"}, KAGGLE_API_TOKEN=TOKEN, command=("bash", "-x"))
    assert done.returncode == 1 and "set -u" in done.stderr, "the trace was on"


def alive(pid: int) -> bool:
    """Whether a process runs, and is not merely waiting for its parent to notice its end."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_while_kaggle_downloads(data, number):
    running, _ = kaggle(data, {FIRST: "hang"}, run=start)
    written = data / f"downloads/{FIRST}/pid"
    wait_for(lambda: written.exists() and written.read_text())
    child = int(written.read_text())
    try:
        running.send_signal(number)
        if number == signal.SIGTERM:
            _, err = running.communicate(timeout=10)
            assert running.returncode == 130 and "Stopped" in err and not alive(child)
        else:
            running.wait(timeout=10)
            assert alive(child), "nobody was left to stop it"
            second = download(data, "zip", write_zip(data, zipped(MICROSOFT)))
            assert second.returncode == 1 and "Another run" in second.stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        running.communicate(timeout=10)


def test_kaggle_competition_that_cannot_be_one(data):
    done, requests = kaggle(data, {}, CATSDOGS_COMPETITION="../elsewhere")
    assert done.returncode == 1 and "CATSDOGS_COMPETITION is" in done.stderr and not requests
    assert_nothing(data)


def test_kaggle_command_missing(data):
    done = download(data, "kaggle", CATSDOGS_KAGGLE="no-such-command")
    assert done.returncode == 1 and "make install" in done.stderr


# --- zip: layouts, and archives nobody should unpack -------------------------------------------


@pytest.mark.parametrize(
    "content, unlabelled",
    [
        (zipped(MICROSOFT), 0),
        (zipped(TRAIN), 0),
        (kaggle_zip("test1"), 3),
        (kaggle_zip("test"), 3),
        (zipped({name.replace("/", "\\"): b for name, b in MICROSOFT.items()}), 0),
    ],
)
def test_zip_layouts(data, content, unlabelled):
    file = write_zip(data, content)
    done = download(data, "zip", "photos.zip", cwd=file.parent)
    assert done.returncode == 0, done.stderr
    assert assert_real(data, "zip")["unlabelled"] == unlabelled
    assert (contents(data / "test") == UNLABELLED) if unlabelled else not (data / "test").exists()
    assert file.read_bytes() == content, "an archive of the user's is left alone"


def link(name: str) -> zipfile.ZipInfo:
    """A member that is a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(content: bytes) -> bytes:
    """The same zip with the flag "encrypted" set on each member."""
    return with_headers(content, 1, 6, 8)


def damaged(content: bytes) -> bytes:
    """The same zip with one byte of Dog/2.jpg changed."""
    return content.replace(DOGS[2], DOGS[2][:-1] + b"?")


def with_headers(content: bytes, value: int, local: int | None, central: int) -> bytes:
    """The same zip with a 16-bit value at these offsets in each member's two headers."""
    content = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.find(magic)
        while offset is not None and at >= 0:
            content[at + offset : at + offset + 2] = value.to_bytes(2, "little")
            at = content.find(magic, at + 4)
    return bytes(content)


def packed_by(method: int) -> bytes:
    """A zip that claims to be compressed by `method`."""
    return with_headers(zipped(MICROSOFT), method, 8, 10)


def split(content: bytes) -> bytes:
    """The last part of a zip that is in several, whose members begin in the third."""
    return with_headers(content, 2, None, 34)


def tarred(members, compression="") -> bytes:
    """A tar archive as `zipped` makes zips; a content of None is a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as out:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            out.addfile(info, io.BytesIO(content or b""))
    return stream.getvalue()


def damaged_header(content: bytes) -> bytes:
    """The same tar with one byte changed in the name of Dog/3.jpg."""
    return content.replace(b"Dog/3.jpg", b"Dog/3.jqg")


PLAIN = list(MICROSOFT.items())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: zipped([*PLAIN, ("/tmp/PetImages/Cat/99.jpg", b"")]), "unsafe path"),
        (lambda: zipped([*PLAIN, ("C:\\PetImages\\Cat\\99.jpg", b"")]), "unsafe path"),
        (lambda: zipped([*PLAIN, ("PetImages/../../Cat/99.jpg", b"")]), "unsafe path"),
        (lambda: zipped([*PLAIN, ("..\\Cat\\99.jpg", b"")]), "unsafe path"),
        (
            lambda: zipped([*PLAIN, (link("PetImages/Cat/99.jpg"), b"/etc/passwd")]),
            "holds the link",
        ),
        (
            lambda: zipped({"train.zip": zipped([*TRAIN.items(), ("../cat.99.jpg", b"")])}),
            "unsafe path",
        ),
        (
            lambda: zipped([*PLAIN, ("PetImages/Cat/99.jpg", bytes(51 * 10**6))]),
            "51.0 MB; at most 50.0 MB",
        ),
        (lambda: damaged(zipped(MICROSOFT)), "PetImages/Dog/2.jpg in photos.zip is damaged"),
        (lambda: damaged(kaggle_zip("test")), "train.zip in photos.zip is damaged"),
        (
            lambda: zipped({"train.zip": zipped(TRAIN)[:-30]}),
            "train.zip in photos.zip is cut short",
        ),
        (lambda: zipped(MICROSOFT)[:-500], "is cut short"),
        (lambda: zipped(MICROSOFT)[1000:], "damaged"),
        (lambda: encrypted(zipped(MICROSOFT)), "is encrypted"),
        (lambda: split(zipped(MICROSOFT)), "is one part of a split archive. Unpack it"),
        (lambda: packed_by(9), "compression method 9, Deflate64. Unpack it"),
        (lambda: packed_by(200), "compression method 200"),
        (lambda: zipped({"a/train.zip": packed_by(98)}), "method 98, PPMd"),
        (lambda: tarred(MICROSOFT, "gz")[:-700], "is cut short or damaged"),
        (lambda: tarred(MICROSOFT)[: 512 * 7], "is cut short or damaged"),
        (lambda: damaged_header(tarred(MICROSOFT)), "is cut short or damaged"),
        (lambda: tarred([*PLAIN, ("../Cat/99.jpg", b"")]), "unsafe path"),
        (lambda: tarred([*PLAIN, ("PetImages/Cat/99.jpg", None)]), "holds the link"),
        (lambda: zipped([*PLAIN, ("test/1.jpg", b"a"), ("b/test/1.jpg", b"b")]), "test/1.jpg"),
        (lambda: zipped({"a/b.jpg": b"a", "dogs and cats.jpg": b"b"}), "2 photos of unknown class"),
        (
            lambda: zipped({n: b for n, b in PLAIN if "Dog" not in n}),
            "6 photos of cats and 0 of dogs",
        ),
        (
            lambda: zipped({f"test1/{n}.jpg": b for n, b in UNLABELLED.items()}),
            "0 photos of cats and 0 of dogs",
        ),
        (lambda: zipped({}), "0 photos of cats and 0 of dogs"),
        (lambda: b"<html><body>Sorry</body></html>", "is a web page"),
        (lambda: b"Rar!\x1a\x07" + bytes(1000), "is a RAR archive"),
        (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(1000), "is a 7-Zip archive"),
        (lambda: CATS[1], "is a photo"),
        (lambda: b"\xef\xbb\xbf\n<html>", "is a web page"),
        (lambda: b"\x1f\x8b" + bytes(1000), "is not a tar archive inside"),
        (lambda: b"some text", "starts with 'some text'"),
        (lambda: bytes(2000), "is empty"),
        (lambda: b"", "is empty"),
    ],
)
def test_bad_archives(data, capsys, make, words):
    file = write_zip(data, make())
    assert downloading.main(["zip", str(file)]) == 1
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) <= 2
    assert "This is a bug" not in said and file.exists()
    assert_nothing(data)
    assert not (data.parent / "Cat").exists() and not Path("/tmp/PetImages").exists()


@pytest.mark.parametrize("limit, value", [("MAX_NESTED", 2000), ("MAX_TOTAL", 3000)])
def test_bombs(data, monkeypatch, limit, value):
    """Too much of it all; with lower limits than the real ones, which no test could fill."""
    monkeypatch.setattr(unpack, limit, value)
    store.staging().mkdir(parents=True)
    with pytest.raises(unpack.ArchiveError, match="would unpack to .* at most"):
        unpack.unpack(write_zip(data, kaggle_zip("test")), store.staging())


@pytest.mark.parametrize(
    "make",
    [
        lambda blank: zipped({"train.zip": blank}),  # also with an end that makes it a zip
        lambda blank: zipped({"a.zip": zipped({"b.zip": zipped({"train.zip": blank})})}),
        lambda blank: zipped({f"{n}.zip": blank[: len(blank) // 9] for n in range(9)}),
        lambda blank: zipped({f"Cat/{n}.bmp": blank[: len(blank) // 9] for n in range(9)}),
        lambda blank: tarred({"cat.1.jpg": b"", "dog.1.jpg": b"", "train.zip": blank}, "gz"),
        lambda blank: tarred({f"Cat/{n}.bmp": blank[: len(blank) // 9] for n in range(9)}, "xz"),
    ],
)
def test_small_archives_that_grow(data, monkeypatch, make):
    """Refused before they are on the disk; in a tenth of the real size, to be fast."""
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 10**6)
    file = write_zip(data, make(bytes(20 * 10**6) + zipped(TRAIN)))
    assert file.stat().st_size < 200_000
    store.staging().mkdir(parents=True)
    with pytest.raises(unpack.ArchiveError, match="would unpack to .* at most"):
        unpack.unpack(file, store.staging())
    assert sum(copy.stat().st_size for copy in store.staging().rglob("*")) < 3 * 10**6


def test_archives_in_archives_without_end(data):
    content = zipped({"cat.1.jpg": CATS[1], "dog.1.jpg": DOGS[1]})
    for _ in range(9):
        content = zipped({"cat.2.jpg": CATS[2], "dog.2.jpg": DOGS[2], "next.zip": content})
    downloading.get("zip", write_zip(data, content))
    assert contents(data / "PetImages/Cat") == {2: CATS[2]}


def test_any_damage_is_a_message(data):
    """Random damage anywhere ends in an ArchiveError, or leaves the archive readable."""
    content, chance = zipped(MICROSOFT), random.Random(0)
    for turn in range(150):
        spoiled = bytearray(content)
        for _ in range(3):
            spoiled[chance.randrange(len(content) // 2 * (turn % 2), len(content))] = (
                chance.randrange(256)
            )
        target = data / str(turn)
        target.mkdir(parents=True)
        with contextlib.suppress(unpack.ArchiveError):
            unpack.unpack(write_zip(data, bytes(spoiled)), target)


def test_missing_file(data, tmp_path):
    missing = download(data, "zip", "none.zip", cwd=tmp_path)
    assert missing.returncode == 1 and f"file or folder {tmp_path / 'none.zip'}," in missing.stderr
    assert f"nor {paths.PROJECT / 'none.zip'}" in missing.stderr, "everywhere that was looked"
    endless = download(data, "zip", "/dev/zero")
    assert endless.returncode == 1 and "is a device or a pipe" in endless.stderr


#: Other people's layouts: a path per photo, in the order of `PHOTOS`; the rest is left out.
LAYOUTS = {
    "cat_1": ["train/cats/cat_1.jpg", "train/cats/cat_2.jpg", "train/dogs/dog_1.jpg"],
    "plural": ["Cats/1.jpg", "Cats/2.jpg", "Dogs/1.jpg"],
    "camera": ["cat/IMG_0001.JPG", "cat/IMG_0002.JPG", "dog/IMG_0001.JPG"],
    "lower case": ["PetImages/cat/1.jpg", "PetImages/cat/2.jpg", "PetImages/dog/1.jpg"],
    "keras": ["c/train/cats/cat.1.jpg", "c/train/cats/cat.2.jpg", "c/validation/dogs/dog.1.jpg"],
    "same names": ["train/cats/1.jpg", "validation/cats/1.jpg", "validation/dogs/1.jpg"],
    "also in case": ["cats/a.jpg", "cats/A.JPG", "dogs/a.jpg"],
    "kaggle": ["dogs-vs-cats/train/cat.1.jpg", "dogs-vs-cats/train/cat.2.jpg", "train/dog.1.jpg"],
    "a word": ["dog data/cat.1.jpg", "x/my Cat (70).jpg", "My dogs/x.png"],
    "endings": ["Cat/1.jpeg", "Cat/2.PNG", "Dog/1.WebP"],
    "deep": ["/".join("abcdefgh") * 9 + "/Cat/ä ö.jpg", "Cat/😀.jpg", "x/y/Dog/=1+2.jpg"],
    "backslashes": ["P\\Cat\\1.jpg", "P\\Cat\\2.jpg", "P\\Dog\\1.jpg"],
}
PHOTOS = [CATS[1], CATS[2], DOGS[1]]
LEFT_OUT = {
    "__MACOSX/Cat/._1.jpg": b"resource fork",
    "Cat/.ipynb_checkpoints/1.jpg": CATS[4],
    "Cat/.hidden.jpg": CATS[4],
    "Cat/Thumbs.db": b"thumbs",
    "readme.txt": b"read me",
    "more/house.jpg": CATS[5],
    "cats and dogs.jpg": CATS[5],
}


def write_folder(folder: Path, members: dict) -> Path:
    for path, content in members.items():
        file = folder / path.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def as_zip(folder, members):
    return write_zip(folder / "x", zipped(members))


def as_tar(folder, members):
    tar = tarred({f"./{path}": content for path, content in members.items()}, "gz")
    return write_zip(folder / "x", tar, "photos.tgz")


def as_nested(folder, members):
    inner = zipped({"Train.zip": zipped({"deep.tar.xz": tarred(members, "xz")})})
    return write_zip(folder / "x", zipped({"a b.zip": inner}))


@pytest.mark.parametrize("pack", [as_zip, as_tar, as_nested, write_folder])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(data, capsys, layout, pack):
    members = dict(zip(LAYOUTS[layout], PHOTOS)) | LEFT_OUT
    (data.parent / "own").mkdir()
    source = pack(data.parent / "own", members)
    before = {
        file: file.read_bytes() for file in (data.parent / "own").rglob("*") if file.is_file()
    }
    downloading.get("zip", source)
    for name, photos in (("Cat", PHOTOS[:2]), ("Dog", PHOTOS[2:])):
        stored = [file.read_bytes() for file in (data / "PetImages" / name).iterdir()]
        assert sorted(stored) == sorted(photos)
    shown = capsys.readouterr()
    assert "2 cats and 1 dogs" in shown.out
    assert "Left out" in shown.err and "2 photos of unknown class" in shown.err
    assert "1 other file, such as" in shown.err and "readme.txt" in shown.err
    assert all(file.read_bytes() == content for file, content in before.items()), "never changed"
    assert len(check.check_photos(progress=False)) == 3, "all interfaces count the same"
    assert len(list(find_photos([data / "PetImages"]))) == 3
    assert json.loads((data / "source.json").read_text())["photos"] == {"Cat": 2, "Dog": 1}


def test_names_of_stored_photos(data):
    members = {
        "train/cat.7.jpg": CATS[0],
        "PetImages/Cat/7.jpg": CATS[0],  # the same photo
        "validation/cats/7.jpg": CATS[1],  # a different one
        "validation/cats/7.JPEG": CATS[2],
        "Cat/a:b?.png": CATS[3],
        f"Cat/{'ü' * 200}.gif": CATS[4],
        "Dog/dog (12).tiff": DOGS[0],
        "test1/3.jpg": UNLABELLED[3],
    }
    for order in (1, -1):  # which does not matter
        file = write_zip(data, zipped(list(members.items())[::order]))
        downloading.get("zip", file)
        stored = {file.name: file.read_bytes() for file in data.glob("[Pt]*/**/*.*")}
        assert stored == {
            "7.jpg": CATS[0],
            "7-3.jpg": CATS[1],  # 7-2.jpg was the same photo
            "7.jpeg": CATS[2],
            "a_b_.png": CATS[3],
            f"{'ü' * 100}.gif": CATS[4],
            "12.tiff": DOGS[0],
            "3.jpg": UNLABELLED[3],
        }
        shutil.rmtree(data)


def test_photos_put_there_in_a_layout_of_their_own(data, capsys):
    write_folder(data / "PetImages", dict(zip(LAYOUTS["cat_1"], PHOTOS)) | LEFT_OUT)
    downloading.download("microsoft")
    shown = capsys.readouterr()
    assert "2 cats and 1 dogs" in shown.out and "Left out: 3 files" in shown.err
    assert check.check_photos(progress=False).photo.tolist() == LAYOUTS["cat_1"]
    assert "Left out: 3 files" in store.left_out(paths.photos())


def test_empty_photos_are_kept(data):
    file = write_zip(data, zipped({**MICROSOFT, "PetImages/Cat/666.jpg": b""}))
    assert download(data, "zip", file).returncode == 0
    assert (data / "PetImages/Cat/666.jpg").stat().st_size == 0


# --- the state of data/ ------------------------------------------------------------------------


def wait_for(condition):
    """Waits until ``condition()`` holds, 10 seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def test_sigkill_while_unpacking(data):
    members = {
        f"PetImages/{folder}/{n}.jpg": b"x" * 2000 for folder in ("Cat", "Dog") for n in range(6000)
    }
    file = write_zip(data, zipped(members))
    running = start(data, "zip", file)
    wait_for(lambda: len(list(data.glob(".unpacking/PetImages/*/*.jpg"))) > 50)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert (data / ".unpacking").exists() and not (data / "PetImages").exists(), (
        "it was killed in the middle"
    )
    done = download(data, "zip", file)
    assert done.returncode == 0 and "6,000 cats and 6,000 dogs" in done.stdout


def test_sigterm_while_unpacking(data):
    members = {
        f"PetImages/{folder}/{n}.jpg": b"x" * 2000 for folder in ("Cat", "Dog") for n in range(6000)
    }
    running = start(data, "zip", write_zip(data, zipped(members)))
    wait_for(lambda: len(list(data.glob(".unpacking/PetImages/*/*.jpg"))) > 50)
    running.terminate()
    _, err = running.communicate(timeout=10)
    assert running.returncode == 130 and "Stopped" in err and "Traceback" not in err
    assert_nothing(data)


def test_threads_that_still_write_do_not_keep_the_staging_folder(data):
    """As those that generate synthetic photos do for a moment after an interruption."""
    folder, end = store.staging() / "PetImages", time.monotonic() + 0.25
    folder.mkdir(parents=True)

    def write():
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{time.monotonic_ns()}.jpg").write_bytes(b"")

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert store.clear_staging() and not store.staging().exists()
    for thread in threads:
        thread.join()


def test_what_was_left_is_not_denied(data, monkeypatch, capsys):
    def interrupted(_):
        store.staging().mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(downloading, "from_zip", interrupted)
    monkeypatch.setattr(store, "clear_staging", lambda: False)  # a disk that fails
    assert downloading.main(["zip", str(write_zip(data, zipped(MICROSOFT)))]) == 130
    assert ".unpacking could not be removed" in capsys.readouterr().err


@pytest.fixture
def read_only(data, tmp_path, monkeypatch):
    """``read_only()`` makes the data folder read-only, also for root; skips where it cannot."""
    mounted = []

    def mount():
        (tmp_path / "seen").mkdir()
        for options in (["--bind", data], ["-o", "remount,ro,bind"]):
            command = ["mount", *map(str, options), str(tmp_path / "seen")]
            if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
                pytest.skip("only root can mount a folder read-only")
            mounted.append(True)
        monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "seen"))

    yield mount
    if mounted:
        subprocess.run(["umount", str(tmp_path / "seen")], check=True)


def test_photos_in_a_read_only_folder_can_be_used(data, read_only, capsys):
    downloading.get("zip", write_zip(data, kaggle_zip("test")))
    (data / "source.json").unlink()  # which could not be written anew
    read_only()
    for source in ("microsoft", "kaggle"):
        downloading.download(source)
        assert "6 cats and 6 dogs, source: by hand" in capsys.readouterr().out
    with pytest.raises(downloading.DownloadError, match="never replace real ones"):
        downloading.download("synthetic")


def test_a_read_only_synthetic_sample_is_used_where_that_is_allowed(data, read_only, capsys):
    put_synthetic(data)
    read_only()
    with pytest.raises(downloading.DownloadError, match="cannot be written to: Read-only"):
        downloading.download("microsoft")
    downloading.download("microsoft", synthetic_fallback=True)
    assert "synthetic sample in it stays" in capsys.readouterr().err


# Unpacks, and is killed at the n-th step of putting the photos in their places.
KILLED = """
import os, shutil, sys
from pathlib import Path
from catsdogs.data import download
left = int(sys.argv[2])
def dying(step):
    def run(*arguments):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return step(*arguments)
    return run
os.rename, os.replace = dying(os.rename), dying(os.replace)
shutil.rmtree = dying(shutil.rmtree)
download.install("zip", Path(sys.argv[1]))
"""


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("step", range(8))
def test_killed_between_renames(data, synthetic, step):
    data.mkdir()
    if synthetic:
        put_synthetic(data)
    file = write_zip(data, kaggle_zip("test"))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(step)], cwd=paths.PROJECT)
    assert killed.returncode == (9 if step < 6 + synthetic else 0)
    done = download(data, "zip", file)
    assert done.returncode == 0, done.stderr
    assert assert_real(data, "zip")["unlabelled"] == len(UNLABELLED)
    assert contents(data / "test") == UNLABELLED


def test_photos_put_there_between_kill_and_next_run_are_kept(data):
    data.mkdir()
    file = write_zip(data, kaggle_zip("test"))
    subprocess.run([sys.executable, "-c", KILLED, str(file), "2"], cwd=paths.PROJECT)
    assert (data / ".unpacked/PetImages").exists()
    put_photos(data)
    assert "by hand" in download(data, "zip", file).stdout
    assert contents(data / "PetImages/Cat") == {n: f"Cat {n}".encode() for n in range(1, 4)}


def test_disk_full_while_writing(data):
    """A limit on the size of a file stands for the full disk; nothing that was there is lost."""
    put_synthetic(data)
    file = write_zip(data, zipped({**MICROSOFT, "PetImages/Dog/77.jpg": bytes(90_000)}))
    full = download(
        data,
        "zip",
        file,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert full.returncode == 1 and "is full" in full.stderr and "make room" in full.stderr
    assert contents(data / "PetImages/Cat") == {n: f"Cat {n}".encode() for n in range(1, 4)}
    assert download(data, "zip", file).returncode == 0


def test_disk_full_while_downloading(data, server):
    """As above; what came is kept, and the next run resumes after it."""
    limit = len(server.content) // 2
    full = download(
        data,
        CATSDOGS_URL=server.url,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1 and "is full" in full.stderr and "Make room" in full.stderr
    size = part(data).stat().st_size
    assert 0 < size <= limit and f"{size:,} bytes" in full.stderr
    assert download(data, CATSDOGS_URL=server.url).returncode == 0
    assert server.ranges == [None, f"bytes={size}-"]
    assert_real(data, "microsoft")


@pytest.mark.parametrize("options", ["size=200k", "size=20m,nr_inodes=14"])
def test_full_disk(data, options):
    """A disk that is really full: seen beforehand or, with no room for more files, on writing."""
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(data)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        file = write_zip(data, zipped({**MICROSOFT, "PetImages/Dog/77.jpg": bytes(400_000)}))
        full = download(data, "zip", file)
        assert full.returncode == 1 and "is full" in full.stderr
        assert ("are needed" in full.stderr) == ("inodes" not in options)
        assert_nothing(data)
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_room_is_checked_first(data, monkeypatch):
    store.staging().mkdir(parents=True)
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda _: SimpleNamespace(free=40_000))
    with pytest.raises(OSError, match="are needed"):
        unpack.unpack(write_zip(data, zipped(MICROSOFT)), store.staging())
    assert not list(store.staging().iterdir())


def test_synthetic_photos_give_way_to_real_ones(data):
    put_synthetic(data)
    assert download(data, "zip", write_zip(data, zipped(MICROSOFT))).returncode == 0
    assert_real(data, "zip")


def test_failed_archive_leaves_synthetic_photos(data):
    put_synthetic(data)
    assert download(data, "zip", write_zip(data, b"no zip")).returncode == 1
    assert store.synthetic_untouched()


def test_changed_synthetic_photos_are_not_replaced(data):
    """A stale source.json beside a user's own photos must not cost them."""
    put_synthetic(data)
    (data / "PetImages/Cat/2.jpg").write_bytes(b"my own cat")
    kept = download(data, "zip", write_zip(data, zipped(MICROSOFT)))
    assert kept.returncode == 1 and "Move it away" in kept.stderr
    assert (data / "PetImages/Cat/2.jpg").read_bytes() == b"my own cat"


def test_real_photos_are_never_replaced(data):
    file = write_zip(data, zipped(MICROSOFT))
    assert download(data, "zip", file).returncode == 0
    for source, status in ((["microsoft"], 0), (["zip", file], 0), (["synthetic"], 1)):
        done = download(data, *source, CATSDOGS_URL="http://127.0.0.1:9/cats.zip")
        assert done.returncode == status and "source: zip" in done.stdout
        assert ("away" in done.stdout + done.stderr) == (source[0] != "zip")
        assert_real(data, "zip")


def test_deleted_photos_are_counted(data):
    file = write_zip(data, zipped(MICROSOFT))
    assert download(data, "zip", file).returncode == 0
    (data / "PetImages/Cat/1.jpg").unlink()
    (data / "PetImages/Dog/1.jpg").unlink()
    done = download(data, "zip", file)
    assert done.returncode == 0 and "2 photos are missing" in done.stderr and "move" in done.stderr


def test_photos_put_there_by_hand(data):
    put_photos(data, cats=range(5), dogs=range(7))
    done = download(data)
    assert done.returncode == 0 and "5 cats and 7 dogs, source: by hand" in done.stdout
    record = json.loads((data / "source.json").read_text())
    assert record["source"] == "by hand" and record["photos"] == {"Cat": 5, "Dog": 7}


def test_half_a_set_by_hand_is_left_alone(data):
    put_photos(data, dogs=())
    half = download(data, "zip", write_zip(data, zipped(MICROSOFT)))
    assert half.returncode == 1 and "3 cats and 0 dogs" in half.stderr
    assert (
        sorted(contents(data / "PetImages/Cat")) == [1, 2, 3]
        and not (data / "source.json").exists()
    )


def test_empty_folders_and_a_spoiled_record_do_not_stand_in_the_way(data):
    (data / "PetImages/Cat").mkdir(parents=True)
    (data / "PetImages/.DS_Store").write_bytes(b"")
    (data / "test").mkdir()
    (data / "source.json").write_text("{")
    assert download(data, "zip", write_zip(data, kaggle_zip("test"))).returncode == 0
    assert assert_real(data, "zip")["unlabelled"] == len(UNLABELLED)


# --- synthetic, and the command line -----------------------------------------------------------


@pytest.mark.parametrize("name", ["synthetic", "drawn"])
def test_synthetic(data, name):
    """Also under the name that earlier versions had for it."""
    if (
        not (paths.PROJECT / ".venv/bin/python").exists()
        and subprocess.run(["python3", "-c", "import numpy, PIL"], capture_output=True).returncode
    ):
        pytest.skip("the script's Python has no numpy or Pillow")
    done = download(data, name, CATSDOGS_SYNTHETIC="3")
    assert done.returncode == 0, done.stderr
    record = json.loads((data / "source.json").read_text())
    assert record["source"] == "synthetic" and record["photos"] == store.counts(data / "PetImages")
    assert record["photos"] == {"Cat": 3, "Dog": 3} and store.synthetic_untouched()
    assert "is there" in download(data, name).stdout
    shutil.rmtree(data)
    assert "CATSDOGS_SYNTHETIC" in download(data, name, CATSDOGS_SYNTHETIC="many").stderr


def test_synthetic_without_pillow(data, monkeypatch):
    from catsdogs import data as package

    monkeypatch.setitem(sys.modules, "catsdogs.data.synthetic", None)
    monkeypatch.delattr(package, "synthetic", raising=False)
    with pytest.raises(downloading.DownloadError, match="make install"):
        downloading.make_synthetic()
    assert not data.exists()


def test_paths_are_relative_to_where_the_user_stands(data, tmp_path):
    """Where modules of the same names must not get in the way, either."""
    stand = tmp_path / "a folder"
    (stand / "catsdogs").mkdir(parents=True)
    for name in ("catsdogs/__init__.py", "zipfile.py", "json.py"):
        (stand / name).write_text("raise SystemExit('the wrong module')")
    (stand / "photos (1).zip").write_bytes(zipped(MICROSOFT))
    done = download(data, "zip", "photos (1).zip", cwd=stand, CATSDOGS_DATA="my data")
    assert done.returncode == 0, done.stderr
    assert_real(stand / "my data", "zip")


def test_without_bash(data, server, tmp_path):
    """``catsdogs download`` is the same."""
    environment = {**os.environ, "CATSDOGS_DATA": str(data), "CATSDOGS_URL": server.url}
    command = [sys.executable, "-m", "catsdogs", "download"]

    def run(*arguments):
        return subprocess.run(
            [*command, *map(str, arguments)],
            env={**environment, "PYTHONPATH": str(paths.PROJECT), "no_proxy": "*"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )

    shown = run("--help")
    assert shown.returncode == 0 and "catsdogs download [-h] [microsoft" in shown.stdout
    assert "3 no source could be reached" in shown.stdout
    wrong = run("zip")
    assert wrong.returncode == 2 and "catsdogs download: error: zip needs" in wrong.stderr
    missing = run("zip", "none.zip")
    assert missing.returncode == 1 and str(tmp_path / "none.zip") in missing.stderr
    assert run().returncode == 0
    assert_real(data, "microsoft")
    write_zip(data, zipped(MICROSOFT), "photos (1).zip")
    shutil.rmtree(data)
    assert run("zip", "photos (1).zip").returncode == 0
    assert_real(data, "zip")


def test_the_oldest_python(data, server):
    """Nothing but Python 3.9 and its standard library: what a Mac has before `make install`."""
    found = [shutil.which("python3.9"), *Path.home().glob(".pyenv/versions/3.9.*/bin/python")]

    def works(python):
        return python and not subprocess.run([python, "-c", ""], capture_output=True).returncode

    python = next(filter(works, found), None)
    if python is None:
        pytest.skip("there is no python3.9")
    program = "import sys; from catsdogs.data.download import main; sys.exit(main())"
    done = subprocess.run(
        [python, "-S", "-c", program],
        env={**os.environ, "CATSDOGS_DATA": str(data), "CATSDOGS_URL": server.url},
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert_real(data, "microsoft")


def test_it_needs_nothing_that_must_be_installed(data, server):
    """Without the installed packages, and in words that Python 3.9 knows."""
    program = "import sys; from catsdogs.data.download import main; main()\n" + (
        "print(*(getattr(m, '__file__', None) for n, m in sys.modules.items() if 'catsdogs' in n))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "CATSDOGS_DATA": str(data), "CATSDOGS_URL": server.url},
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert_real(data, "microsoft")
    modules = [Path(file) for file in done.stdout.splitlines()[-1].split()]
    assert any(module.name == "fetch.py" for module in modules)
    for module in modules:
        source = module.read_text()
        ast.parse(source, feature_version=(3, 9))
        assert "annotations" in source or not re.search(r"(->|: )[\w\[\]., ]+ \| ", source), module


def test_no_python(data, tmp_path):
    """The script in a project without .venv, where no Python is on the PATH, or only an old one."""
    shutil.copy(SCRIPT, tmp_path)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for old in (False, True):
        if old:
            (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
            (tmp_path / "python3").chmod(0o755)
        none = subprocess.run(
            [tmp_path / "bash", tmp_path / SCRIPT.name],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert none.returncode == 1 and "Python 3.9 or newer is needed" in none.stderr


# --- notebooks ---------------------------------------------------------------------------------


def test_a_notebook_downloads(data, server, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_URL", server.url)
    monkeypatch.setenv("no_proxy", "*")
    downloading.download("microsoft")
    assert_real(data, "microsoft")
    shown = capsys.readouterr()
    assert "6 cats and 6 dogs" in shown.out and "Downloading http" in shown.err
    downloading.download("microsoft")
    assert "is there" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["my photos (1).zip", "a;touch x.zip", "$HOME `id` 'q'.zip"])
def test_a_notebook_unpacks_an_archive_whatever_it_is_called(data, monkeypatch, name):
    file = write_zip(data, zipped(MICROSOFT), name)
    downloading.download(f"zip {file}")
    assert_real(data, "zip")
    shutil.rmtree(data)
    monkeypatch.setenv("HOME", str(file.parent))
    downloading.download(f"zip ~/{name}")
    assert_real(data, "zip")


def test_a_notebook_takes_a_path_as_people_write_it(data, monkeypatch, capsys):
    """A folder or an archive: with ~, relative to the notebook or the project, or a Path."""
    folder = write_folder(data.parent / "my pets (1)", dict(zip(LAYOUTS["camera"], PHOTOS)))
    monkeypatch.setenv("HOME", str(data.parent))
    monkeypatch.setattr(paths, "PROJECT", data.parent)
    (data.parent / "notebooks").mkdir()
    monkeypatch.chdir(data.parent / "notebooks")
    write_zip(data, zipped(dict(zip(LAYOUTS["keras"], PHOTOS))), "notebooks/p (2).zip")
    sources = ["~/my pets (1)", "zip ~/my pets (1)/", "my pets (1)", folder, "../my pets (1)"]
    for source in [*sources, f'zip "{folder}"', "p (2).zip", "zip   p (2).zip "]:
        downloading.download(source)
        assert "2 cats and 1 dogs" in capsys.readouterr().out
        shutil.rmtree(data)
    for missing in ("~/no pets", "zip no pets", "no pets.zip", Path("no pets")):
        with pytest.raises(downloading.DownloadError, match="no file or folder .*/no pets"):
            downloading.download(missing)


@pytest.mark.parametrize("source", ["", "bing", "zip", "zip ", "synthetic x", "microsoft;id", None])
def test_a_notebook_is_told_of_sources_that_there_are_not(data, source):
    with pytest.raises(ValueError, match="microsoft, kaggle, zip FILE or synthetic was expected"):
        downloading.download(source)
    assert not data.exists()


def test_a_notebook_falls_back_to_the_synthetic_sample(data, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_URL", "http://127.0.0.1:9/cats.zip")
    monkeypatch.setenv("CATSDOGS_SYNTHETIC", "2")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(downloading.UnreachableError, match="Cannot reach"):
        downloading.download("microsoft")
    downloading.download("microsoft", synthetic_fallback=True)
    shown = capsys.readouterr()
    assert "Cannot reach" in shown.err and "Carrying on with the synthetic sample" in shown.out
    assert store.synthetic_untouched()


def test_a_notebook_stops_at_every_other_failure(data):
    with pytest.raises(downloading.DownloadError, match="is not a zip archive") as caught:
        downloading.download(f"zip {write_zip(data, b'no zip')}", synthetic_fallback=True)
    assert not isinstance(caught.value, downloading.UnreachableError)
    assert_nothing(data)
    with pytest.raises(downloading.DownloadError, match="There is no file"):
        downloading.download("zip none.zip", synthetic_fallback=True)


# --- progress, and locks where there is no fcntl -----------------------------------------------


class Watched(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_is_shown_where_somebody_watches(data, server, monkeypatch, tqdm):
    monkeypatch.setenv("CATSDOGS_URL", server.url)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sys, "stderr", Watched())
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    downloading.download("microsoft")
    shown = sys.stderr.getvalue()
    assert "\rDownloading" in shown and "\rUnpacking" in shown and "12" in shown
    assert ("12 of 12 photos" in shown) == (not tqdm) and ("12/12" in shown) == tqdm


def test_progress_is_shown_in_notebooks(monkeypatch):
    class OutStream(io.StringIO):
        __module__ = "ipykernel.iostream"

    for stream, watched in ((OutStream(), True), (io.StringIO(), False), (Watched(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert progress.is_watched() == watched


def test_locks_of_windows(data, monkeypatch):
    taken = []

    def locking(descriptor, mode, size):
        if taken:
            raise PermissionError(13, "Permission denied")
        taken.append((mode, size))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with store.locked():
        assert taken == [(2, 1)]
        with pytest.raises(downloading.DownloadError, match="Another run"), store.locked():
            pass


def test_a_file_system_without_locks(data, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with store.locked():
        assert "without locks" in capsys.readouterr().err


def test_usage(data):
    for wrong in (["bing"], ["zip"], ["synthetic", "x"], ["microsoft", "x"]):
        assert download(data, *wrong).returncode == 2
    shown = download(data, "--help")
    assert (
        shown.returncode == 0
        and "3 no source could be reached" in shown.stdout
        and not data.exists()
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(data, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be created" in download(data).stderr


def test_data_is_a_file(data, tmp_path):
    data.write_text("not a folder")
    process = start(data)
    assert "cannot be created" in process.communicate(timeout=10)[1] and process.returncode == 1
