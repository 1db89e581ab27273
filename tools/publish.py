"""Publish: run the notebooks on the real photos, update them, the models and the documents.

    python -m tools.publish [NN ...]

``NN``, such as ``01 03``, chooses notebooks; none means all. They are written back without photos,
whose licence forbids redistribution, and without traces of this machine. ``make publish`` is the
same for all of them.
"""

import sys
from pathlib import Path

import nbformat

from catsdogs import cli, paths
from catsdogs.data import dataset
from catsdogs.serving import export
from catsdogs.training import records
from tools import report

#: What replaces photos in a published notebook.
NO_PHOTOS = "Photos are not kept in this file: run this cell to see them.\n"
#: What replaces interactive controls there.
CONTROLS = "Controls appear here when this cell is run.\n"


def main(numbers: list[str]) -> int:
    """Run notebooks and publish them with the model's formats and all numbers; the exit status."""
    if dataset.is_synthetic() or not paths.photos().exists():
        print("Publishing needs the real photos: ./download_data.sh first.", file=sys.stderr)
        return 1
    build = paths.PROJECT / "build" / "published"
    chosen = cli.chosen_notebooks(numbers)
    status = 2 if chosen is None else cli.execute(build, chosen)
    if status == 0:
        for notebook in chosen:
            strip(build / notebook.name, notebook)
        if any(notebook.name[:2] in ("02", "03") for notebook in chosen):
            # The other formats contain the model and its calibration.
            records.add_facts(
                report.MODEL,
                exports=export.export_and_compare(
                    paths.models() / f"{report.MODEL}.keras", paths.models()
                ),
            )
        status = report.main(check=False)
    return status


def strip(executed: Path, notebook: Path) -> None:
    """Replace `notebook` by its copy `executed`, without photos or traces of this machine."""
    content = nbformat.read(executed, as_version=4)
    content.metadata = {key: content.metadata[key] for key in ("kernelspec", "language_info")}
    content.metadata["language_info"] = {"name": "python"}
    for cell in content.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type != "code":
            continue
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
