"""Run the notebooks top to bottom, and make them fit to be shared."""

import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter

from catsdogs import paths

#: What stands in a shared notebook where a photo would: the licence of the photos forbids passing them on.
NO_PHOTOS = "Photos are not kept in this file: run this cell to see them.\n"


#: What stands there where controls would.
CONTROLS = "Controls appear here when this cell is run.\n"

#: Notebooks that need what `requirements.txt` does not bring: the package, and the file that does.
_EXTRAS = {"07_the_same_in_pytorch.ipynb": ("torch", "requirements-torch.txt")}


def all_notebooks() -> list[Path]:
    """The project's notebooks, in the order they are read in."""
    return sorted((paths.PROJECT / "notebooks").glob("[0-9]*.ipynb"))


def missing(notebook: Path) -> str | None:
    """What has to be done before `notebook` can run, where it needs a package that is not installed; else None."""
    package, requirements = _EXTRAS.get(notebook.name, (None, None))
    if package is None or importlib.util.find_spec(package):
        return None
    return f"it needs {package}: pip install -r {requirements}"


def run(notebook: Path, output: Path, parameters: dict | None = None, *, html: bool = True) -> None:
    """Run `notebook` top to bottom with `parameters`, into the folder `output`, also as HTML.

    The notebook itself is not changed. Raises `papermill.PapermillExecutionError` when a cell fails; the
    part that ran is in `output` all the same.
    """
    output.mkdir(parents=True, exist_ok=True)
    executed = output / notebook.name
    started = time.monotonic()
    print(f"{notebook.name} …", flush=True)
    if sys.stderr.isatty():
        # The kernel has no terminal of its own; this lets training show its progress on ours.
        os.environ["CATSDOGS_TERMINAL"] = os.ttyname(sys.stderr.fileno())
    with _output_to(executed.with_suffix(".log")):
        papermill.execute_notebook(notebook, executed, parameters=parameters or {}, cwd=str(notebook.parent),
                                   kernel_name="python3", progress_bar=False)
    if html:
        page, _ = HTMLExporter().from_filename(str(executed))
        executed.with_suffix(".html").write_text(page, encoding="utf-8")
    print(f"{notebook.name} done in {time.monotonic() - started:.0f} seconds", flush=True)


def publish(executed: Path, notebook: Path) -> None:
    """Write the executed notebook over the project's own, without photos and without traces of this machine."""
    content = nbformat.read(executed, as_version=4)
    content.metadata = {key: content.metadata[key] for key in ("kernelspec", "language_info")}
    content.metadata["language_info"] = {"name": "python"}
    for cell in content.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type != "code":
            continue
        if "photos" in cell.metadata.get("tags", []):
            cell.outputs = [_said(NO_PHOTOS)]
        # Progress bars and libraries' warnings are this run's, not the reader's. A widget lives only as long
        # as the program behind it.
        cell.outputs = [_said(CONTROLS) if _is_widget(out) else out for out in cell.outputs
                        if not (out.output_type == "stream" and out.name == "stderr") and not _is_progress(out)]
    nbformat.validate(content)
    nbformat.write(content, notebook)


@contextlib.contextmanager
def _output_to(path):
    """Send what this process and those it starts print, libraries' notes for the most part, to a file."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with open(path, "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        os.close(kept[0]), os.close(kept[1])


def _said(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def _is_widget(out):
    return "application/vnd.jupyter.widget-view+json" in out.get("data", {})


def _is_progress(out):
    return "%|" in out.get("data", {}).get("text/plain", "")
