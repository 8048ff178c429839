"""The commands on a SAM by its id: fitted from boxes to outlines, asked with prompts, refused where it cannot be used.

One small fit through `vladapt`, whose run serves all tests."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

from safetensors.torch import load_file

from vladapt.cli import app
from vladapt.core.contracts.serving import Serving, Wishes
from vladapt.core.engine.serve import load_served
from vladapt.core.errors import ConfigError, VladaptError

from .tiny_sam import saved, saved_sam3, tiny_sam, tiny_sam3

OUTLINE = [[6, 6, 30, 8, 26, 34, 5, 30]]


def vladapt(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--json", "--device", "cpu"], catch_exceptions=False)


def read(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def told(*arguments):
    """The one line of an error."""
    with pytest.raises(VladaptError) as raised:
        vladapt(*arguments)
    return str(raised.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images with one outlined object each."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for number in range(8):
        picture = Image.fromarray(rng.integers(0, 99, (40, 48, 3), dtype=np.uint8))
        ImageDraw.Draw(picture).polygon(OUTLINE[0], fill=(250, 240, 230))
        picture.save(folder / f"{number}.png")
        coco["images"].append({"id": number, "file_name": f"{number}.png", "width": 48, "height": 40})
        about = {"id": number + 1, "image_id": number, "category_id": number % 2 + 1, "iscrowd": 0, "area": 500}
        coco["annotations"].append(about | {"bbox": [5, 6, 25, 28], "segmentation": OUTLINE})
    (folder / "boxes.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("sam"), *tiny_sam())


@pytest.fixture(scope="module")
def run(data, place, tmp_path_factory):
    chosen = ("--domain", "open-vocab", "--task", "detection", "--data", data / "boxes.json", "--start", place)
    how = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--out", tmp_path_factory.mktemp("runs") / "run")
    return read(vladapt("fit", *chosen, *how))


def test_a_fit_scores_outlines_and_trains_the_decoder_alone(run, place):
    assert set(run["adapted"]) >= {"mask_AP", "mask_AP50"} and "AP" not in run["adapted"]
    trained = load_file(f"{run['run']}/adapter.safetensors")
    before = load_file(f"{place.removeprefix('hf:')}/model.safetensors")
    changed = {name for name, value in before.items() if not trained[f"model.{name}"].equal(value)}
    assert changed and all(name.startswith("mask_decoder.") for name in changed)
    assert bool(trained["model.fine_tuned"])


def test_a_run_and_an_id_are_asked_with_prompts(run, place, data, tmp_path):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"0.png": [{"box": [5, 6, 30, 34], "name": "rust"}, {"points": [[9, 9]]}]}))
    for model in (run["run"], place):
        rows = read(vladapt("predict", model, data, "--prompts", prompts))["predictions"]
        by_name = {row["id"].rpartition("/")[2]: row for row in rows}
        assert sorted(by_name["0.png"]["labels"]) == ["object", "rust"] and len(by_name["0.png"]["masks"]) == 2
        assert by_name["1.png"]["labels"] == []


def test_a_sam_3_is_asked_for_phrases_and_its_boxes_are_outlined_by_a_run(run, data, tmp_path):
    sam3 = saved_sam3(tmp_path / "sam3", *tiny_sam3())
    plain = read(vladapt("predict", sam3, data / "0.png", "--classes", "red star, blue square"))["predictions"][0]
    assert set(plain["labels"]) <= {"red star", "blue square"} and plain["labels"]
    asked = ("predict", sam3, data / "0.png", "--classes", "red star, blue square", "--masks-by", run["run"])
    other = read(vladapt(*asked))["predictions"][0]
    assert {**other, "masks": 0} == {**plain, "masks": 0} and other["masks"] != plain["masks"]


def answered(model, picture, **wishes):
    """The row of a picture of a request."""
    (sample,), _ = model.samples([picture])
    sample.wishes = Wishes(**wishes)
    model.check(sample.wishes)
    model.prepare(sample)
    model.answer([sample])
    (row,) = model.rows([sample], [], sample.wishes)["predictions"]
    return row


def test_all_that_is_shown_is_outlined_by_predict_and_by_a_server(run, data, tmp_path):
    """Things of different names on one place are no rivals, and a low score hides none."""
    shown = [{"box": [5, 6, 30, 34], "name": "rust"}, {"box": [5, 6, 31, 34], "name": "crack"}, {"points": [[9, 9]]}]
    (tmp_path / "prompts.json").write_text(json.dumps({"0.png": shown}))
    asked = ("predict", run["run"], data / "0.png", data / "1.png", "--prompts", tmp_path / "prompts.json")
    row, other = read(vladapt(*asked))["predictions"]
    assert sorted(row["labels"]) == ["crack", "object", "rust"] and row["summary"].count("1 ") == 3
    assert other["summary"] == "nothing was shown"
    model = load_served(run["run"], Serving(device="cpu"))
    assert list(model.facts.shows) == ["box", "points"] and list(model.facts.options) == ["prompts"]
    assert answered(model, data / "0.png", prompts=shown) == row
    assert answered(model, data / "0.png", prompts=shown[1:])["labels"] != row["labels"]
    for wrong, words in (
        (None, "outlines what it is shown"),
        ([{"box": [1, 2]}], "object 1: its box is not 4 numbers"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.check(Wishes(prompts=wrong))


def test_pictures_show_all_that_was_shown_whatever_its_score(run, data, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps({"0.png": [{"box": [5, 6, 30, 34]}]}))
    asked = ("predict", run["run"], data / "0.png", "--prompts", tmp_path / "prompts.json", "--out", tmp_path)
    (row,) = read(vladapt(*asked))["predictions"]
    assert row["scores"][0] < 0.3, "a sure outline would be drawn anyway"
    drawn, plain = Image.open(tmp_path / "pictures" / "0.png"), Image.open(data / "0.png")
    assert drawn.convert("RGB").resize(plain.size, Image.NEAREST).tobytes() != plain.tobytes()


def test_a_sam_3_is_served_with_phrases_and_with_boxes_as_examples(data, tmp_path):
    sam3 = saved_sam3(tmp_path / "sam3", *tiny_sam3())
    shown = [{"box": [5, 6, 30, 34], "name": "red star"}, {"box": [1, 1, 9, 9], "name": "red star", "positive": False}]
    (tmp_path / "prompts.json").write_text(json.dumps({"0.png": shown}))
    (wanted,) = read(vladapt("predict", sam3, data / "0.png", "--prompts", tmp_path / "prompts.json"))["predictions"]
    model = load_served(sam3, Serving(device="cpu"))
    assert answered(model, data / "0.png", prompts=shown) == wanted
    asked = answered(model, data / "0.png", classes=("red star",))
    assert set(asked["labels"]) == {"red star"} and asked["scores"] != wanted["scores"]
    with pytest.raises(ConfigError, match="'red star' is shown by points, and this model takes boxes"):
        model.check(Wishes(prompts=[{"points": [[1, 2]], "name": "red star"}]))
    (tmp_path / "prompts.json").write_text('{"0.png": [{"points": [[1, 2]]}]}')
    assert "takes boxes, as examples" in told("predict", sam3, data / "0.png", "--prompts", tmp_path / "prompts.json")


def test_what_cannot_be_used_is_told_in_one_line(run, place, data, tmp_path):
    assert "finds none itself; show them with --prompts FILE.json" in told("predict", run["run"], data)
    assert "finds none itself; show them with --prompts FILE.json" in told("predict", place, data)
    (tmp_path / "prompts.json").write_text('{"0.png": [{"box": [5, 6, 30]}]}')
    line = told("predict", run["run"], data, "--prompts", tmp_path / "prompts.json")
    assert "'0.png', object 1: its box is not 4 numbers" in line
    assert "a SAM answers what it is shown" in told("export", place, "--out", tmp_path / "exported")
    sam = ("--domain", "open-vocab", "--task", "detection", "--data", data, "--start", place)
    assert "--remember: the model of" in (line := told("fit", *sam, "--remember", "dog")) and "knows no names" in line
    sam3 = saved_sam3(tmp_path / "sam3", *tiny_sam3())
    chosen = ("--domain", "open-vocab", "--task", "detection", "--data", data / "boxes.json", "--start", sam3)
    assert "sam3 is not trained here (its training code is under a licence" in told("fit", *chosen)
    boxes = json.loads((data / "boxes.json").read_text())
    for annotation in boxes["annotations"]:
        annotation.pop("segmentation")
    bare = shutil.copytree(data, tmp_path / "bare")  # with no outlines beside it
    (bare / "boxes.json").write_text(json.dumps(boxes))
    chosen = ("--domain", "open-vocab", "--task", "detection", "--data", bare, "--start", place)
    assert "outline" in told("fit", *chosen, "--epochs", 1)
