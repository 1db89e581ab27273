"""JupyterLab on working copies of the notebooks.

The notebooks in ``notebooks/`` are tracked by Git, and one that was run holds photos, which may not
be redistributed. So people work in ``lab/``, which Git ignores and nothing but they write to; it
lies beside ``notebooks/`` so that all relative links lead to the same places.
"""

import filecmp
import os
import tempfile
from collections.abc import Collection, Sequence
from itertools import count
from pathlib import Path

import matplotlib
from jupyter_core import paths as jupyter_paths

from catsdogs import files, notebooks, paths


def folder() -> Path:
    """The folder of the working copies."""
    return paths.PROJECT / "lab"


def copy_notebooks(fresh: Collection[Path] = ()) -> list[Path]:
    """Copy each notebook that has no working copy yet; returns the others that are out of date.

    A copy that was changed, or only run, is left as it is, even if the notebook it was made from
    has been updated since; then it is out of date. Of a notebook in `fresh`, a new copy is made,
    and the changed one kept under a different name. A copy that nobody changed follows its
    notebook.
    """
    outdated = []
    for notebook in notebooks.all_notebooks():
        # What the copy was made from is kept, to tell whose change a difference is.
        copy, origin = folder() / notebook.name, folder() / ".origin" / notebook.name
        changed = copy.exists() and not _same(copy, origin)
        if changed and notebook in fresh:
            kept = _unused(copy)
            copy.rename(kept)
            print(f"{paths.shown(copy)} is new; yours is kept as {kept.name}")
            changed = False
        if not changed and not (_same(origin, notebook) and copy.exists()):
            files.write(origin, notebook.read_bytes())
            files.write(copy, notebook.read_bytes())
        elif changed and not _same(origin, notebook) and not _same(copy, notebook):
            outdated.append(notebook)
    return outdated


def _same(first, second):
    return first.exists() and second.exists() and filecmp.cmp(first, second, shallow=False)


def _unused(path):
    """A name beside `path` that no file has: ``NAME_old.ipynb``, ``NAME_old_2.ipynb`` and so on."""
    for number in count(1):
        suffix = "_old" if number == 1 else f"_old_{number}"
        candidate = path.with_stem(path.stem + suffix)
        if not candidate.exists():
            return candidate


def run(options: Sequence[str] = ()) -> int:
    """Open JupyterLab on the working copies; `options` are JupyterLab's. Returns when it ends.

    Its root is the project, so that models and results can be opened too, and its only kernel is
    the project's own Python, whatever this machine's Jupyter is set to.
    """
    from jupyterlab.labapp import LabApp

    _keep_settings_here_if_need_be()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # As in a container or WSL. It can be reached from this machine only, and with a token.
        options = ["--allow-root", *options]
    LabApp.launch_instance(
        [
            f"--ServerApp.root_dir={paths.PROJECT}",
            f"--LabApp.default_url=/lab/tree/{folder().name}",
            "--ServerApp.kernel_spec_manager_class=catsdogs.notebooks.ProjectKernels",
            *options,
        ]
    )
    return 0


def _keep_settings_here_if_need_be():
    """Let Jupyter keep its settings and state in `folder` where the home folder is read-only."""
    matplotlib.get_cachedir()  # makes a temporary one and says so, here and not in the notebooks
    for variable, usual in (
        ("JUPYTER_CONFIG_DIR", jupyter_paths.jupyter_config_dir()),
        ("JUPYTER_DATA_DIR", jupyter_paths.jupyter_data_dir()),
        ("JUPYTER_RUNTIME_DIR", jupyter_paths.jupyter_runtime_dir()),
    ):
        try:
            os.makedirs(usual, exist_ok=True)
            tempfile.TemporaryFile(dir=usual).close()
        except OSError:
            os.environ[variable] = str(folder() / ".jupyter" / variable.lower())
