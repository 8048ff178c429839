"""`predict --as coco,yolo,voc` as a user runs it, and the second `fit` that takes what it wrote."""

import json
import shutil

import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data import read_detection
from vladapt.domains.open_vocab.inference.tiles import tile_starts

NAMES = "red square, green square"
KINDS = ("--as", "coco,yolo,voc")


@pytest.fixture(scope="module")
def data(squares):
    return squares(train=12, val=4, test=4)


@pytest.fixture(scope="module")
def run(command, tiny, data):
    shared = ("--config", tiny("detection"), "--data", data, "--classes", NAMES)
    return command("fit", *shared, "--epochs", 8, "--json").json["run"]


@pytest.fixture(scope="module")
def pool(squares, place, data):
    """New pictures, and one that people annotated."""
    more = squares("more", train=26, val=0, test=0) / "images"
    (place / "pool").mkdir()
    for number in range(21, 27):
        shutil.copy(more / f"{number}.png", place / "pool")
    shutil.copy(data / "images" / "13.png", place / "pool" / "seen.png")
    return place / "pool"


@pytest.fixture(scope="module")
def labelled(command, run, pool):
    return command("predict", run, pool, "--out", "labelled", *KINDS, "--own-data", "--json").json


def test_a_score_is_chosen_on_val_and_told(place, run, labelled):
    chosen = json.loads((place / run / "run.json").read_text())["plan"]["vladapt"]["confidence"]
    assert 0 < chosen["score"] < 1 and 0 < chosen["f1"] <= 1 and chosen["images"] == 4
    assert labelled["notes"][0].startswith(
        f"labels: boxes that score {chosen['score']:g} or more (the best F1 on 4 val"
    )
    boxes = [box for item in read_detection(place / "labelled").items if item.unreviewed for box in item.target.boxes]
    assert (
        labelled["notes"][2]
        == "20 images with the labels of people, 1 of which were among the new ones, in their splits"
    )
    sure = [score for row in labelled["predictions"] for score in row["scores"] if score >= chosen["score"]]
    assert 0 < len(boxes) <= len(sure)


def test_all_kinds_hold_the_same_labels_and_no_picture_is_drawn(place, labelled):
    folder = place / "labelled"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("Annotations", "ImageSets", "data.yaml", "images", "instances_test.json", "instances_train.json"),
        *("instances_val.json", "labels", "sources.json", "test.txt", "train.txt", "val.txt"),
    ]
    read = []
    for others in (("labels", "data.yaml"), ("instances_test.json", "instances_train.json", "instances_val.json")):
        data = read_detection(folder)
        read.append(
            {
                item.source.name: (
                    item.split,
                    item.unreviewed,
                    [(data.class_names[c], *map(round, box)) for c, box in zip(item.target.labels, item.target.boxes)],
                )
                for item in data.items
            }
        )
        folder = shutil.copytree(place / "labelled", place / f"without_{others[0]}")
        for name in ("instances_test.json", "instances_train.json", "instances_val.json"):
            (folder / name).unlink()
        if others[0] != "labels":
            shutil.rmtree(folder / "Annotations")
    assert read[0] == read[1] and len(read[0]) == 20 + 6


def test_the_second_fit_trains_on_them_and_tests_on_people_alone(command, tiny, place, labelled):
    made = command("fit", "--config", tiny("detection"), "--data", "labelled", "--epochs", 1, "--json").json
    info = json.loads((place / made["run"] / "run.json").read_text())
    assert "Images with labels that a model made and nobody has reviewed, in train alone: 6." in info["notes"]
    assert {split: len(ids) for split, ids in info["splits"].items()} == {"train": 18, "val": 4, "test": 4}


def test_alone_they_cannot_be_fitted_and_one_line_says_why(command, tiny, run, pool):
    assert command("predict", run, pool, "--out", "alone", "--as", "yolo", "--threshold", 0.01, "--json").json["files"]
    told = command("fit", "--config", tiny("detection"), "--data", "alone", "--epochs", 1).error
    assert "nobody has reviewed them, so nothing can be tested; review some" in told


def test_a_threshold_that_is_given_wins(command, run, pool, place):
    rows = command("predict", run, pool, "--threshold", 0.6, "--json").json["predictions"]
    assert all(score >= 0.6 for row in rows for score in row["scores"])
    made = command("predict", run, pool, "--out", "all", "--as", "coco", "--threshold", 0, "--json").json
    content = json.loads((place / "all" / "instances.json").read_text())
    assert len(content["annotations"]) == sum(len(row["boxes"]) for row in made["predictions"]) > 0
    assert made["notes"][0] == "labels: boxes that score 0 or more (--threshold)"
    assert {entry["source"] for entry in content["annotations"]} == {"model"}


def test_large_images_are_seen_by_windows(command, run, pool, place):
    whole = Image.new("RGB", (96, 48))
    for number in range(2):
        whole.paste(Image.open(pool / f"2{number + 1}.png"), (48 * number, 0))
    whole.save(place / "wide.png")
    [row] = command("predict", run, "wide.png", "--tile", 48, "--json").json["predictions"]
    assert row["id"] == "wide.png" and row["size"] == [48, 96]
    (place / "windows").mkdir()
    for left in tile_starts(96, 48):
        whole.crop((left, 0, left + 48, 48)).save(place / "windows" / f"{left}.png")
    alone = command("predict", run, "windows", "--json").json["predictions"]
    assert row["scores"] and {*row["scores"]} <= {score for other in alone for score in other["scores"]}
    assert max(box[2] for box in row["boxes"]) > 60
    [plain] = command("predict", run, "wide.png", "--json").json["predictions"]
    assert "size" not in plain


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--out", "m", "--as", "coco", "--masks"), "finds boxes alone; omit it, have them outlined"),
        (("--out", "m", "--as", "voc", "--masks"), "files of voc hold boxes alone"),
        (("--masks",), "--masks: is of labels; add --as coco, yolo or voc"),
        (("--own-data",), "--own-data: is of labels"),
        (("--as", "coco"), "writes into a folder; give one with --out DIR"),
        (("--out", "labelled", "--as", "yolo"), "holds other labels (instances_test.json); give a new folder"),
        (("--out", "m", "--as", "coco", "--own-data", "--classes", "star"), "were not searched for 'star'"),
        (("--tile", "0"), "--tile 0"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line(command, run, pool, place, labelled, flags, told):
    assert told in command("predict", run, pool, *flags).error
    assert not (place / "m").exists()


def test_names_that_were_not_asked_for_are_told_where_the_labels_of_people_have_them(command, run, pool, place):
    notes = command(
        "predict", run, pool, "--out", "some", "--as", "coco", "--own-data", "--classes", "red square", "--json"
    ).json["notes"]
    assert any(note.startswith("the model was not asked for ") and "absent from its images" in note for note in notes)
