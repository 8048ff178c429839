"""`fit`, `eval` and `predict` of detection by names, as a user runs them on a config of their own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data import read_detection

FIT_KEYS = {"run", "domain", "task", "adapter", "backbone", "shots", "seed", "zero_shot", "adapted", "seconds"}
NAMES = "red square, green square, blue square"


@pytest.fixture(scope="module")
def data(squares):
    return squares()


@pytest.fixture(scope="module")
def fitted(command, tiny, data):
    """What `fit --json` says of a detector that finds squares."""
    return command("fit", "--config", tiny("detection"), "--data", data, "--epochs", 8, "--json")


@pytest.fixture(scope="module")
def run(fitted):
    return fitted.json["run"]


def test_fit_prints_one_object_with_the_promised_keys(fitted, small_clip_spec):
    made = fitted.json
    assert set(made) >= FIT_KEYS and made["zero_shot"] is None and made["adapter"] == "own"
    assert (made["domain"], made["task"], made["shots"], made["seed"]) == ("open-vocab", "detection", None, 1)
    assert made["backbone"] == small_clip_spec and made["test_images"] == 5 and made["seconds"] > 0
    assert made["adapted"]["AP50"] > 0.3 and {"AP", "AP75", "AR"} <= set(made["adapted"])


def test_fit_tells_of_its_steps_and_of_nothing_else_on_stderr(fitted):
    lines = fitted.err.splitlines()
    assert 7 <= len(lines) <= 11 and all(line.startswith("Step ") for line in lines)


def test_a_run_is_a_folder_with_a_report_and_no_checkpoints(place, run):
    assert {path.name for path in (place / run).iterdir()} == {
        *("run.json", "metrics.json", "adapter.safetensors", "log.txt", "report.html", "training.jsonl")
    }
    assert not (place / "runs" / ".resume").exists()
    info = json.loads((place / run / "run.json").read_text())
    assert info["data"]["path"] == "squares" and {"mmdet", "mmcv"} <= set(info["versions"])
    page = (place / run / "report.html").read_text()
    assert page.count("<img") >= 7 and "12 train, 2 val, 5 test" in page and "RetinaNet" in page


def test_eval_gives_the_numbers_of_the_fit_from_any_folder(command, fitted, run, place, monkeypatch):
    assert command("eval", run, "--json").json["adapted"] == fitted.json["adapted"]
    from vladapt.core.engine.fit import evaluate

    monkeypatch.chdir("/")
    assert evaluate(place / run)["adapted"] == fitted.json["adapted"]


def test_eval_shows_a_table_with_one_column(command, run):
    found = command("eval", run)
    assert found.code == 0 and found.err == "" and "AP50" in found.out and "5 test images" in found.out
    assert "zero-shot" not in found.out


def test_eval_with_the_same_names_in_another_order_changes_nothing(command, fitted, run):
    again = command("eval", run, "--classes", "blue square,red_square, Green square", "--json").json["adapted"]
    assert again["AP50"] == pytest.approx(fitted.json["adapted"]["AP50"], abs=0.25)


def test_eval_with_other_names_than_the_datas_shows_both_lists(command, run):
    found = command("eval", run, "--classes", "red square, lorry")
    assert found.code == 2 and found.error.count("\n") == 0
    assert f"annotation has 3 classes ({NAMES})" in found.error and "prompt has 2 (red square, lorry)" in found.error


def test_eval_on_other_data_with_other_names_asks_for_those(command, run, squares):
    other = squares("other", 0, 0, 4, names=("blue square", "crimson square"))
    found = command("eval", run, "--data", other, "--json").json
    assert found["data"] == "other" and found["test_images"] == 4 and 0 <= found["adapted"]["AP50"] <= 1


def test_predict_prints_what_it_found(command, run, data):
    found = command("predict", run, data / "images" / "01.png", data / "images" / "02.png")
    assert found.code == 0 and found.err == ""
    assert "01.png" in found.out and "02.png" in found.out and " square (0." in found.out


def test_predict_writes_pictures_and_a_coco_file_that_reads_back(command, run, data, place):
    made = command("predict", run, data / "images", "--out", "found", "--json").json
    out = place / "found"
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [f"{n:02d}.png" for n in range(1, 20)]
    assert sorted(made["files"]) == sorted(str(Path("found") / p.relative_to(out)) for p in out.rglob("*.*"))
    assert max(Image.open(out / "pictures" / "01.png").size) >= 300
    content = json.loads((out / "predictions.json").read_text())
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    (out / "predictions.json").write_text(json.dumps(content))
    shutil.copytree(data / "images", out / "images")
    back = read_detection(out / "predictions.json")
    first = made["predictions"][0]
    assert np.allclose(back.items[0].target.boxes, first["boxes"], atol=0.02)
    assert [back.class_names[label] for label in back.items[0].target.labels] == first["labels"]


def test_predict_says_how_many_files_it_wrote(command, run, data):
    assert (
        "Written: 2 files in found_one" in command("predict", run, data / "images" / "01.png", "--out", "found_one").out
    )


@pytest.mark.parametrize("form", ["text", "json", "txt"])
def test_predict_looks_for_names_that_it_never_saw(command, run, data, place, form):
    forms = {
        "text": "crimson box, lake",
        "json": {"crimson box": ["a reddish square."], "lake": {"synonyms": ["pond"]}},
        "txt": "crimson box, red thing\nlake\n",
    }
    given = forms[form]
    if form != "text":
        given = place / f"names.{form}"
        given.write_text(forms[form] if form == "txt" else json.dumps(forms[form]))
    rows = command("predict", run, data / "images" / "03.png", "--classes", given, "--json").json["predictions"]
    assert set(rows[0]["labels"]) <= {"crimson box", "lake"} and len(rows[0]["boxes"]) == len(rows[0]["scores"]) > 0


def test_an_image_that_cannot_be_read_is_skipped_and_listed_once(command, run, data, place):
    shutil.copytree(data / "images", place / "damaged")
    (place / "damaged" / "01.png").write_bytes(b"")
    cut = (place / "damaged" / "02.png").read_bytes()[:500]
    (place / "damaged" / "02.png").write_bytes(cut)
    found = command("predict", run, "damaged", "--json")
    assert len(found.json["predictions"]) == 17
    assert [name for name, _ in found.json["skipped"]] == ["damaged/01.png", "damaged/02.png"]
    lines = [line for line in command("predict", run, "damaged").out.splitlines() if line.startswith("Skipped: ")]
    assert len(lines) == 2 and all(line.count(".png") == 1 for line in lines)


SUPPRESS_ALL = ("--set", "suppress=all")


def test_shots_and_described_classes_reach_the_training(command, tiny, data, place):
    (place / "two.json").write_text(json.dumps({"blue square": ["like the sky."], "red square": []}))
    arguments = ("--config", tiny("detection"), "--data", data, "--epochs", 1, "--shots", 2)
    made = command("fit", *arguments, "--classes", place / "two.json", "--out", "few", *SUPPRESS_ALL, "--json").json
    info = json.loads((place / made["run"] / "run.json").read_text())
    assert Path(made["run"]).parent == Path("few") and made["shots"] == 2
    assert info["class_names"] == ["blue square", "red square"] and info["plan"]["vladapt"]["suppress"] == "all"
    asked = command("predict", made["run"], data / "images" / "03.png", "--classes", "crimson box, lake")
    assert "Note: Trained on blue square and red square alone, the model has learned" in asked.out
    assert info["plan"]["vladapt"]["described"]["blue square"]["descriptions"] == ["like the sky."]
    assert len(info["splits"]["train"]) <= 4 and len(info["splits"]["test"]) == 5
    assert command("eval", made["run"], "--json").json["adapted"] == made["adapted"]


def test_novel_classes_are_scored_beside_the_base_classes(command, tiny, data, place):
    arguments = ("--config", tiny("detection"), "--data", data, "--epochs", 1, "--novel", "green square")
    made = command("fit", *arguments, "--json").json
    found = made["adapted"]
    base, novel = found["base_AP50"], found["novel_AP50"]
    assert found["harmonic_AP50"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    info = json.loads((place / made["run"] / "run.json").read_text())
    assert info["plan"]["vladapt"]["classes"] == ["red square", "blue square"]
    shown = command("eval", made["run"]).out
    rows = [row.split("│")[1].strip() for row in shown.splitlines() if row.startswith("│")]
    assert rows[:3] == ["base AP50 ↑", "novel AP50 ↑", "harmonic AP50 ↑"]


def test_a_redacted_run_names_no_image_and_shows_none(command, tiny, data, place):
    outcome = command("fit", "--config", tiny("detection"), "--data", data, "--epochs", 1, "--redact", "--json")
    run = place / outcome.json["run"]
    info = json.loads((run / "run.json").read_text())
    page = (run / "report.html").read_text()
    assert all(name.startswith("sample ") for ids in info["splits"].values() for name in ids)
    for told in (json.dumps(info), page, (run / "log.txt").read_text()):
        assert ".png" not in told.replace("image/png", "") and "squares" not in told
    assert "data:image/jpeg" not in page
    again = command("eval", run, "--data", data, "--json").json
    assert again["adapted"] == pytest.approx(outcome.json["adapted"])
    assert "redacted" in command("eval", run).error
