"""What the tests share: a synthetic sample made once, and folders other than the project's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

# First of all, since it says which kernels TensorFlow uses before that is imported; and a process
# that a test starts is to compute as this one does.
import catsdogs.backend  # noqa: F401
from catsdogs import paths

matplotlib.use("agg")  # not by the environment, which notebooks that the tests run would inherit

PER_CLASS = 60


@pytest.fixture(scope="session", autouse=True)
def runs_elsewhere(tmp_path_factory):
    """What tests train goes nowhere near the project's own runs."""
    os.environ.setdefault("CATSDOGS_RUNS", str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory) -> Path:
    """A data folder with a small synthetic sample, made as a user would. Read-only."""
    folder = tmp_path_factory.mktemp("synthetic")
    subprocess.run(
        ["bash", paths.PROJECT / "download_data.sh", "synthetic"],
        check=True,
        capture_output=True,
        env=os.environ
        | {
            "CATSDOGS_DATA": str(folder),
            "CATSDOGS_SYNTHETIC": str(PER_CLASS),
            # Without a .venv, it is made by the Python that runs the tests.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
    )
    return folder


@pytest.fixture
def synthetic(synthetic_data, tmp_path, monkeypatch) -> Path:
    """The synthetic sample as the project's photos, and an empty models folder, for one test."""
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic_data))
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path / "runs"))
    return synthetic_data


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty data folder as the project's, whose source is that of real photos."""
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path / "runs"))
    for name in ("Cat", "Dog"):
        (tmp_path / "data" / "PetImages" / name).mkdir(parents=True)
    paths.source_file().write_text(json.dumps({"source": "zip"}))
    return tmp_path / "data"
