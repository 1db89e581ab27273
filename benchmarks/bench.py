"""Ours beside the usual ways, in one run on one machine: ``make bench``.

Photos come from the archive that ``CATSDOGS_TEST_ARCHIVE`` names, as ``./download_data.sh zip`` takes it; without one
they are drawn. Peers are run as their documentation has them. Rounds alternate between ours and the peer; a row
shows medians. Writes ``build/bench.json`` and prints a table.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catsdogs import arrays, augment, backend, check, paths, training  # noqa: E402
from catsdogs.dataset import Photos  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

SIZE, BATCH, ROUNDS = 64, 32, 5


def get_photos() -> None:
    """Put the photos into a data folder of this run's own."""
    archive = os.environ.get("CATSDOGS_TEST_ARCHIVE")
    subprocess.run([paths.PROJECT / "download_data.sh", *(["zip", archive] if archive else ["drawn"])], check=True)


def alternate(*functions) -> list[float]:
    """The median seconds of each of `functions`, which take turns, after one round that does not count."""
    seconds = [[] for _ in functions]
    for round_number in range(ROUNDS + 1):
        for function, found in zip(functions, seconds):
            started = time.perf_counter()
            function()
            if round_number:
                found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in seconds]


def reading(table) -> dict:
    """Photos a second from JPEG files to training arrays, the first time."""
    photos, contents = list(table.photo), list(table.sha256)

    def ours():
        for path in paths.arrays().glob("*"):
            path.unlink()
        arrays.load_pixels(photos, contents, SIZE, progress=False)

    def peer():
        for _ in keras.utils.image_dataset_from_directory(paths.photos(), image_size=(SIZE, SIZE), verbose=False):
            pass

    mine, theirs = alternate(ours, peer)
    return {"what": f"photos a second, JPEG files to arrays of {SIZE}×{SIZE}", "ours": len(table) / mine,
            "peer": len(table) / theirs, "ratio": theirs / mine, "against": "image_dataset_from_directory"}


def seeds_network(strength: str = "none") -> keras.Model:
    """The 32-32-128 network of the recipe that many repositories share, compiled, behind an augmentation."""
    model = keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), augment.augmentation(strength), layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=backend.jit_compile())
    return model


def an_epoch(table) -> list[dict]:
    """Seconds an epoch of the recipe's network, and what augmentation adds to a step."""
    pixels = arrays.load_pixels(list(table.photo), list(table.sha256), SIZE, progress=False)
    photos = Photos(np.array(pixels), table.label.to_numpy(np.uint8), list(table.photo))
    batches = training.Batches(photos, BATCH)
    plain, varied, peers = seeds_network(), seeds_network("seeds"), seeds_network("seeds")
    folder = keras.utils.image_dataset_from_directory(paths.photos(), image_size=(SIZE, SIZE), batch_size=BATCH,
                                                      label_mode="binary", verbose=False)

    def fit(model):
        return lambda: model.fit(batches, steps_per_epoch=batches.steps, shuffle=False, verbose=0)

    without, mine, theirs = alternate(fit(plain), fit(varied), lambda: peers.fit(folder, verbose=0))
    return [
        {"what": "seconds an epoch, the recipe's network, with augmentation", "ours": mine, "peer": theirs,
         "ratio": theirs / mine, "against": "image_dataset_from_directory without cache, the same augmentation"},
        {"what": "seconds an epoch, with augmentation and without", "ours": mine, "peer": without,
         "ratio": mine / without, "against": "ours without augmentation"},
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CATSDOGS_DATA"] = folder
        get_photos()
        table = check.check_photos(progress=False)
        table = table[table.problem == ""]
        rows = [reading(table), *an_epoch(table)]
    result = {"device": backend.device(), "backend": backend.name(), "photos": len(table), "rows": rows,
              "drawn": "CATSDOGS_TEST_ARCHIVE" not in os.environ}
    (paths.PROJECT / "build").mkdir(exist_ok=True)
    (paths.PROJECT / "build" / "bench.json").write_text(json.dumps(result, indent=1))
    print(f"\n{len(table):,} {'drawn pictures' if result['drawn'] else 'photos'}, {result['device']}, {result['backend']}\n")
    print("| what | ours | peer | ratio | against |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['ours']:.4g} | {row['peer']:.4g} | {row['ratio']:.2f} | {row['against']} |")


if __name__ == "__main__":
    main()
