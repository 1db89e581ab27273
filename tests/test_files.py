"""Atomic writes: a file has its new content whole or its old one, and nothing is left beside it."""

import contextlib
import errno
import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from catsdogs import files, paths


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    "content, expected", [("Löwe\n", "Löwe\n".encode()), (b"\xff\xd8\0", b"\xff\xd8\0"), ("", b"")]
)
def test_text_and_bytes_are_written_as_they_are(tmp_path, content, expected, sync):
    files.write(tmp_path / "new" / "a.txt", content, sync)
    assert (tmp_path / "new" / "a.txt").read_bytes() == expected
    assert listed(tmp_path / "new") == ["a.txt"]


def test_until_the_block_ends_the_old_content_is_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        # Elsewhere it might be on a different file system, and a rename would not be atomic.
        assert partial.is_relative_to(path.parent)
    assert path.read_text() == "new" and listed(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_block_that_fails_changes_nothing_and_leaves_nothing(tmp_path, error, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with pytest.raises(error):
        with files.replacing(path) as partial:
            partial.write_text("half of the new con")
            raise error
    assert listed(tmp_path) == (["a.txt"] if before else [])
    assert not before or path.read_text() == before


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        with files.replacing(path):
            pass
    assert path.read_text() == "old" and listed(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_nothing(tmp_path, monkeypatch, failing):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        files.write(path, "new", sync=True)
    assert path.read_text() == "old" and listed(tmp_path) == ["a.txt"]


def test_sync_flushes_the_content_before_the_file_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    files.write(tmp_path / "a.txt", "synced", sync=True)
    files.write(tmp_path / "b.txt", "not synced")
    assert calls == ["fsync", "replace", "replace"]


@pytest.mark.parametrize("name", ["model.keras", "archive.tar.gz", "no_ending"])
def test_the_temporary_path_has_the_same_name(tmp_path, name):
    """By which some libraries choose a format."""
    with files.replacing(tmp_path / name) as partial:
        assert partial.name == name
        partial.write_text("x")
    assert (tmp_path / name).read_text() == "x" and listed(tmp_path) == [name]


def test_a_reader_never_sees_half_a_file_while_threads_write_it(tmp_path):
    path = tmp_path / "a.txt"
    contents = {letter * 100_000 for letter in "abcd"}
    path.write_text(next(iter(contents)))
    stop, seen = threading.Event(), set()

    def write(content):
        while not stop.is_set():
            files.write(path, content)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            seen.add(path.read_text())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen <= contents and listed(tmp_path) == ["a.txt"]


def test_sha256(tmp_path):
    content = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# --- what a killed process leaves ----------------------------------------------------------------

WRITER = """
import sys, time
from catsdogs import files
with files.replacing(sys.argv[1]) as partial:
    partial.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
    partial.write_text("whole")
"""


@pytest.fixture
def writer(tmp_path):
    """A process that has written half of ``a.txt`` and goes on when its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "a.txt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=paths.PROJECT,
    )
    assert process.stdout.readline() == b"half\n"
    yield process
    process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path, writer):
    # As earlier versions named it, with the number of that process.
    (tmp_path / f".a.npy.{writer.pid}-7f.partial").write_bytes(b"half")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(listed(tmp_path)) == 2
    files.write(tmp_path / "b.txt", "another file")
    assert listed(tmp_path) == ["b.txt"]


def test_what_a_living_process_writes_is_left_alone(tmp_path, writer):
    (tmp_path / f".a.npy.{writer.pid}-7f.partial").write_bytes(b"half")
    mine = [".notes.partial", ".a.12345678.partial"]  # not made by `replacing`
    (tmp_path / mine[0]).write_text("mine")
    (tmp_path / mine[1]).mkdir()
    files.write(tmp_path / "a.txt", "another's")
    files.clear_partials(tmp_path)
    assert len(listed(tmp_path)) == 5
    writer.communicate()
    assert (tmp_path / "a.txt").read_text() == "whole"
    files.clear_partials(tmp_path)
    assert listed(tmp_path) == sorted([*mine, "a.txt"])


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = tmp_path / ".b.12345678.partial"
    left.mkdir()
    (left / "lock").touch()
    files.write(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x" and listed(tmp_path) == [left.name, "a.txt"]


# --- a full disk ---------------------------------------------------------------------------------


@contextlib.contextmanager
def small_limit():
    """No file may grow beyond 100 kB, which the system tells as it tells of a full disk.

    Not a fixture: pytest's own output may go to a file, and it writes before fixtures end.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("reserved", [False, True])
def test_a_full_disk_is_said_in_a_sentence_and_nothing_is_left(tmp_path, reserved):
    path = tmp_path / "a.bin"
    path.write_text("old")
    said = r"^/.*/a.bin could not be written: .*make room"
    with small_limit(), pytest.raises(files.DiskFullError, match=said) as caught:
        with files.replacing(path) as partial, open(partial, "wb") as file:
            if reserved:
                files.reserve(file, 200_000)
                pytest.fail("reserved more than there is")
            file.write(bytes(200_000))
    assert caught.value._render_traceback_() == [str(caught.value)]  # in a notebook
    assert path.read_text() == "old" and listed(tmp_path) == ["a.bin"]


def test_what_hdf5_says_of_a_full_disk_is_understood(tmp_path):
    with pytest.raises(files.DiskFullError, match="a.h5 could not be written: No space left"):
        with files.replacing(tmp_path / "a.h5"):
            raise RuntimeError("Can't flush (errno = 28, error message = 'No space left on device'")
    assert listed(tmp_path) == []


# --- JSON ----------------------------------------------------------------------------------------


def test_json_objects_are_read(tmp_path):
    files.write(tmp_path / "a.json", '{"name": "Löwe"}')
    assert files.read_json(tmp_path / "a.json") == {"name": "Löwe"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b'{"source": "zi', "not valid JSON"),
        (b"\x80\xff\0", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "JSON list: expected an object"),
        (b"null", "JSON NoneType: expected an object"),
    ],
)
def test_json_of_odd_content_is_named(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json .*{says}"):
        files.read_json(tmp_path / "a.json")
