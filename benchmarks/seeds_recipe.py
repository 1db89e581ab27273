"""The recipe that many cats-vs-dogs repositories share, run as it stands, and our network on the same photos.

    python benchmarks/seeds_recipe.py [recipe | ours]

Two convolutions of 32 filters, 3×3, each followed by 2×2 pooling, a dense layer of 128, a sigmoid; 64×64
pixels, batches of 32, Adam as it comes, 25 epochs, photos zoomed by up to a fifth and mirrored. Published
at 89% training and 79.78% test accuracy. Writes ``models/seeds_recipe.json`` and, for ours with three seeds,
``models/cats_vs_dogs_seed_8000*.json``. Takes about fifteen minutes on 2 cores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from catsdogs import augment, backend, dataset, evaluate, notebooks, paths, records, report, training  # noqa: E402
import keras  # noqa: E402
from keras import layers  # noqa: E402

HYPERPARAMETERS = {"PROTOCOL": "seed-8000", "IMAGE_SIZE": 64, "BATCH_SIZE": 32, "EPOCHS": 25, "AUGMENT": "seeds", "SEED": 0}


def run_recipe(hyperparameters: dict = HYPERPARAMETERS, name: str = "seeds_recipe") -> dict:
    """Train and test the recipe; returns its record. The last epoch is kept, as the recipe keeps it."""
    p = hyperparameters
    train, val = dataset.load(p["PROTOCOL"], p["IMAGE_SIZE"])
    keras.utils.set_random_seed(p["SEED"])
    model = keras.Sequential([
        keras.Input((p["IMAGE_SIZE"], p["IMAGE_SIZE"], 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ], name=name)
    training_model = keras.Sequential([model.inputs[0], augment.augmentation(p["AUGMENT"], p["SEED"]), model])
    training_model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=backend.jit_compile())
    batches = training.Batches(train, p["BATCH_SIZE"], p["SEED"])
    checkpoint = training.Checkpoint(training.run_key(training_model, **p, photos=dataset.describe(p["PROTOCOL"])), batches,
                                     keep="last")
    training_model.fit(batches, steps_per_epoch=batches.steps, shuffle=False, epochs=p["EPOCHS"], verbose=0,
                       validation_data=(val.images, val.labels[:, None]), validation_batch_size=256,
                       callbacks=[checkpoint, training.LiveCurves(checkpoint)])
    test = dataset.load_test(p["PROTOCOL"], p["IMAGE_SIZE"])
    metrics = {split: evaluate.evaluate(photos.labels, model.predict(photos.images, batch_size=256, verbose=0))
               for split, photos in (("val", val), ("test", test))}
    records.save_run(records.run_name(name), model, hyperparameters=p, history=checkpoint.history, metrics=metrics,
                     best_epoch=checkpoint.best_epoch, seconds=checkpoint.seconds)
    return records.read(records.run_name(name))


def run_ours() -> list[dict]:
    """Train and test the default network of notebook 02 on the recipe's photos, a seed each; returns the records."""
    for seed, name in enumerate(report.OURS_8000):
        for notebook in notebooks.all_notebooks()[1:3]:
            parameters = {"NAME": name} | ({"PROTOCOL": "seed-8000", "SEED": seed} if notebook.name.startswith("02") else {})
            notebooks.run(notebook, paths.PROJECT / "build" / name, parameters)
    return [records.read(records.run_name(name)) for name in report.OURS_8000]


if __name__ == "__main__":
    runs = {"recipe": lambda: [run_recipe()], "ours": run_ours}
    if set(sys.argv[1:]) - set(runs):
        sys.exit(f"{' '.join(sys.argv[1:])}: expected nothing, recipe or ours")
    for chosen in sys.argv[1:] or runs:
        for record in runs[chosen]():
            accuracy = record["metrics"]["test"]["accuracy"]
            print(f"{record['name']}: test accuracy {accuracy['value']:.2%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})")
