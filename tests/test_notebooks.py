"""The notebooks: run top to bottom on synthetic photos, and fit to share as they are committed."""

import ast
import asyncio
import concurrent.futures
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from queue import Empty

import nbformat
import pytest
from jupyter_client.channels import AsyncZMQSocketChannel
from papermill import inspect_notebook

from catsdogs import cli as command_line
from catsdogs import lab, notebooks, paths
from catsdogs.data import dataset, splits
from catsdogs.training import fit, records
from tools import publish

# As JSON has them: papermill knows no tuples.
BASELINE, TWO_CONV, RESIDUAL = json.loads(json.dumps([fit.BASELINE, fit.TWO_CONV, fit.RESIDUAL]))
TINY_TWO_CONV = TWO_CONV | {
    "IMAGE_SIZE": 56,
    "BATCH_SIZE": 16,
    "EPOCHS": 2,
    "FILTERS": [4, 8],
    "DENSE_UNITS": 8,
    "LEAVE_OUT": True,
}
TINY_RESIDUAL = RESIDUAL | {
    "IMAGE_SIZE": 40,
    "CROP_SIZE": 32,
    "STEM_FILTERS": 4,
    "FILTERS": [4, 8],
    "BLOCKS": [1, 1],
    "BATCH_SIZE": 16,
    "EPOCHS": 2,
}
SMALL = {
    "01_get_the_photos.ipynb": {"SOURCE": "synthetic", "IMAGE_SIZE": 32},
    "02_train_the_cnn.ipynb": {
        "IMAGE_SIZE": 56,
        "BATCH_SIZE": 16,
        "EPOCHS": 2,
        "FILTERS": [4, 8],
        "DENSE_UNITS": 8,
    },
    "03_read_the_results.ipynb": {"MODEL": "my-run"},
    "04_classify_new_photos.ipynb": {"MODEL": "my-run-synthetic", "SHOWN": 4},
    "05_compare_networks.ipynb": {
        "BASELINE": BASELINE | {"IMAGE_SIZE": 32, "EPOCHS": 2},
        "TWO_CONV": TINY_TWO_CONV,
        "RESIDUAL": TINY_RESIDUAL,
        "LARGE": TINY_RESIDUAL | {"BLOCKS": [2, 1]},
        "TRAIN_LARGE": True,
        "SEEDS": [3],
    },
    "06_use_a_pretrained_network.ipynb": {
        "NETWORKS": {"efficientnet-lite0": 64},
        "C_VALUES": [0.01, 0.1],
        "FINE_TUNE": "efficientnet-lite0",
        "BLOCK": 13,
        "EPOCHS": 1,
    },
    "07_the_same_in_pytorch.ipynb": {
        "IMAGE_SIZE": 56,
        "BATCH_SIZE": 16,
        "EPOCHS": 2,
        "FILTERS": [4, 8],
        "DENSE_UNITS": 8,
        "KERAS_NAME": "my-run",
    },
    "08_submit_to_kaggle.ipynb": {
        "COMPETITION": "dogs-vs-cats",
        "MODELS": ["my-pretrained", "my-run"],
        "SEEDS": ["my-two-conv", "my-seed-3"],
    },
    "09_audit_the_labels.ipynb": {"NETWORKS": {"efficientnet-lite0": 64}},
}
NOTEBOOKS = [path.name for path in notebooks.all_notebooks()]
MISSING = {path.name: notebooks.missing(path) for path in notebooks.all_notebooks()}
#: The notebooks for tests that run them: some need what may not be installed.
RUN = [
    pytest.param(name, marks=pytest.mark.skipif(bool(MISSING[name]), reason=MISSING[name] or ""))
    for name in NOTEBOOKS
]


