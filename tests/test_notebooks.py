"""The notebooks: run top to bottom on drawn photos, and fit to be shared as they are committed."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from catsdogs import __main__ as command_line, dataset, notebooks, paths, records

SMALL = {
    "01_get_the_photos.ipynb": {"SOURCE": "drawn", "IMAGE_SIZE": 32},
    "02_train_the_cnn.ipynb": {"IMAGE_SIZE": 56, "BATCH_SIZE": 16, "EPOCHS": 2, "FILTERS": [4, 8], "DENSE_UNITS": 8},
    "03_read_the_results.ipynb": {},
    "06_use_a_pretrained_network.ipynb": {"NETWORKS": {"efficientnet-lite0": 64}, "STRENGTHS": [0.01, 0.1]},
    "08_submit_to_kaggle.ipynb": {"COMPETITION": "dogs-vs-cats"},
    "09_audit_the_labels.ipynb": {"NETWORKS": {"efficientnet-lite0": 64}},
}
NOTEBOOKS = [path.name for path in notebooks.all_notebooks()]


@pytest.fixture(scope="module")
def executed(drawn_data, tmp_path_factory):
    """All notebooks run in order, as `make run` runs them, with small parameters."""
    folder = tmp_path_factory.mktemp("executed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATSDOGS_DATA", str(drawn_data))
        patch.setenv("CATSDOGS_MODELS", str(folder / "models"))
        for name in NOTEBOOKS:
            notebooks.run(paths.PROJECT / "notebooks" / name, folder, SMALL[name])
        record = records.read("cats_vs_dogs_drawn")
    return folder, record


def outputs(folder, name, tag=None):
    cells = nbformat.read(folder / name, 4).cells
    return [out for cell in cells if cell.cell_type == "code" and (tag is None or tag in cell.metadata.get("tags", []))
            for out in cell.outputs]


def test_they_leave_a_model_and_its_record(executed):
    folder, record = executed
    assert (folder / "models" / "cats_vs_dogs_drawn.keras").exists() and (folder / "models" / "cats_vs_dogs_drawn.h5").exists()
    assert record["data"]["source"] == "drawn" and record["epochs"] == 2 == len(record["history"]["val_loss"])
    assert record["metrics"]["val"]["photos"] + record["metrics"]["test"]["photos"] + record["data"]["photos"]["train"] == 120
    assert record["hyperparameters"]["FILTERS"] == [4, 8] and record["parameters"] > 500


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_is_shown(executed, name):
    folder, _ = executed
    for cell in nbformat.read(folder / name, 4).cells:
        if cell.cell_type == "code" and "plots." in cell.source and "import" not in cell.source and "interact" not in cell.source:
            if "if both" in cell.source:  # the drawn sample has no duplicates to show
                continue
            assert any("image/png" in out.get("data", {}) for out in cell.outputs), cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_is_written_and_nothing_failed(executed, name):
    folder, _ = executed
    assert (folder / name).with_suffix(".html").stat().st_size > 50_000
    assert not [out for out in outputs(folder, name) if out.output_type == "error"]


def test_a_drawn_run_says_so_in_words(executed):
    folder, _ = executed
    text = "".join(out.text for out in outputs(folder, "02_train_the_cnn.ipynb") if out.output_type == "stream")
    assert "all drawn" in text and "on drawn pictures" in text


def test_publishing_keeps_numbers_and_drops_photos(executed, tmp_path):
    folder, _ = executed
    for name in NOTEBOOKS:
        assert any("image/png" in out.get("data", {}) for out in outputs(folder, name, "photos"))
        notebooks.publish(folder / name, tmp_path / name)
        for out in outputs(tmp_path, name, "photos"):
            assert out.output_type == "stream" and out.text == notebooks.NO_PHOTOS
        shared = nbformat.read(tmp_path / name, 4)
        assert set(shared.metadata) == {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in shared.cells)
    assert any("image/png" in out.get("data", {}) for out in outputs(tmp_path, "03_read_the_results.ipynb"))


def test_without_any_source_the_drawn_sample_is_used_and_it_says_so(empty, monkeypatch, capfd):
    shutil.rmtree(empty)
    monkeypatch.setenv("CATSDOGS_URL", "http://127.0.0.1:9/nothing-listens-here.zip")
    monkeypatch.setenv("CATSDOGS_DRAWN", "10")
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    assert command_line.fetch() == 0
    assert "No source of photos can be reached. Carrying on with the drawn sample" in capfd.readouterr().out
    assert dataset.is_drawn() and len(list((empty / "PetImages").glob("*/*.jpg"))) == 20


# --- as they are committed -------------------------------------------------------------------------


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
            assert [out.get("text") for out in cell.outputs] == [notebooks.NO_PHOTOS]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert "drawn sample" not in json.dumps(content) or name.startswith("01")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_finds_the_project_or_fetches_it(name, tmp_path):
    """As on Colab: the notebook alone in an empty folder, and an address to clone from."""
    cell = next(cell for cell in nbformat.read(paths.PROJECT / "notebooks" / name, 4).cells if cell.cell_type == "code")
    assert "find-project" in cell.metadata["tags"]
    report = "\nimport catsdogs.paths; print(os.getcwd(), catsdogs.paths.PROJECT)"

    def run(code, where):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run([sys.executable, "-c", code + report], cwd=where, capture_output=True, text=True, env=environment)

    inside = run(cell.source, paths.PROJECT / "notebooks")
    assert inside.stdout.split() == [str(paths.PROJECT)] * 2, inside.stderr
    alone = run(cell.source, tmp_path)
    assert alone.returncode == 1 and "put its address into REPOSITORY" in alone.stderr and "Traceback" not in alone.stderr

    repository = tmp_path / "published"
    shutil.copytree(paths.PROJECT / "catsdogs", repository / "catsdogs", ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "requirements.txt").write_text("# nothing: what this test needs is installed\n")
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "test"], check=True)
    code = cell.source.replace('REPOSITORY = ""', f'REPOSITORY = "file://{repository}"')
    for _ in range(2):  # the second time it is there
        fetched = run(code, tmp_path)
        assert fetched.stdout.split()[-2:] == [str(tmp_path / "cats-vs-dogs")] * 2, fetched.stderr
