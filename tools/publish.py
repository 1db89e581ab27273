"""Publish: run the notebooks on the real photos, update them, the models and the documents.

    python -m tools.publish [NN ...]

``NN``, such as ``01 03``, chooses notebooks; none means all. They are written back without photos,
whose licence forbids redistribution, and without traces of this machine. ``make publish`` is the
same for all of them.

Notebooks train runs of one's own; here, and only here, those become the included models and
records. They are trained in a folder of their own, so that nobody's other runs are published. A run
that is on record already is not trained again.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

import nbformat

from catsdogs import cli, notebooks, paths
from catsdogs.analysis import compare
from catsdogs.data import dataset
from catsdogs.serving import export
from catsdogs.training import records
from tools import report
from tools.drop_photos import NO_PHOTOS

#: What replaces interactive controls there.
CONTROLS = "Controls appear here when this cell is run.\n"


def main(numbers: list[str]) -> int:
    """Run notebooks and publish them with the model's formats and all numbers; the exit status."""
    if dataset.origin() != "asirra" or not paths.photos().exists():
        print("Publishing needs Asirra's photos: bash download_data.sh first.", file=sys.stderr)
        return 1
    build = paths.PROJECT / "build" / "published"
    os.environ["CATSDOGS_RUNS"] = str(build / "runs")
    chosen = cli.chosen_notebooks(numbers)
    if chosen is None:
        return 2
    finished = {notebook.name: {"RESUME": "finished"} for notebook in chosen if _trains(notebook)}
    for notebook in chosen:
        if status := cli.execute(build, [notebook], finished):
            return status
        include(notebook.name[:2])
        for folder in paths.runs().glob("[!.]*/"):  # notebook 03 would list them
            shutil.rmtree(folder)
        strip(build / notebook.name, notebook)
    return report.main(check=False)


def include(number: str) -> None:
    """Make the runs that notebook `number` has trained the included models and records."""
    if number == "02":
        evaluate_and_export(cli.OWN_RUN, report.MODEL)
    elif number == "05":
        for key in report.COMPARED:
            own, included = compare.run_names(key)
            if records.exists(own):
                records.publish(own, included, formats=())
    elif number == "06":
        records.publish("my-pretrained", report.PRETRAINED)
        if records.exists("my-pretrained-fine-tuned"):
            records.publish("my-pretrained-fine-tuned", report.FINE_TUNED, formats=())
    elif number == "07" and records.exists("my-pytorch"):
        records.publish("my-pytorch", "pytorch", formats=())


def evaluate_and_export(own: str, included: str) -> None:
    """Test and calibrate the run `own` with notebook 03; include it, in every format.

    A run that was taken from the included record stays as it was included.
    """
    if records.read(own)["run_key"] == records.read(included)["run_key"]:
        return
    notebook = next(path for path in notebooks.all_notebooks() if path.name.startswith("03"))
    scratch = paths.PROJECT / "build" / "evaluated"
    if cli.execute(scratch, [notebook], {notebook.name: {"MODEL": own}}):
        raise SystemExit(1)
    records.publish(own, included)
    folder = paths.included() / included
    # The other formats contain the model and its calibration.
    records.add_facts(own, exports=export.export_and_compare(folder / "model.keras", folder))
    records.publish(own, included)


def _trains(notebook: Path) -> bool:
    return notebook.name[:2] in ("02", "07")


def strip(executed: Path, notebook: Path) -> None:
    """Replace `notebook` by its copy `executed`, without photos or traces of this machine."""
    content = nbformat.read(executed, as_version=4)
    content.metadata = {key: content.metadata[key] for key in ("kernelspec", "language_info")}
    content.metadata["language_info"] = {"name": "python"}
    # Of the parameters, the defaults are published.
    content.cells = [
        cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    counted = itertools.count(1)
    for cell in content.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = next(counted)
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = cell.execution_count
        if "photos" in cell.metadata.get("tags", []):
            cell.outputs = [_text(NO_PHOTOS)]
        # Progress bars and libraries' warnings are of no use to a reader, and a widget needs its
        # kernel.
        cell.outputs = [
            _text(CONTROLS) if _is_widget(out) else out
            for out in cell.outputs
            if not (out.output_type == "stream" and out.name == "stderr") and not _is_progress(out)
        ]
    nbformat.validate(content)
    nbformat.write(content, notebook)


def _text(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def _is_widget(out):
    return "application/vnd.jupyter.widget-view+json" in out.get("data", {})


def _is_progress(out):
    return "%|" in out.get("data", {}).get("text/plain", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
