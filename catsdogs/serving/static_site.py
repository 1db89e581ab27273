"""Build the static site: the web page with ONNX models, which run in the visitor's browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from catsdogs import paths
from catsdogs.serving import web_app
from catsdogs.serving.predictor import ModelError, load_predictor

#: ONNX Runtime Web, as the npm registry names it, and the checksum of its package in npm's form.
ORT_WEB = "onnxruntime-web@1.30.0"
ORT_WEB_INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZ"
    "ClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
#: The files of it that the page loads, and their names there: to many web servers, .mjs is unknown,
#: and browsers run a module only if its content type is that of JavaScript.
ORT_WEB_FILES = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}

_WEB = Path(__file__).parent / "web"
_LINKS = (
    '<link rel="manifest" href="manifest.webmanifest">\n  '
    '<link rel="apple-touch-icon" href="icon-192.png">\n  '
)


def build(onnx_paths: Sequence[Path], folder: Path) -> None:
    """Build the static site for the models `onnx_paths` in `folder`; any web server can serve it.

    The first model is fetched with the page, each of the others once it is chosen there. ONNX
    Runtime Web comes from the npm registry, through the npm command; the page itself loads nothing
    from another site. An earlier build in `folder` is replaced once the new one is complete.

    Raises `catsdogs.serving.predictor.ModelError` where npm is missing or fails, or `folder` holds
    anything else.
    """
    ours = {path.name for path in _WEB.iterdir()} | {"models.json", "ort", *web_app.FILES}
    ours.add("model.json")  # of earlier versions
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    strange = {name for name in found - ours if not re.fullmatch(r"model\d*\.onnx", name)}
    if found and (strange or not {"browser.js", "model.onnx"} <= found):
        raise ModelError(
            f"{paths.shown(folder)} is not empty, and not an earlier build of the static site: "
            "choose a different folder, or empty it"
        )
    predictors = [load_predictor(path) for path in onnx_paths]
    names = [str(one.facts["name"]) for one in predictors]
    if len(set(names)) < len(names):
        raise ModelError(
            f"models called {', '.join(map(repr, names))}: expected names that differ, since the "
            "page offers them by name"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        site = Path(scratch, "site")
        site.mkdir()
        for path in _WEB.iterdir():
            if path.suffix in (".js", ".css") and path.name != "server.js":
                shutil.copy(path, site)
        page = (_WEB / "index.html").read_text(encoding="utf-8")
        page = page.replace('data-classifier="server.js"', 'data-classifier="browser.js"')
        page = page.replace('<link rel="stylesheet"', f'{_LINKS}<link rel="stylesheet"')
        (site / "index.html").write_text(page, encoding="utf-8")
        models = []
        for index, (path, predictor) in enumerate(zip(onnx_paths, predictors)):
            file = f"model{index or ''}.onnx"  # not the name, which may be anything
            shutil.copy(path, site / file)
            models.append(
                {
                    "name": predictor.facts["name"],
                    "file": file,
                    "bytes": path.stat().st_size,
                    "size": predictor.size,
                    "temperature": predictor.calibration.temperature,
                    "unsure_below": predictor.calibration.unsure_below,
                    "has_map": predictor.can_explain,
                    "about": predictor.facts.get("about", ""),
                }
            )
        _fetch_ort(site / "ort", Path(scratch))
        # What a visitor waits for the first time; the page says it before it is fetched.
        size = sum(path.stat().st_size for path in (*(site / "ort").iterdir(), onnx_paths[0]))
        listed = json.dumps({"bytes": size, "models": models}, indent=1) + "\n"
        (site / "models.json").write_text(listed, encoding="utf-8")
        web_app.write(site, tuple(model["file"] for model in models[1:]))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(site, folder)


def _fetch_ort(target, scratch):
    try:
        run = subprocess.run(
            ["npm", "pack", "--silent", ORT_WEB],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except FileNotFoundError:
        raise ModelError(
            f"npm is not installed: the page needs {ORT_WEB}, which npm downloads. "
            "Install Node.js, which includes npm"
        ) from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"npm could not fetch {ORT_WEB} within five minutes: try again") from None
    package = next(scratch.glob("onnxruntime-web-*.tgz"), None)
    if run.returncode or package is None:
        last = (run.stderr.strip() or run.stdout.strip() or "no reason given").splitlines()[-1]
        raise ModelError(
            f"npm could not fetch {ORT_WEB} ({last[:200]}): check the network connection"
        )
    checksum = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if f"sha512-{checksum}" != ORT_WEB_INTEGRITY:
        raise ModelError(
            f"npm fetched a package whose checksum is not that of {ORT_WEB}: sha512-{checksum}. "
            "Check which registry npm uses, and try again"
        )
    target.mkdir()
    with tarfile.open(package) as archive:
        for name, name_here in ORT_WEB_FILES.items():
            with archive.extractfile(f"package/dist/{name}") as file:
                (target / name_here).write_bytes(file.read())
