"""Tables that compare run records with each other and with published numbers."""

from catsdogs.text import duration

#: The networks of notebook 05 by key.
NETWORKS = {
    "baseline": "baseline, 32-32-128, at 64 pixels",
    "two_conv": "two convolutions (notebook 02)",
    "softmax": "two convolutions, two softmax units",
    "no_augmentation": "two convolutions, no data augmentation",
    "strong_augmentation": "two convolutions, strong augmentation",
    "residual": "ResNet-style, four residual blocks",
    "large": "ResNet-style, nine residual blocks, wider",
}

#: Published accuracies of networks trained from scratch on this archive: lowest, highest, and the
#: photos they were measured on. Each has a split of its own, so they compare only roughly.
PUBLISHED_NETWORKS = {
    "keras.io, a small Xception at 180 pixels": (
        0.94,
        0.96,
        "validation photos, best epoch; it has no test set",
    ),
    "Chollet's book, from 2,000 photos": (0.786, 0.786, "test photos of its own split"),
    "Chollet's book, from 2,000 photos, augmented": (
        0.839,
        0.839,
        "test photos of its own split",
    ),
    "a course project on Kaggle's photos": (
        0.9764,
        0.9764,
        "2,500 of the labelled photos (22,500 to 25,000), a split of its own",
    ),
    "attila-balogh/cat_or_dog_classification": (
        0.9827,
        0.9827,
        "3,000 test photos, from 17,998 training photos; one run, its split is not seeded, "
        "and its last epoch has 97.53% on 4,000 validation photos",
    ),
}

#: Published results of pretrained networks on this archive, mostly on test photos of their own.
PUBLISHED_PRETRAINED = (
    {"model": "the winner of Kaggle's 2013 competition", "accuracy": "98.9%", "log loss": "–"},
    {"model": "Chollet's book, from 2,000 photos", "accuracy": "98.6%", "log loss": "–"},
    {"model": "Kaggle's best public ensembles", "accuracy": "–", "log loss": "0.039 to 0.041"},
)


def run_names(key: str) -> tuple[str, str]:
    """The run of a network of notebook 05: one's own, and the included record."""
    name = key.replace("_", "-")
    return f"my-{name}", f"compare-{name}"


def network_label(key: str) -> str:
    """The name of a network of notebook 05: `key` is one of `NETWORKS`, or ``seed_N``.

    The latter is the network of notebook 02, trained with the random seed N.
    """
    return NETWORKS.get(key) or f"two convolutions, seed {key.removeprefix('seed_')}"


def network_rows(records: dict[str, dict]) -> list[dict[str, str]]:
    """Table rows of notebook 05's networks, then of `PUBLISHED_NETWORKS`; columns by name.

    `records` are run records by the keys that `network_label` takes.
    """
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
    """Table rows of pretrained models, then of `PUBLISHED_PRETRAINED`; columns by name.

    `records` are run records of notebook 06; `scratch` is the one of the network trained from
    scratch in notebook 02, left out if it has no test metrics.
    """
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
    """The name of the model of a run record of notebook 06."""
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
    """The value of a metric, such as ``92.53%``."""
    return f"{measure['value']:.2%}"


def interval(measure: dict) -> str:
    """The 95% confidence interval of a metric, such as ``91.4% to 93.6%``."""
    return f"{measure['low']:.1%} to {measure['high']:.1%}"


def _test_measures(record):
    found = record["metrics"]["test"]

    def text(key, form):
        measure = found[key]
        return f"{measure['value']:{form}} ({measure['low']:{form}} to {measure['high']:{form}})"

    return {"accuracy": text("accuracy", ".2%"), "log loss": text("log_loss", ".4f")}
