"""Run records that are damaged, or are none."""

import json
from pathlib import Path

import pytest

from catsdogs import files, paths
from catsdogs.serving import models
from catsdogs.training import records


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """The record of a run of one's own, ``mine``, with the key ``1234``."""
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    content = records.read("two-conv") | {"name": "mine", "run_key": "1234"}
    files.write(tmp_path / "mine" / paths.RECORD_FILE, json.dumps(content))
    assert records.find("1234", "other", "mine") == "mine"
    return tmp_path / "mine" / paths.RECORD_FILE


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"null", b'{"name": "mine"', b"[" * 100_000, b"\x80PK\0", b'{"run_key": "1234"}'],
    ids=lambda content: str(content[:20]),
)
def test_a_damaged_record_is_named_and_does_not_keep_the_run_from_training(record, content):
    record.write_bytes(content)
    said = "mine/record.json (is not valid JSON|holds a JSON|has no 'name').*train 'mine' again"
    with pytest.raises(files.DamagedFileError, match=said):
        records.read("mine")
    assert records.find("1234", "mine") is None
    assert not models.record_beside(record.with_name("model.onnx")).get("calibration")
