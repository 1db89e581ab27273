"""Train the baseline, and our network on the same photos: ``make baseline``.

    python -m tools.baseline [baseline | ours]

The baseline is a recipe found in many cats-vs-dogs repositories, trained as it stands: two
convolutions of 32 filters, 3×3, each followed by 2×2 pooling, a dense layer of 128 units, a
sigmoid; 64×64 pixels, batches of 32, Adam with its defaults, 25 epochs, random zoom by up to a
fifth and horizontal flips. A repository's README (4,000 + 4,000 training photos, 25 epochs)
publishes it with 89% training and 79.78% test accuracy.

Writes the records of the included models ``baseline-8000`` and, for our network, one
``two-conv-8000-seed-N`` per random seed. Takes about fifteen minutes on 2 cores.
"""

import sys

from catsdogs import backend
from catsdogs.analysis.metrics import evaluate
from catsdogs.data.dataset import Dataset
from catsdogs.training import fit, records
from tools import report


def run(name: str, hyperparameters: dict) -> dict:
    """Train and evaluate a network on the split ``baseline-8000``; returns its run record."""
    dataset = Dataset("baseline-8000", hyperparameters["IMAGE_SIZE"])
    trained = fit.train(hyperparameters, dataset)
    metrics = {
        subset: evaluate(
            photos.labels, trained.model.predict(photos.images, batch_size=256, verbose=0)
        )
        for subset, photos in (("val", dataset.val), ("test", dataset.test))
    }
    own = f"my-{name}"
    fit.save(own, trained, hyperparameters, dataset, metrics)
    records.publish(own, name, formats=())
    return records.read(name)


def run_baseline() -> list[dict]:
    """Train the baseline as its authors do: in float32, keeping the last epoch."""
    return [
        run(
            report.BASELINE, fit.BASELINE | dict(SPLIT="baseline-8000", SEED=0, PRECISION="float32")
        )
    ]


def run_ours() -> list[dict]:
    """Train notebook 02's default network on the same photos, one run per random seed."""
    same = fit.TWO_CONV | dict(SPLIT="baseline-8000", PRECISION=backend.faster_precision())
    return [run(name, same | dict(SEED=seed)) for seed, name in enumerate(report.OURS_8000)]


if __name__ == "__main__":
    runs = {"baseline": run_baseline, "ours": run_ours}
    if set(sys.argv[1:]) - set(runs):
        sys.exit(f"{' '.join(sys.argv[1:])}: expected baseline, ours, or no argument for both")
    for chosen in sys.argv[1:] or runs:
        for record in runs[chosen]():
            accuracy = record["metrics"]["test"]["accuracy"]
            print(
                f"{record['name']}: {accuracy['value']:.2%} test accuracy, 95% CI "
                f"{accuracy['low']:.1%} to {accuracy['high']:.1%}"
            )
