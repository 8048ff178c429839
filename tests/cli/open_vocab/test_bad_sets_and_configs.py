"""Bad input of detection and segmentation through the command line: one line that says what to do, or a stated rule."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")


@pytest.fixture(scope="module")
def data(squares):
    return squares()


@pytest.fixture
def fit(command, tiny, data):
    """fit("detection", data=folder, more="lines of the config", options...) -> Outcome."""

    def call(task, *options, data=data, more=""):
        return command("fit", "--config", tiny(task, more), "--data", data, "--epochs", 1, *options)

    return call


@pytest.fixture
def changed(data, tmp_path):
    """changed(change of a COCO file's content, split="train") -> the set with it."""

    def make(change, split="train"):
        folder = shutil.copytree(data, tmp_path / "changed")
        file = folder / f"instances_{split}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def masks(tmp_path):
    """masks(change of (32, 32) uint8, names) -> a set of twenty images with masks of 0, 1 and 2."""

    def make(change=lambda mask, number: mask, names=("background", "cat", "dog")):
        for number in range(20):
            mask = np.zeros((32, 32), np.uint8)
            mask[:16], mask[20:, : number + 5] = 1, 2
            pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            for kind, values in (("images", pixels), ("masks", change(mask, number))):
                (tmp_path / kind).mkdir(exist_ok=True)
                Image.fromarray(values).save(tmp_path / kind / f"{number}.png")
        (tmp_path / "classes.json").write_text(json.dumps(list(names)))
        return tmp_path

    return make


# Configs


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (
            "model['type'] = 'RetinaNat'",
            2,
            "the config names 'RetinaNat', which no registry has .*did you mean RetinaNet",
        ),
        ("model['bbox_head']['type'] = 'vladapt.TextRetinHead'", 2, "did you mean vladapt.TextRetinaHead"),
        (
            "train_pipeline.insert(1, dict(type='RandomFlop'))",
            2,
            "'RandomFlop'.*did you mean RandomFlip, RandomCrop",
        ),
        ("model['bbox_head']['in_chanels'] = 7", 2, "the config cannot be run: .*'in_chanels'"),
        (
            "model['bbox_head']['classifier']['templates'] = 'foto'",
            2,
            "templates 'foto': give a text with {}, or a set; did you mean photo",
        ),
        ("model = dict(", 2, r"tiny_detection\d+\.py: cannot be read as a recipe .*never closed"),
    ],
)
def test_a_config_that_cannot_be_run_says_what_is_wrong_in_it(fit, more, code, message):
    found = fit("detection", more=f"\n{more}\n")
    assert found.code == code and re.search(message, found.error), found.err


def test_a_config_of_the_other_task_says_which_task_it_is_of(fit):
    found = fit("segmentation", "--task", "detection")
    assert found.code == 2 and found.error.endswith("give --task segmentation")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--classes", "red square, purple square"],
            2,
            "? Asked for (red square, purple square), in the data (red square, green square, blue square)",
        ),
        (["--classes", "nowhere.json"], 1, "nowhere.json: cannot be read (No such file or directory)"),
        (["--classes", "red square, Red_square"], 2, "'red square' and 'Red_square' are the same class"),
        (["--novel", "red sqare"], 2, "the data have no class 'red sqare'; did you mean red square"),
        (["--novel", "red square, green square, blue square"], 2, "every class is novel"),
        (["--novel"], 2, '--novel "a,b", or coco or lvis'),
        (["--novel", "lvis"], 1, "the data do not say how frequent classes are"),
        (["--shots", "0"], 2, "--shots 0: detection of domain 'open-vocab' is trained on labelled images"),
        (["--adapter", "ape"], 2, "--adapter ape: detection of domain 'open-vocab' trains a config, not an adapter"),
        (["--set", "image_size=64"], 2, "--set image_size=64: images are resized by the config's pipelines"),
        (["--resource", "descriptions=x.json"], 2, "give descriptions with the names, --classes FILE.json"),
        (["--set", "data.clas_names=a"], 2, "did you mean class_names"),
    ],
)
def test_an_option_that_cannot_be_used_is_told_before_any_training(fit, options, code, message):
    found = fit("detection", *options)
    assert found.code == code and message in found.error


# Boxes


