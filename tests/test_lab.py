"""Working copies of the notebooks, JupyterLab on them, and the Python that notebooks run in."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from catsdogs import cli, lab, notebooks, paths, text
from tools import drop_photos

NAME = "01_get_the_photos.ipynb"
PROJECT = paths.PROJECT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, in a folder with a difficult name, of one notebook, which draws a figure."""
    folder = tmp_path / "my próject"
    (folder / "notebooks").mkdir(parents=True)
    cells = [
        new_markdown_cell("[02](02_train_the_cnn.ipynb#more), [09](09_audit_the_labels.ipynb)"),
        new_code_cell("QUESTION = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("import sys\nprint(sys.executable, QUESTION, '…')"),
        new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "notebooks" / NAME
    )
    monkeypatch.setattr(paths, "PROJECT", folder)
    return folder


@pytest.fixture
def odd_jupyter(tmp_path, monkeypatch):
    """A Jupyter whose ``python3`` is a different program, with settings of its own."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    content = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(content))
    (tmp_path / "jupyter" / "jupyter_server_config.py").write_text(
        "c.ServerApp.root_dir = '/nowhere'\n"
        "c.ServerApp.kernel_spec_manager_class = 'nowhere.Kernels'\n"
        "c.KernelSpecManager.ensure_native_kernel = False\n"
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", "/dev/null/unwritable")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/dev/null/unwritable")
    monkeypatch.setenv("IPYTHONDIR", "/dev/null/unwritable")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setenv("MPLBACKEND", "agg")


def change(notebook):
    content = nbformat.read(notebook, 4)
    content.cells.append(new_code_cell("print('mine')"))
    nbformat.write(content, notebook)
    return notebook.read_bytes()


# --- working copies -------------------------------------------------------------------------------


def test_a_working_copy_is_made_once_and_never_overwritten(project):
    notebook, copy = project / "notebooks" / NAME, project / "lab" / NAME
    assert lab.copy_notebooks() == []
    assert copy.read_bytes() == notebook.read_bytes()
    mine = change(copy)
    assert lab.copy_notebooks() == [] and copy.read_bytes() == mine
    change(notebook)
    change(notebook)
    assert lab.copy_notebooks() == [notebook] and copy.read_bytes() == mine


def test_a_copy_that_nobody_changed_follows_its_notebook(project):
    lab.copy_notebooks()
    published = change(project / "notebooks" / NAME)
    assert lab.copy_notebooks() == []
    assert (project / "lab" / NAME).read_bytes() == published


def test_a_fresh_copy_keeps_the_old_one_under_a_different_name(project, monkeypatch, capsys):
    monkeypatch.setattr(lab, "run", lambda options: 0)
    notebook, copy = project / "notebooks" / NAME, project / "lab" / NAME
    assert cli.main(["lab"]) == 0 and capsys.readouterr().out == ""
    kept = {}
    for suffix in ("_old", "_old_2"):
        kept[copy.with_stem(copy.stem + suffix)] = change(copy)
        published = change(notebook)
        assert cli.main(["lab"]) == 0
        told = capsys.readouterr().out
        assert "newer than your copy" in told and 'make lab FRESH="01"' in told
        assert cli.main(["lab", "--fresh", "01"]) == 0
        assert "yours is kept as" in capsys.readouterr().out
        assert copy.read_bytes() == published
    assert {path: path.read_bytes() for path in kept} == kept
    assert cli.main(["lab", "--fresh", "77"]) == 2


def test_links_and_the_first_cell_work_in_a_copy():
    """A working copy is as deep in the project as its notebook."""
    assert lab.folder().parent == (paths.PROJECT / "notebooks").parent == paths.PROJECT
    ignored = subprocess.run(["git", "check-ignore", "-q", "lab/x.ipynb"], cwd=paths.PROJECT)
    assert ignored.returncode in (0, 128)  # 128: not a checkout


def test_a_notebook_that_was_run_in_its_place_is_committed_without_photos(project):
    picture = new_output("display_data", data={"image/png": "iVBORw=="})
    cells = [
        new_code_cell("photo_grid()", metadata={"tags": ["photos"]}, outputs=[picture]),
        new_code_cell("plots.curves() # …", outputs=[picture]),
    ]
    notebook = project / "notebooks" / NAME
    nbformat.write(new_notebook(cells=cells), notebook)
    before = notebook.read_bytes()
    shutil.copy(PROJECT / ".gitattributes", project)
    shutil.copytree(PROJECT / "tools", project / "tools")
    setting = re.search(r'git config (\S+) "(.*)"', (PROJECT / "Makefile").read_text())
    git = ["git", "-C", project, "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "init", "-q", project], check=True)
    subprocess.run([*git, "config", *setting.groups()], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "test"], check=True)
    committed = subprocess.run(
        [*git, "show", f"HEAD:notebooks/{NAME}"], check=True, capture_output=True
    ).stdout
    first, second = nbformat.reads(committed.decode(), 4).cells
    assert [out.text for out in first.outputs] == [drop_photos.NO_PHOTOS]
    assert second.outputs == [picture] and "…" in second.source
    assert notebook.read_bytes() == before
    assert drop_photos.clean(committed) == committed
    for damaged in (b"", b"[]", b'{"cells": [1]}'):
        assert drop_photos.clean(damaged) == damaged


# --- the project's own Python ---------------------------------------------------------------------


def test_a_notebook_runs_in_this_python_whatever_jupyter_is_set_to(project, odd_jupyter):
    build = project / "build"
    notebooks.run(
        project / "notebooks" / NAME, build, {"QUESTION": 42}, pages=["02_train_the_cnn.ipynb"]
    )
    outputs = [
        out
        for cell in nbformat.read(build / NAME, 4).cells
        if cell.cell_type == "code"
        for out in cell.outputs
    ]
    assert outputs[0].text == f"{sys.executable} 42 …\n"
    assert "image/png" in outputs[1].data and len(outputs) == 2
    # In the page, links lead to the page of a notebook, or where there is none, to the notebook.
    page = (build / NAME).with_suffix(".html").read_text(encoding="utf-8")
    assert 'href="02_train_the_cnn.html#more"' in page
    assert 'href="../notebooks/09_audit_the_labels.ipynb"' in page


def test_the_lab_shows_the_project_and_runs_its_python(odd_jupyter, tmp_path):
    """The real server, asked over HTTP, on a copy of the project's package and first notebook."""
    project = tmp_path / "my próject"
    shutil.copytree(paths.PROJECT / "catsdogs", project / "catsdogs")
    (project / "notebooks").mkdir()
    shutil.copy(paths.PROJECT / "notebooks" / NAME, project / "notebooks")
    (project / "models").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    options = ["--no-browser", f"--port={port}", "--IdentityProvider.token=secret"]
    log = tmp_path / "log"
    with open(log, "wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "catsdogs", "lab", "--", *options],
            cwd=project,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(project)},
        )
    try:
        deadline = time.monotonic() + 60
        while b"is running at" not in log.read_bytes():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

        def ask(path):
            request = urllib.request.Request(
                f"{address}{path}", headers={"Authorization": "token secret"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.geturl(), answer.read()

        kernels = json.loads(ask("api/kernelspecs")[1])["kernelspecs"]
        assert kernels["python3"]["spec"]["argv"][0] == sys.executable
        root = json.loads(ask("api/contents?content=1")[1])["content"]
        assert {"lab", "models", "notebooks"} <= {entry["path"] for entry in root}
        copies = json.loads(ask("api/contents/lab?content=1")[1])["content"]
        assert [entry["path"] for entry in copies] == [f"lab/{NAME}"]
        assert ask("")[0].startswith(f"{address}lab/tree/lab")
    finally:
        server.terminate()
        server.wait(30)


# --- where the output goes ------------------------------------------------------------------------


def test_no_output_stops_a_run(project, synthetic_data, tmp_path):
    """``catsdogs run`` where output cannot hold what is printed, and there is no other stream."""
    code = f"""
import pathlib, sys
from catsdogs import cli, paths
paths.PROJECT = pathlib.Path({str(project)!r})
sys.exit(cli.main(["run", "01"]))
"""
    run = subprocess.run(
        '"$PYTHON" -c "$CODE" <&- 2>&-',
        shell=True,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ
        | {"PYTHON": sys.executable, "CODE": code, "CATSDOGS_DATA": str(synthetic_data)}
        | {"PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "ascii"},
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith(b"01_get_the_photos.ipynb ?")
    executed = nbformat.read(project / "build" / NAME, 4)
    assert "…" in executed.cells[2].outputs[0].text


def test_a_closed_stream_is_opened_and_an_encoding_tolerated(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", narrow)
    text.make_printing_safe()
    print("Félix …", end="", flush=True)
    assert narrow.buffer.getvalue() == "Félix ?".encode("latin-1")
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    text.open_closed_streams()
    print("nobody reads this", flush=True)
    assert sys.stdin.read() == ""