#: Cells that a test adds to the copy it runs: what a notebook writes out is what the package has.
CHECKS = {
    "02_train_the_cnn.ipynb": """
keys = {fit.key(hyperparameters, dataset, build=build), fit.key(hyperparameters, dataset)}
assert keys == {run_key}
configs = []
theirs = fit.learning_rate_schedule(LEARNING_RATE, steps, WARMUP)
rates = [[float(rate(step)) for step in range(steps + 1)] for rate in (schedule, theirs)]
assert rates[0] == rates[1] and max(rates[0]) == np.float32(LEARNING_RATE)
for one in (optimizer, fit.optimizer(hyperparameters, steps_per_epoch)):
    configs.append(one.get_config() | {"name": ""})  # Keras counts up names
assert configs[0] == configs[1]
print("the package has the same network, schedule and optimizer")
""",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The project as Git would clone it, had all that it does not ignore been committed."""
    folder = tmp_path_factory.mktemp("clone")
    settings = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    git = ["git", *settings, f"--git-dir={folder / '.git'}"]
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([*git, f"--work-tree={paths.PROJECT}", "add", "-A"], check=True)
    subprocess.run([*git, f"--work-tree={folder}", "commit", "-qm", "test"], check=True)
    subprocess.run(["git", "-C", folder, "reset", "-q", "--hard"], check=True)
    return folder


@pytest.fixture(scope="module")
def executed(synthetic_data, clone):
    """The working copies of all notebooks, run in order and saved, with small parameters."""
    folder = clone / "build"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT", clone)
        patch.setenv("CATSDOGS_DATA", str(synthetic_data))
        patch.delenv("CATSDOGS_RUNS", raising=False)
        lab.copy_notebooks()
        for name in NOTEBOOKS:
            if not MISSING[name]:
                copy = clone / "lab" / name
                add_checks(copy)
                notebooks.run(copy, folder, SMALL[name])
                shutil.copy(folder / name, copy)
        record = records.read("my-run-synthetic")
    return folder, record


def add_checks(notebook):
    """Add the cell of `CHECKS` to the copy `notebook`."""
    if notebook.name in CHECKS:
        content = nbformat.read(notebook, 4)
        code = "import numpy as np\n" + CHECKS[notebook.name]
        content.cells.append(nbformat.v4.new_code_cell(code))
        nbformat.write(content, notebook)


def test_running_all_working_copies_leaves_nothing_to_commit(executed):
    folder, _ = executed
    status = ["git", "-C", folder.parent, "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


def test_notebook_02_writes_out_what_the_package_has(executed):
    folder, _ = executed
    assert outputs(folder, "02_train_the_cnn.ipynb")[-1].text.startswith("the package has the same")


def test_the_defaults_of_notebook_02_are_those_of_the_package():
    notebook = paths.PROJECT / "notebooks" / "02_train_the_cnn.ipynb"
    defaults = {name: found["default"] for name, found in inspect_notebook(notebook).items()}
    for name, value in fit.TWO_CONV.items():
        if name != "NETWORK":
            assert ast.literal_eval(defaults[name]) == value, name
    others = {"SPLIT", "SEED", "PRECISION", "CLASS_WEIGHT", "NAME", "RESUME"}
    assert set(defaults) - set(fit.TWO_CONV) == others


def outputs(folder, name, tag=None):
    cells = nbformat.read(folder / name, 4).cells
    return [
        out
        for cell in cells
        if cell.cell_type == "code" and (tag is None or tag in cell.metadata.get("tags", []))
        for out in cell.outputs
    ]


def test_they_leave_a_model_and_its_record(executed):
    folder, record = executed
    assert {
        path.name for path in (folder.parent / "models" / "runs" / "my-run-synthetic").iterdir()
    } == {
        "model.keras",
        "record.json",
    }
    assert record["data"]["source"] == "synthetic" and record["epochs"] == 2 == len(
        record["history"]["val_loss"]
    )
    assert (
        record["metrics"]["val"]["photos"]
        + record["metrics"]["test"]["photos"]
        + record["data"]["photos"]["train"]
        == 120
    )
    assert record["hyperparameters"]["FILTERS"] == [4, 8] and record["parameters"] > 500


@pytest.mark.parametrize("name", RUN)
def test_every_figure_is_shown(executed, name):
    folder, _ = executed
    for cell in nbformat.read(folder / name, 4).cells:
        if (
            cell.cell_type == "code"
            and "plots." in cell.source
            and "import" not in cell.source
            and "interact" not in cell.source
        ):
            # The synthetic sample has no duplicates to show; no address is given, and nothing
            # uploaded; a definition draws later.
            if any(
                text in cell.source
                for text in ("if both", "if URL", "FileUpload", "def train_model")
            ):
                continue
            assert any("image/png" in out.get("data", {}) for out in cell.outputs), cell.source


@pytest.mark.parametrize("name", RUN)
def test_a_page_is_written_and_nothing_failed(executed, name):
    folder, _ = executed
    assert (folder / name).with_suffix(".html").stat().st_size > 50_000
    assert not [out for out in outputs(folder, name) if out.output_type == "error"]


def test_a_synthetic_run_says_so_in_words(executed):
    folder, _ = executed
    text = "".join(
        out.text for out in outputs(folder, "02_train_the_cnn.ipynb") if out.output_type == "stream"
    )
    assert "all synthetic" in text and "on synthetic photos" in text


def test_publishing_keeps_numbers_and_drops_photos(executed, tmp_path):
    folder, _ = executed
    for name in NOTEBOOKS:
        if MISSING[name]:
            continue
        assert any("image/png" in out.get("data", {}) for out in outputs(folder, name, "photos"))
        publish.strip(folder / name, tmp_path / name)
        for out in outputs(tmp_path, name, "photos"):
            assert out.output_type == "stream" and out.text == publish.NO_PHOTOS
        shared = nbformat.read(tmp_path / name, 4)
        assert set(shared.metadata) == {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in shared.cells)
    assert any(
        "image/png" in out.get("data", {}) for out in outputs(tmp_path, "03_read_the_results.ipynb")
    )


def test_without_any_source_the_synthetic_sample_is_used_and_it_says_so(empty, monkeypatch, capfd):
    shutil.rmtree(empty)
    monkeypatch.setenv("CATSDOGS_URL", "http://127.0.0.1:9/nothing-listens-here.zip")
    monkeypatch.setenv("CATSDOGS_SYNTHETIC", "10")
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    assert command_line.fetch() == 0
    assert (
        "No source of photos can be reached. Carrying on with the synthetic sample"
        in capfd.readouterr().out
    )
    assert dataset.is_synthetic() and len(list((empty / "PetImages").glob("*/*.jpg"))) == 20


def test_a_notebook_can_be_chosen_by_its_number(synthetic, monkeypatch, capsys):
    ran = {}

    def execute(folder, chosen, parameters):
        ran.update({path.name[:2]: parameters.get(path.name) for path in chosen})
        return 0

    monkeypatch.setattr(command_line, "execute", execute)
    assert command_line.main(["run", "08", "03"]) == 0 and ran == {"03": None, "08": None}
    assert (
        command_line.main(["run", "77"]) == 2
        and "No notebook 77: choose from 01, 02" in capsys.readouterr().err
    )


def test_running_all_evaluates_the_run_that_was_trained(executed, synthetic, monkeypatch, capsys):
    folder, record = executed
    monkeypatch.setenv("CATSDOGS_RUNS", str(folder.parent / "models" / "runs"))
    given = {}
    monkeypatch.setattr(
        command_line, "execute", lambda folder, chosen, parameters: given.update(parameters) or 0
    )
    assert command_line.main(["run"]) == 0 and given == {
        "03_read_the_results.ipynb": {"MODEL": "my-run"}
    }
    accuracy = record["metrics"]["test"]["accuracy"]["value"]
    assert f"{accuracy:.1%} test accuracy" in capsys.readouterr().out


def test_a_notebook_that_needs_what_is_not_installed_says_so_and_the_others_run(
    monkeypatch, capsys
):
    monkeypatch.setitem(
        notebooks._EXTRAS,
        "07_the_same_in_pytorch.ipynb",
        ("no_such_package", "torch"),
    )
    assert command_line.main(["run", "07"]) == 2
    assert capsys.readouterr().err == (
        "07_the_same_in_pytorch.ipynb cannot run: it needs no_such_package: "
        'pip install -e ".[torch]"\n'
    )
    assert [
        path.name[:2] for path in command_line.chosen_notebooks(command_line.DEFAULT_NOTEBOOKS)
    ] == ["01", "02", "03", "04"]


# --- as they are committed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_committed_notebook_was_run_and_holds_no_photo(name):
    content = nbformat.read(paths.PROJECT / "notebooks" / name, 4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not any(out.output_type == "error" for out in cell.outputs)
        tags = cell.metadata.get("tags", [])
        assert ("photo_grid" in cell.source) == ("photos" in tags), cell.source
        if "photos" in tags:
            assert [out.get("text") for out in cell.outputs] == [publish.NO_PHOTOS]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    shown = json.dumps([cell.outputs for cell in code])
    assert "synthetic sample" not in shown and "all synthetic" not in shown


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python in which nothing is installed but pip, as the project is not on Colab."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_finds_the_project_or_fetches_it(name, tmp_path, bare_python):
    """As on Colab: the notebook alone in an empty folder, and an address to clone from."""
    cell = next(
        cell
        for cell in nbformat.read(paths.PROJECT / "notebooks" / name, 4).cells
        if cell.cell_type == "code"
    )
    assert "find-project" in cell.metadata["tags"]
    report = "\nimport catsdogs.paths; print(catsdogs.paths.PROJECT)"

    def run(code, where):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [bare_python, "-c", code + report],
            cwd=where,
            capture_output=True,
            text=True,
            env=environment,
        )

    inside = run(cell.source, paths.PROJECT / "notebooks")
    assert inside.stdout.split() == [str(paths.PROJECT)], inside.stderr
    alone = run(cell.source, tmp_path)
    assert (
        alone.returncode == 1
        and "put its address into REPOSITORY" in alone.stderr
        and "Traceback" not in alone.stderr
    )

    repository = tmp_path / "published"
    shutil.copytree(
        paths.PROJECT / "catsdogs",
        repository / "catsdogs",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (repository / "requirements.txt").write_text("# nothing: what this test needs is installed\n")
    git = [
        "git",
        "-C",
        str(repository),
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
    ]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "test"], check=True)
    code = cell.source.replace('REPOSITORY = ""', f'REPOSITORY = "file://{repository}"')
    for _ in range(2):  # the second time it is there
        fetched = run(code, tmp_path)
        assert fetched.stdout.split()[-1:] == [str(tmp_path / "cats-vs-dogs")], fetched.stderr


# --- classifying, in the notebook -----------------------------------------------------------------


def test_notebook_01_prepares_a_few_photos_of_ones_own(synthetic_data, tmp_path, monkeypatch):
    """Whatever they and their folder are called, and fewer than the figures have room for."""
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "data"))
    folder = tmp_path / "My Drive" / "p (1); $HOME `id` 'q'"
    for name, count in (("Cats", 12), ("my dogs", 4)):
        (folder / "train" / name / ".ipynb_checkpoints").mkdir(parents=True)
        for number in range(1, count + 1):
            photo = synthetic_data / "PetImages" / ("Cat" if name == "Cats" else "Dog")
            shutil.copy(photo / f"{number}.jpg", folder / "train" / name / f"IMG {number}.JPG")
        shutil.copy(photo / "1.jpg", folder / "train" / name / ".ipynb_checkpoints")
    parameters = {"SOURCE": f"zip {folder}", "IMAGE_SIZE": 8}
    name = "01_get_the_photos.ipynb"
    notebooks.run(paths.PROJECT / "notebooks" / name, tmp_path, parameters, html=False)
    text = "".join(out.text for out in outputs(tmp_path, name) if "text" in out)
    assert "16 files: 0 corrupt, 16 good photos (12 cats, 4 dogs)" in text
    assert "The classes are imbalanced: 12 cats and 4 dogs" in text
    rows = splits.prepare("full", progress=False)
    assert len(rows.groupby(["label", "subset"])) == 6


def test_new_photos_from_a_folder_and_from_the_web(synthetic_data, tmp_path, monkeypatch):
    """Without any photos of the project's, with the included model: a folder, a bad file in it,
    and an address."""
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "data"))
    album = tmp_path / "album"
    album.mkdir()
    for index, photo in enumerate(sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::40]):
        shutil.copy(photo, album / f"{index}.jpg")
    (album / "broken.jpg").write_text("no photo")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=album)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        notebooks.run(
            paths.PROJECT / "notebooks" / "04_classify_new_photos.ipynb",
            tmp_path,
            {"PHOTOS": str(album), "URL": f"http://127.0.0.1:{server.server_port}/1.jpg"},
            html=False,
        )
    finally:
        server.shutdown()
    cells = nbformat.read(tmp_path / "04_classify_new_photos.ipynb", 4).cells
    pictures = [
        cell
        for cell in cells
        if cell.cell_type == "code"
        and any("image/png" in out.get("data", {}) for out in cell.outputs)
    ]
    assert sum("explain_photos" in cell.source for cell in pictures) == 2
    tables = "".join(
        out.data["text/html"]
        for cell in cells
        if cell.cell_type == "code"
        for out in cell.outputs
        if "text/html" in out.get("data", {})
    )
    assert "broken.jpg" in tables and "no photo" in tables and "0.jpg" in tables


def test_new_photos_where_there_are_none_are_synthetic_on_the_spot(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "data"))
    notebooks.run(
        paths.PROJECT / "notebooks" / "04_classify_new_photos.ipynb",
        tmp_path,
        {"SHOWN": 2},
        html=False,
    )
    text = "".join(
        out.text
        for out in outputs(tmp_path, "04_classify_new_photos.ipynb")
        if out.output_type == "stream"
    )
    assert "2 photos: synthetic photos made on the spot" in text


def test_a_reply_that_is_never_announced_does_not_stop_the_run(monkeypatch):
    """As it happens where a reply arrives while a widget's message is being sent."""
    waits = []

    async def get_msg(self, timeout=None):
        waits.append(timeout)
        if timeout is None:
            pytest.fail("this would wait forever")
        if len(waits) < 3:
            raise Empty
        return {"msg_type": "execute_reply"}

    monkeypatch.setattr(AsyncZMQSocketChannel, "get_msg", get_msg)
    client = notebooks._KernelManager().client()
    channel = client.shell_channel_class.__new__(client.shell_channel_class)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # it has no running loop
        message = pool.submit(lambda: asyncio.run(channel.get_msg())).result()
    assert message == {"msg_type": "execute_reply"} and len(waits) == 3
