"""The layout: which module may import which, what exists only once, how long notebook cells are."""

import ast
import graphlib
import json
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from catsdogs import paths

#: Lowest first: a module imports only from its own layer and from lower ones.
LAYERS = [
    {""},  # catsdogs itself, which names the classes
    {"paths", "files", "arrays", "names", "text", "parallel", "backend"},
    {"data"},
    {"networks"},
    {"analysis"},
    {"training"},
    {"serving"},
    {"cli", "lab", "notebooks", "__main__"},
]
#: Where a file or a folder is renamed by hand, and why `catsdogs.files.replacing` cannot do it.
RENAMES = {
    "catsdogs/files.py": "the atomic write itself",
    "catsdogs/data/store.py": "replaces all photos in one transaction",
    "catsdogs/data/fetch.py": "a partial download is kept when it fails, to be resumed",
    "catsdogs/serving/static_site.py": "replaces a folder",
    "catsdogs/lab.py": "keeps a person's notebook under a different name",
}
#: Where threads are started: the one pool, and the service's, which live as long as it does.
THREAD_POOLS = {
    "catsdogs/parallel.py",
    "catsdogs/serving/batching.py",
    "catsdogs/serving/decoders.py",
}
#: The frameworks, which are imported in one module.
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}

MAX_CELL_LINES = {"02_train_the_cnn.ipynb": 23}  # others:
DEFAULT_MAX_CELL_LINES = 25
MAX_LINE_LENGTH = 100
MAX_LINES_BEFORE_A_NETWORK = 40


def sources(*folders):
    """Name and syntax tree of each Python file of `folders`, relative to the project."""
    found = {}
    for folder in folders:
        for path in sorted((paths.PROJECT / folder).rglob("*.py")):
            name = path.relative_to(paths.PROJECT).as_posix()
            found[name] = ast.parse(path.read_text(encoding="utf-8"), name)
    assert found
    return found


def code_cells(path):
    """The source of each code cell of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def parsed(cell):
    """The syntax tree of a cell; lines for IPython's ears only (``!``, ``%``) do nothing."""
    return ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", cell, flags=re.MULTILINE))


NOTEBOOKS = {path.name: code_cells(path) for path in (paths.PROJECT / "notebooks").glob("*.ipynb")}
PACKAGE = sources("catsdogs")
MODULES = {
    name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in PACKAGE
}


def imported(tree, module=""):
    """Dotted names that `tree` imports anywhere, in functions too: modules and what they hold."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                start = ".".join([*package, *filter(None, [start])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def is_of(names, packages):
    """Those of the dotted `names` that belong to one of the top-level `packages`."""
    return {name for name in names if name.partition(".")[0] in packages}


def dependencies():
    """For each module of the package, the modules of the package that it imports."""
    graph = {}
    for module, file in MODULES.items():
        names = is_of(imported(PACKAGE[file], module), {"catsdogs"})
        # ``from catsdogs.data import cache`` names a module, ``from catsdogs import CLASS_NAMES``
        # something in one.
        found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
        assert found <= set(MODULES), f"{file} imports {found - set(MODULES)}"
        graph[module] = found - {module}
    return graph


def layer(module):
    part = (module.split(".") + [""])[1]
    (index,) = [index for index, layer in enumerate(LAYERS) if part in layer]
    return index


def calls(tree):
    """The functions that are called in `tree`, as they are written: ``compile``, ``os.replace``."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def callers(trees, function):
    """The files that call `function`, under whatever name it was imported."""
    short = function.rpartition(".")[2]
    return {
        file
        for file, tree in trees.items()
        if any(name == function or name.rpartition(".")[2] == short for name in calls(tree))
    }


# --- the package ---------------------------------------------------------------------------------


def test_no_module_imports_itself_by_way_of_others():
    graph = dependencies()
    assert sum(map(len, graph.values())) > 50  # it found imports at all
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " → ".join(reversed(error.args[1])))


def test_no_module_imports_from_a_higher_layer():
    upwards = {
        f"{module} imports {other}"
        for module, others in dependencies().items()
        for other in others
        if layer(other) > layer(module)
    }
    assert not upwards


def test_nothing_below_imports_the_tools():
    for name, tree in PACKAGE.items():
        assert not is_of(imported(tree), {"tools", "tests"}), name
    for name, cells in NOTEBOOKS.items():
        for cell in cells:
            assert not is_of(imported(parsed(cell)), {"tools", "tests"}), name


def test_one_module_imports_the_frameworks():
    users = {name for name, tree in PACKAGE.items() if is_of(imported(tree), FRAMEWORKS)}
    # PyTorch's own network and training loop, for notebook 07, are about nothing else.
    pytorch = {"catsdogs/networks/pytorch.py", "catsdogs/training/pytorch.py"}
    assert users == {"catsdogs/backend.py"} | pytorch


def test_threads_are_started_in_one_place():
    users = {
        name
        for name, tree in sources("catsdogs", "tools").items()
        if any("PoolExecutor" in name or "ThreadPool" in name for name in imported(tree))
        or callers({name: tree}, "concurrent.futures.ThreadPoolExecutor")
    }
    assert "catsdogs/parallel.py" in users and users <= THREAD_POOLS


