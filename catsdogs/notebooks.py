"""Execute the notebooks top to bottom, each into a copy."""

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from queue import Empty

import matplotlib
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from traitlets import Type

from catsdogs import paths

#: Notebooks that need a package which is not in `requirements.txt`: the package, and the extra of
#: `pyproject.toml` that installs it.
_EXTRAS = {"07_the_same_in_pytorch.ipynb": ("torch", "torch")}


class ProjectKernels(KernelSpecManager):
    """Knows one kernel, this very Python, whatever else is called ``python3`` on this machine."""

    def find_kernel_specs(self) -> dict[str, str]:
        """The kernel's name, and the folder of its icon."""
        return {NATIVE_KERNEL_NAME: RESOURCES}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The project's kernel, under whatever name a notebook asks for it."""
        environment = {
            # The kernel must import this checkout, even where a different copy is installed.
            "PYTHONPATH": _search_path(),
            # Of the person's environment, as under pytest or on a server, this would hide all
            # figures.
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        return KernelSpec(resource_dir=RESOURCES, env=environment, **get_kernel_dict())


class _ShellChannel(AsyncZMQSocketChannel):
    """Waits for a reply in short turns.

    A reply that arrives while a widget's message is sent is not announced a second time, so that
    waiting for it without a limit would never end (github.com/jupyter/nbclient, issue 312).
    """

    async def get_msg(self, timeout=None):
        while timeout is None:
            try:
                return await super().get_msg(timeout=1)
            except Empty:
                continue
        return await super().get_msg(timeout)


class _KernelClient(AsyncKernelClient):
    shell_channel_class = Type(_ShellChannel)


class _KernelManager(AsyncKernelManager):
    def _client_factory_default(self):
        return _KernelClient

    def _kernel_spec_manager_default(self):
        return ProjectKernels()


def all_notebooks() -> list[Path]:
    """The project's notebooks, in reading order."""
    return sorted((paths.PROJECT / "notebooks").glob("[0-9]*.ipynb"))


def missing(notebook: Path) -> str | None:
    """What to install before `notebook` can run; None where nothing is missing."""
    package, extra = _EXTRAS.get(notebook.name, (None, None))
    if package is None or importlib.util.find_spec(package):
        return None
    return f'it needs {package}: pip install -e ".[{extra}]"'


def run(
    notebook: Path,
    output: Path,
    parameters: dict | None = None,
    *,
    html: bool = True,
    pages: Collection[str] = (),
) -> None:
    """Execute `notebook` top to bottom with `parameters`; the copy goes to `output`, also as HTML.

    `parameters` replace those of the cell tagged ``parameters``. The notebook itself is not
    changed. In the HTML page, a link to another notebook leads to that one's page if `output` has
    it or its name is among `pages`, those yet to be written.

    Raises `papermill.PapermillExecutionError` when a cell fails; the copy in `output` then holds
    what ran before it.
    """
    output.mkdir(parents=True, exist_ok=True)
    executed = output / notebook.name
    started = time.monotonic()
    print(f"{notebook.name} …", flush=True)
    # The kernel has no terminal of its own: training shows its progress on this one, if it has a
    # name (not on Windows, nor in some containers).
    with contextlib.suppress(OSError, AttributeError):
        os.environ["CATSDOGS_TERMINAL"] = os.ttyname(sys.stderr.fileno())
    with _output_to(executed.with_suffix(".log")), _own_folders():
        papermill.execute_notebook(
            notebook,
            executed,
            parameters=parameters or {},
            cwd=str(notebook.parent),
            kernel_name=NATIVE_KERNEL_NAME,
            kernel_manager_class=_KernelManager,
            progress_bar=False,
        )
    if html:
        page, _ = HTMLExporter().from_filename(str(executed))
        executed.with_suffix(".html").write_text(
            _linked(page, notebook, output, pages), encoding="utf-8"
        )
    print(f"{notebook.name} done in {time.monotonic() - started:.0f} seconds", flush=True)


def _linked(page, notebook, output, pages):
    """The HTML `page` of `notebook`, whose links to notebooks lead where there is something."""

    def target(link):
        name = link[1]
        if f"{name}.ipynb" in pages or (output / f"{name}.html").exists():
            return f'href="{name}.html'
        return f'href="{os.path.relpath(notebook.parent, output)}/{name}.ipynb'.replace(os.sep, "/")

    return re.sub(r'href="(\d\d_\w+)\.ipynb', target, page)


def _search_path():
    """``PYTHONPATH`` with this checkout in front."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(paths.PROJECT), *filter(None, given)]))


@contextlib.contextmanager
def _own_folders():
    """Give Jupyter and IPython a folder for what they keep while a notebook runs.

    Theirs, in the home folder, may be read-only, and hold settings by which a notebook runs
    differently.
    """
    matplotlib.get_cachedir()  # warns here, not in the notebook, if it must be a temporary one
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="catsdogs-", ignore_cleanup_errors=True) as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = os.environ["IPYTHONDIR"] = folder
        try:
            yield
        finally:
            for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
                os.environ.pop(name)
                if name in before:
                    os.environ[name] = before[name]


@contextlib.contextmanager
def _output_to(path):
    """Redirect the output of this process and its children to the file `path`.

    File descriptors rather than `sys.stdout`: most of it is logged by libraries written in C++.
    """
    sys.stdout.flush(), sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with open(path, "wb") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        os.close(kept[0]), os.close(kept[1])