def test_annotations_that_mean_nothing_are_left_out_and_counted(fit, changed):
    def change(content):
        boxes = content["annotations"]
        boxes[0]["bbox"], boxes[1]["bbox"], boxes[2]["bbox"] = [40, 40, 500, 500], [4, 4, 0, 0], [400, 4, 10, 10]
        boxes[3]["category_id"], boxes[5]["iscrowd"] = 77, 1
        boxes.append(boxes[4])

    found = fit("detection", data=changed(change))
    assert found.code == 0
    for sentence in (
        "Annotations that the file holds twice, kept once: 1.",
        "Annotations of a class id that the file does not list, left out: 1.",
        "Boxes outside their image, left out: 1.",
        "Boxes that are neither trained on nor counted (crowds, difficult objects): 1.",
        "Boxes that reached more than a pixel beyond their image, cut at its edge: 1.",
        "Boxes without area, left out: 1.",
    ):
        assert f"Note: {sentence}" in found.out.splitlines()


def _gone(content):
    content["images"][0]["file_name"] = "gone.png"


def _twice(content):
    content["images"][1]["id"] = content["images"][0]["id"]


def _without_boxes(content):
    content["annotations"] = []


def _without_categories(content):
    del content["categories"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_twice, "image id 1 stands for '01.png' and for '02.png'"),
        (_without_boxes, "no training image shows a class (red square, green square, blue square)"),
        (_without_categories, "has no list of 'categories'"),
    ],
)
def test_a_coco_file_that_cannot_be_used_is_one_line(fit, changed, change, message):
    found = fit("detection", data=changed(change))
    assert found.code == 1 and message in found.error


def test_an_image_that_is_gone_is_skipped_unless_none_is_tolerated(fit, changed):
    folder = changed(_gone)
    found = fit("detection", "--tolerate", 0, data=folder)
    assert found.code == 1 and "1 of 19 images cannot be read, more than 0%; the first is gone.png (no" in found.error
    found = fit("detection", data=folder)
    assert found.code == 0 and "Skipped: gone.png: no such file" in found.out


def test_a_set_without_any_box_is_one_line(fit, changed, tmp_path):
    folder = changed(_without_boxes)
    for split in ("val", "test"):
        (folder / f"instances_{split}.json").unlink()
    found = fit("detection", data=folder)
    assert found.code == 1 and "no usable box in 12 images" in found.error


def test_a_file_that_is_cut_short_is_named(fit, changed):
    folder = changed(lambda content: None)
    file = folder / "instances_train.json"
    file.write_text(file.read_text()[:300])
    found = fit("detection", data=folder)
    assert found.code == 1 and "instances_train.json: not valid JSON" in found.error


# Masks


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda mask, number: mask.astype(np.uint16), ""),
        (lambda mask, number: np.where(mask == 2, 999, mask.astype(np.uint16)), "ignored: 999 (in 20 masks)."),
        (lambda mask, number: mask[:20] if number == 3 else mask, "Skipped: images/3.png: its mask 3.png is 32 x 20, "),
    ],
)
def test_masks_of_16_bits_with_unlisted_numbers_or_of_another_size_follow_a_rule(fit, masks, change, note):
    found = fit("segmentation", data=masks(change))
    assert found.code == 0 and note in found.out, found.out + found.err


def test_more_than_a_few_masks_of_another_size_stop_before_training(fit, masks):
    found = fit("segmentation", data=masks(lambda mask, number: mask[:20] if number < 3 else mask))
    assert found.code == 1 and "3 of 20 images cannot be read, more than 5%" in found.error
    assert "its mask 0.png is 32 x 20, the image 32 x 32; make them equal" in found.error


def test_masks_without_a_listed_class_are_one_line(fit, masks):
    found = fit("segmentation", data=masks(lambda mask, number: mask + 40))
    assert found.code == 1 and "no mask holds a listed class: stored are 40, 41, 42" in found.error


@pytest.mark.parametrize(("task", "what"), [("detection", "holds no boxes"), ("segmentation", "no images with masks")])
def test_data_of_another_kind_says_what_would_be_read(fit, tmp_path, masks, task, what):
    folder = masks() if task == "detection" else tmp_path
    (folder / "notes.txt").write_text("nothing")
    found = fit(task, data=folder)
    assert found.code == 1 and what in found.error and "; give " in found.error
