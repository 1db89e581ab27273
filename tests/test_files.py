"""Atomic writes: a file has its new content whole or its old one, and nothing is left beside it."""

import hashlib
import os
import threading

import pytest

from catsdogs import files


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
        assert partial.parent == path.parent  # a rename across file systems would not be atomic
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
def test_same_ending(tmp_path, name):
    path = tmp_path / name
    with files.replacing(path, same_ending=True) as partial:
        assert partial.name.endswith(path.suffix)
        partial.write_text("x")
    with files.replacing(path) as partial:
        assert partial.suffix == ".partial"
        partial.write_text("y")
    assert path.read_text() == "y" and listed(tmp_path) == [name]


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
