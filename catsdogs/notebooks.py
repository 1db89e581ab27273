"""Run the notebooks top to bottom, each into a copy."""

import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

import papermill
from nbconvert import HTMLExporter

from catsdogs import paths

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
    # The kernel imports this project, whatever is installed beside it.
    searched = [str(paths.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        dict.fromkeys(os.pathsep.join(searched).split(os.pathsep))
    )
    with _output_to(executed.with_suffix(".log")):
        papermill.execute_notebook(
            notebook,
            executed,
            parameters=parameters or {},
            cwd=str(notebook.parent),
            kernel_name="python3",
            progress_bar=False,
        )
    if html:
        page, _ = HTMLExporter().from_filename(str(executed))
        executed.with_suffix(".html").write_text(page, encoding="utf-8")
    print(f"{notebook.name} done in {time.monotonic() - started:.0f} seconds", flush=True)


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
