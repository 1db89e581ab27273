"""Execute the notebooks top to bottom, each into a copy."""

import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

import papermill
from nbconvert import HTMLExporter

from catsdogs import paths

#: Notebooks that need a package which is not in `requirements.txt`: the package, and the extra of
#: `pyproject.toml` that installs it.
_EXTRAS = {"07_the_same_in_pytorch.ipynb": ("torch", "torch")}


def all_notebooks() -> list[Path]:
    """The project's notebooks, in reading order."""
    return sorted((paths.PROJECT / "notebooks").glob("[0-9]*.ipynb"))


def missing(notebook: Path) -> str | None:
    """What to install before `notebook` can run; None where nothing is missing."""
    package, extra = _EXTRAS.get(notebook.name, (None, None))
    if package is None or importlib.util.find_spec(package):
        return None
    return f'it needs {package}: pip install -e ".[{extra}]"'


def run(notebook: Path, output: Path, parameters: dict | None = None, *, html: bool = True) -> None:
    """Execute `notebook` top to bottom with `parameters`; the copy goes to `output`, also as HTML.

    `parameters` replace those of the cell tagged ``parameters``. The notebook itself is not
    changed. Raises `papermill.PapermillExecutionError` when a cell fails; the copy in `output` then
    holds what ran before it.
    """
    output.mkdir(parents=True, exist_ok=True)
    executed = output / notebook.name
    started = time.monotonic()
    print(f"{notebook.name} …", flush=True)
    if sys.stderr.isatty():
        # The kernel has no terminal of its own: training shows its progress on this one.
        os.environ["CATSDOGS_TERMINAL"] = os.ttyname(sys.stderr.fileno())
    # The kernel must import this checkout, even where a different copy is installed.
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
    """Redirect the output of this process and its children to the file `path`.

    File descriptors rather than `sys.stdout`: most of it is logged by libraries written in C++.
    """
    sys.stdout.flush(), sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with open(path, "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        os.close(kept[0]), os.close(kept[1])
