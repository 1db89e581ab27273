"""Run records side by side, and beside them what others published: the tables of notebooks 05 and 06 and of the documents."""

from catsdogs.text import duration

#: The networks of notebook 05 by the key of their run records, which are named ``compare_KEY``, and in words.
NETWORKS = {
    "baseline": "baseline, 32-32-128, at 64 pixels",
    "two_conv": "two convolutions (notebook 02)",
    "softmax": "two convolutions, two softmax units",
    "no_augmentation": "two convolutions, no data augmentation",
    "strong_augmentation": "two convolutions, strong augmentation",
    "residual": "ResNet-style, four residual blocks",
    "large": "ResNet-style, nine residual blocks, wider",
}

#: What others published for networks trained from scratch on this archive: lowest and highest accuracy, and on what.
PUBLISHED_NETWORKS = {
    "keras.io, a small Xception at 180 pixels": (
        0.94,
        0.96,
        "validation photos, best epoch; it has no test set",
    ),
    "Chollet's book, from 2,000 photos": (0.786, 0.786, "test photos of its own"),
    "Chollet's book, from 2,000 photos, augmented": (0.839, 0.839, "test photos of its own"),
    "a course project on Kaggle's photos": (
        0.9764,
        0.9764,
        "2,500 of the labelled photos, 22,500 to 25,000: its own split",
    ),
    "attila-balogh/cat_or_dog_classification": (
        0.9827,
        0.9827,
        "3,000 test photos of its own split, which has no seed; one run; "
        "its last epoch has 97.53% on 4,000 validation photos",
    ),
}

#: What others published for pretrained networks on this archive, mostly on test photos of their own.
PUBLISHED_PRETRAINED = (
    {"model": "the winner of Kaggle's 2013 competition", "accuracy": "98.9%", "log loss": "–"},
    {"model": "Chollet's book, from 2,000 photos", "accuracy": "98.6%", "log loss": "–"},
    {"model": "Kaggle's best public ensembles", "accuracy": "–", "log loss": "0.039 to 0.041"},
)


def network_label(key: str) -> str:
    """A network of notebook 05 in words: a key of `NETWORKS`, or ``seed_1`` for the two-conv network with a different seed."""
    return NETWORKS.get(key) or f"two convolutions, seed {key.removeprefix('seed_')}"


def network_rows(records: dict[str, dict]) -> list[dict[str, str]]:
    """Rows of a table: those of `records`, run records of notebook 05 by key (see `network_label`), and what others published."""
    rows = []
    for key, record in records.items():
        measures = record["metrics"]
        shown = {
            subset: percent(measures[subset]["accuracy"]) if subset in measures else "–"
            for subset in ("val", "test", "test_tta")
        }
        with_interval = f" ({interval(measures['test']['accuracy'])})" if "test" in measures else ""
        rows.append(
            {
                "network": network_label(key),
                "parameters": f"{record['parameters']:,}",
                "epochs": str(record["epochs"]),
                "training time": duration(record["seconds"]),
                "validation accuracy": shown["val"],
                "test accuracy (95% CI)": shown["test"] + with_interval,
                "with TTA (flip)": shown["test_tta"],
                "source": "measured here",
            }
        )
    for network, (low, high, photos) in PUBLISHED_NETWORKS.items():
        accuracy = " to ".join(f"{100 * value:g}%" for value in dict.fromkeys((low, high)))
        is_test = not photos.startswith("validation")
        rows.append(
            {
                "network": network,
                "parameters": "–",
                "epochs": "–",
                "training time": "–",
                "validation accuracy": "–" if is_test else accuracy,
                "test accuracy (95% CI)": accuracy if is_test else "–",
                "with TTA (flip)": "–",
                "source": f"published, on {photos}",
            }
        )
    return rows


def pretrained_rows(*records: dict, scratch: dict | None = None) -> list[dict[str, str]]:
    """Rows of a table: those of run records of notebook 06, of `scratch`, notebook 02's, and what others published."""
    rows = [
        {"model": pretrained_label(record), **_test_measures(record), "source": "measured here"}
        for record in records
    ]
    if scratch and "test" in scratch["metrics"]:
        rows.append(
            {
                "model": "two convolutions, trained from scratch (notebook 02)",
                **_test_measures(scratch),
                "source": "measured here",
            }
        )
    return rows + [row | {"source": "published"} for row in PUBLISHED_PRETRAINED]


def pretrained_label(record: dict) -> str:
    """The model of a run record of notebook 06, in words."""
    p = record["hyperparameters"]
    backbones = " and ".join(
        f"{network} at {size} pixels" for network, size in p["NETWORKS"].items()
    )
    head = f"logistic regression on {backbones}{', with horizontal flips' if p['FLIP_TTA'] else ''}"
    return (
        f"{p['PREDICTION']}: {head}, and {p['FINE_TUNE']} fine-tuned (notebook 06)"
        if p.get("FINE_TUNE")
        else f"{head} (notebook 06)"
    )


def percent(measure: dict) -> str:
    """The value of a measure, such as ``92.53%``."""
    return f"{measure['value']:.2%}"


def interval(measure: dict) -> str:
    """The 95% confidence interval of a measure, such as ``91.4% to 93.6%``."""
    return f"{measure['low']:.1%} to {measure['high']:.1%}"


def _test_measures(record):
    found = record["metrics"]["test"]
    return {
        name: f"{found[key]['value']:{form}} ({found[key]['low']:{form}} to {found[key]['high']:{form}})"
        for name, key, form in (("accuracy", "accuracy", ".2%"), ("log loss", "log_loss", ".4f"))
    }
