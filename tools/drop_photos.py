"""Git's clean filter for notebooks: what is committed of one that was run shows no photos.

`make install` sets it up. The notebook itself stays as it is, photos included. Git starts it for
every notebook that changed, with whatever Python there is: standard library only.
"""

import json
import sys

#: What replaces photos in a published notebook.
NO_PHOTOS = "Photos are not kept in this file: run this cell to see them.\n"


def clean(content: bytes) -> bytes:
    """The notebook `content` without the pictures in outputs of cells that are tagged photos.

    What is no notebook, or shows no photos, is returned as it is, byte for byte.
    """
    try:
        notebook = json.loads(content)
        shown = [cell for cell in notebook["cells"] if _shows_photos(cell)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return content
    for cell in shown:
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": [NO_PHOTOS]}]
    if not shown:
        return content
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _shows_photos(cell):
    tagged = "photos" in cell["metadata"].get("tags", ())
    return tagged and any("data" in out for out in cell.get("outputs", ()))


if __name__ == "__main__":
    sys.stdout.buffer.write(clean(sys.stdin.buffer.read()))