def test_files_are_replaced_in_one_place():
    def renames(call):
        return call in ("os.replace", "os.rename", "os.renames", "shutil.move")

    trees = sources("catsdogs", "tools")
    users = {name for name, tree in trees.items() if any(map(renames, calls(tree)))}
    assert "catsdogs/files.py" in users and users <= set(RENAMES)
    for name, cells in NOTEBOOKS.items():
        assert not any(map(renames, (call for cell in cells for call in calls(parsed(cell))))), name


def test_the_learning_rate_schedule_is_defined_once():
    trees = sources("catsdogs", "tools")
    assert callers(trees, "CosineDecay") == {"catsdogs/training/fit.py"}
    users = {
        name
        for name, cells in NOTEBOOKS.items()
        if any("CosineDecay" in call for cell in cells for call in calls(parsed(cell)))
    }
    assert users <= {"02_train_the_cnn.ipynb"}  # which shows it


def test_no_code_of_notebooks_is_executed_but_by_running_them():
    for name, tree in sources("tests", "tools").items():
        assert not {"exec", "compile", "eval"} & set(calls(tree)), name


# --- the requirements ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requirements, locks",
    [
        (["requirements.txt", "requirements-serve.txt"], [".ci/requirements.txt"]),
        (["requirements-serve.txt"], [".ci/requirements-serve.txt"]),
        ([], [".ci/requirements-dev.txt"]),
        ([], [".ci/requirements-gpu.txt"]),
    ],
)
def test_the_locks_have_an_allowed_version_of_everything_with_its_checksum(requirements, locks):
    locked = {}
    for name in locks:
        text = (paths.PROJECT / name).read_text(encoding="utf-8")
        assert "://" not in text  # of an index: everyone has their own
        for entry in re.sub(r"#.*\n| *\\\n", " ", text).strip().split("\n"):
            pinned, _, hashes = entry.partition(" --hash=sha256:")
            found = Requirement(pinned)
            assert len(hashes) >= 64 and str(found.specifier).startswith("=="), entry
            locked.setdefault(found.name, set()).add(str(found.specifier).removeprefix("=="))
    for name in requirements:
        for line in (paths.PROJECT / name).read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                wanted = Requirement(line)
                versions = locked[canonicalize_name(wanted.name)]
                assert all(version in wanted.specifier for version in versions), line


# --- the notebooks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_import_keras_quietly(name):
    """By `catsdogs.backend`: TensorFlow's log would be in red below the first cell."""
    lines = "\n".join(NOTEBOOKS[name]).splitlines()
    loud = [
        i for i, line in enumerate(lines) if re.match(r"(from|import) (keras|tensorflow)", line)
    ]
    quiet = [i for i, line in enumerate(lines) if line.startswith("from catsdogs.backend")]
    assert not loud or (quiet and quiet[0] < loud[0])


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_cells_are_short(name):
    limit = MAX_CELL_LINES.get(name, DEFAULT_MAX_CELL_LINES)
    for cell in NOTEBOOKS[name]:
        assert len(cell.splitlines()) <= limit, cell


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_lines_of_code_are_short(name):
    for cell in NOTEBOOKS[name]:
        assert not [line for line in cell.splitlines() if len(line) > MAX_LINE_LENGTH]


def test_the_first_network_comes_soon():
    """Source lines, without blank ones and comments, before the cell that builds a network."""
    lines = 0
    for cell in NOTEBOOKS["02_train_the_cnn.ipynb"]:
        if re.search(r"\bcnn\.\w+\(|keras\.(Sequential|Model)\(|fit\.\w*model\(", cell):
            break
        lines += sum(bool(line.strip()) and line.strip()[0] != "#" for line in cell.splitlines())
    else:
        pytest.fail("notebook 02 builds no network that this test can find")
    assert 0 < lines < MAX_LINES_BEFORE_A_NETWORK


# --- these tests ---------------------------------------------------------------------------------


def test_what_these_tests_would_find():
    """That they look into functions, aliases and cells, so that they can fail."""
    code = "def f():\n    from catsdogs.data import cache as c\n    import os\n    os.replace(a, b)"
    assert imported(ast.parse(code)) == {"catsdogs.data.cache", "os"}
    assert calls(ast.parse(code)) == ["os.replace"]
    assert imported(ast.parse("from . import check\nfrom ..files import write"), "a.data.x") == {
        "a.data.check",
        "a.files.write",
    }
    assert callers({"a": ast.parse("schedules.CosineDecay(0.0)")}, "CosineDecay") == {"a"}
    assert calls(parsed("if x:\n    !ls -l\n    %time f()\nexec(y)")) == ["exec"]
    assert layer("catsdogs") < layer("catsdogs.files") < layer("catsdogs.data.cache")
    assert layer("catsdogs.training.fit") < layer("catsdogs.serving.app") < layer("catsdogs.cli")
