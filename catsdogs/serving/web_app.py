"""Make a static site an installable web app: its manifest, its icons and its service worker."""

import hashlib
import json
from pathlib import Path

from PIL import Image, ImageDraw

#: What a site has besides its own files once it is one.
FILES = ("manifest.webmanifest", "icon-192.png", "icon-512.png", "icon-maskable.png", "sw.js")

_ACCENT, _PAPER = "#0b6b61", "#f6f4ef"  # those of page.css
#: The ellipses of the paw in index.html: centre and radii, in a square of 32 units.
_PAW = ((16, 21.5, 7.5, 6), (6, 14, 3, 4), (12.4, 8, 3, 4.2), (19.6, 8, 3, 4.2), (26, 14, 3, 4))
_PLACE = "const { version, files, later } = { version: '', files: {}, later: {} };"


def write(site: Path, later: tuple[str, ...] = ()) -> None:
    """Add manifest, icons and service worker to the folder `site`, which is complete otherwise.

    The service worker keeps all files of the site in the browser's cache, each by its SHA-256; of
    those named `later`, each once it is asked for.
    """
    for name, side, margin in (("192", 192, 0.0), ("512", 512, 0.0), ("maskable", 512, 0.12)):
        icon(side, margin).save(site / f"icon-{name}.png", optimize=True)
    # Any shape may be cut out of a maskable icon: what counts is in its middle.
    icons = [_listed("192", 192), _listed("512", 512), _listed("maskable", 512, "maskable")]
    manifest = {
        "name": "Cat or dog?",
        "short_name": "Cat or dog?",
        "description": "Classifies photos as cat or dog, on this device.",
        "id": "./",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": _PAPER,
        "theme_color": _ACCENT,
        "icons": icons,
    }
    text = json.dumps(manifest, indent=1) + "\n"
    (site / "manifest.webmanifest").write_text(text, encoding="utf-8")
    worker = site / "sw.js"
    template = worker.read_text(encoding="utf-8")
    digests = {
        path.relative_to(site).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(site.rglob("*"))
        if path.is_file() and path != worker
    }
    filled = {
        "version": hashlib.sha256(repr((template, digests)).encode()).hexdigest()[:16],
        "files": {name: one for name, one in digests.items() if name not in later},
        "later": {name: digests[name] for name in later},
    }
    if _PLACE not in template:
        raise ValueError(f"sw.js has no line {_PLACE!r}")
    filling = f"const {{ version, files, later }} = {json.dumps(filled, indent=1)};"
    worker.write_text(template.replace(_PLACE, filling), encoding="utf-8")


def icon(side: int, margin: float = 0.0) -> Image.Image:
    """The app's icon, `side` pixels square: the paw of the page, with a `margin` around it.

    The margin is a share of the side.
    """
    scale = 4  # drawn larger and reduced, so that edges are smooth
    large = Image.new("RGB", (side * scale, side * scale), _ACCENT)
    draw = ImageDraw.Draw(large)
    unit = side * scale * (1 - 2 * (margin + 0.08)) / 32
    start = side * scale * (margin + 0.08)
    for x, y, width, height in _PAW:
        edges = (x - width, y - height + 0.5, x + width, y + height + 0.5)
        draw.ellipse([start + unit * edge for edge in edges], fill=_PAPER)
    return large.resize((side, side), Image.Resampling.LANCZOS)


def _listed(name, side, purpose="any"):
    return {
        "src": f"icon-{name}.png",
        "sizes": f"{side}x{side}",
        "type": "image/png",
        "purpose": purpose,
    }
