"""Calibrated confidences, sets, open answers, unlike images and files of predictions, by the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import vladapt as package
from vladapt.core.confidence import CALIBRATION, Calibration
from vladapt.core.errors import DataError
from vladapt.core.metrics import classification_metrics


@pytest.fixture
def rows_file(tmp_path) -> Path:
    """400 rows of three classes that overlap, in 8 dimensions."""
    rng, labels = np.random.default_rng(0), np.arange(400) % 3
    features = rng.normal(size=(400, 8)) + 2 * np.eye(8)[labels]
    path = tmp_path / "rows.npz"
    names = np.array(["red", "green", "blue"])
    np.savez(path, image_features=features.astype("f4"), labels=labels, text_features=np.eye(8)[:3], class_names=names)
    return path


@pytest.fixture
def labels_file(tmp_path) -> Path:
    """300 rows with two labels each, one of them rare."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 2)) < [0.4, 0.15]).astype("f4")
    features = rng.normal(size=(300, 8)) + 3 * labels @ np.eye(8)[:2]
    path = tmp_path / "labels.npz"
    names = np.array(["effusion", "mass"])
    np.savez(path, image_features=features.astype("f4"), labels=labels, text_features=np.eye(8)[:2], class_names=names)
    return path


@pytest.mark.thorough(but=("tip-adapter",))
@pytest.mark.parametrize("adapter", ["tip-adapter", "linear-probe", "gda"])
def test_a_fit_keeps_rows_that_chose_nothing_and_is_itself_the_same(vladapt, rows_file, adapter):
    made = vladapt("fit", "--features", rows_file, "--adapter", adapter, "--shots", 16, "--json").json
    calibration = Calibration.load(made["run"])
    assert len(calibration.logits) == 48 and "5 folds" in calibration.source
    info = json.loads((Path(made["run"]) / "run.json").read_text())
    assert info["calibration"]["rows"] == 48

    again = package.build_adapter(adapter)
    file = package.load_features(rows_file)
    place = {i: n for n, i in enumerate(file.features.ids or map(str, range(400)))}
    support = file.features.select([place[i] for i in info["splits"]["support"]])
    val = file.features.select([place[i] for i in info["splits"]["val"]])
    again.fit(support, file.classifier, val=val, seed=1)
    stored = package.load_adapter(Path(made["run"]) / "adapter.safetensors")
    assert torch.equal(again.logits(file.features), stored.logits(file.features))
    own = stored.logits(support)
    assert not torch.allclose(calibration.logits.sort(0).values, own.sort(0).values)  # the rows' own fit saw others


def test_the_error_before_and_after_is_that_of_the_confidences(vladapt, rows_file):
    made = vladapt("fit", "--features", rows_file, "--adapter", "tip-adapter", "--shots", 16, "--json").json
    info = json.loads((Path(made["run"]) / "run.json").read_text())
    file, calibration = package.load_features(rows_file), Calibration.load(made["run"])
    test = file.features.select([int(i) for i in info["splits"]["test"]])
    logits = package.load_adapter(Path(made["run"]) / "adapter.safetensors").logits(test)
    raw = classification_metrics(logits, test.labels, 3)["ece"]
    after = classification_metrics(calibration.scaling.logits(logits), test.labels, 3)["ece"]
    assert made["adapted"]["ece_uncalibrated"] == pytest.approx(raw, abs=1e-5)
    assert made["adapted"]["ece"] == pytest.approx(after, abs=1e-5) and after < 0.12


def test_eval_tells_coverage_with_its_interval_and_open_answers(vladapt, rows_file):
    run = vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 40, "--json").json["run"]
    told = vladapt("eval", run, "--coverage", 0.8, "--set-method", "aps", "--max-error", 0.3, "--json").json
    conformal, selective = told["conformal"], told["selective"]
    low, high = conformal["interval"]
    assert (conformal["asked"], conformal["method"]) == (0.8, "aps")
    assert low <= conformal["coverage"] <= high and high > 0.8 and 1 <= conformal["mean_set_size"] <= 3
    assert 0 <= selective["open"] < 1 and selective["error"] < 0.35
    words = vladapt("eval", run, "--coverage", 0.8).out
    assert "Sets (LAC, 80% asked) hold the right class for" in words and "classes on average" in words


def test_a_coverage_that_the_rows_cannot_promise_gives_all_classes_and_says_so(vladapt, rows_file):
    run = vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 4, "--json").json["run"]
    told = vladapt("eval", run, "--coverage", 0.95, "--json").json
    assert told["conformal"]["mean_set_size"] == 3
    assert any("at least 19 are needed" in note for note in told["notes"])


def test_several_labels_have_a_temperature_a_threshold_and_an_open_share_each(vladapt, labels_file):
    command = ("fit", "--features", labels_file, "--adapter", "tip-adapter", "--shots", 16, "--json")
    made = vladapt(*command).json
    facts = json.loads((Path(made["run"]) / "run.json").read_text())["calibration"]
    assert [len(facts[key]) for key in ("temperature", "offset", "thresholds")] == [2, 2, 2]
    assert made["adapted"]["ece"] < made["adapted"]["ece_uncalibrated"]
    told = vladapt("eval", made["run"], "--max-error", 0.2, "--json").json
    assert told["selective"]["max_error"] == 0.2 and 0 <= told["selective"]["open"] <= 1


def test_sets_of_labels_hold_the_share_that_is_asked_for(vladapt, labels_file, tmp_path):
    made = vladapt("fit", "--features", labels_file, "--adapter", "tip-adapter", "--shots", 32, "--json").json
    outcome = vladapt("eval", made["run"], "--coverage", 0.8, "--out", tmp_path / "there", "--json").json
    conformal = outcome["conformal"]
    low, high = conformal["interval"]
    assert low <= conformal["coverage"] <= high and high >= 0.8 and 0 < conformal["mean_set_size"] < 2
    assert "of an image’s true labels on average" in " ".join(outcome["notes"])
    assert "Sets that hold 80% of the true labels" in (tmp_path / "there" / "report.html").read_text()
    few = vladapt("eval", made["run"], "--coverage", 0.999).out
    assert "hold all labels" in few and "at least 999 are needed" in few
    refused = vladapt("eval", made["run"], "--coverage", 0.8, "--set-method", "aps")
    assert refused.code != 0 and "--set-method aps" in refused.error


def test_macro_f1_of_several_labels_is_that_of_the_labels_that_predict_names(vladapt, labels_file):
    made = vladapt("fit", "--features", labels_file, "--adapter", "tip-adapter", "--shots", 16, "--json").json
    run, adapted = Path(made["run"]), made["adapted"]
    file, calibration = package.load_features(labels_file), Calibration.load(run)
    test = file.features.select([int(i) for i in json.loads((run / "run.json").read_text())["splits"]["test"]])
    logits = package.load_adapter(run / "adapter.safetensors").logits(test)
    named = (calibration.probabilities(logits) >= calibration.thresholds).int().numpy()
    truth = test.labels.int().numpy()
    assert adapted["macro_f1"] == pytest.approx(f1_score(truth, named, average="macro"), abs=1e-6)
    at_half = f1_score(truth, (logits > 0).int().numpy(), average="macro", zero_division=0)
    assert adapted["macro_f1_at_half"] == pytest.approx(at_half, abs=1e-6) != adapted["macro_f1"]
    low, high = made["metric_intervals"]["adapted"]["macro_f1"]
    assert low < adapted["macro_f1"] < high
    assert made["thresholds"] == pytest.approx(dict(zip(["effusion", "mass"], calibration.thresholds.tolist())))
    assert made["zero_shot"]["macro_f1_at_half"] == made["zero_shot"]["macro_f1"]
    assert "Macro F1 at 0.5" in (run / "report.html").read_text()


@pytest.mark.parametrize("side", ["adapted", "zero_shot", "linear_probe"])
def test_the_calibration_error_has_an_interval(vladapt, rows_file, side):
    made = vladapt("fit", "--features", rows_file, "--adapter", "tip-adapter", "--shots", 16, "--json").json
    low, high = made["metric_intervals"][side]["ece"]
    scores = made["baselines"][side] if side == "linear_probe" else made[side]
    assert 0 <= low < scores["ece"] < high < 1


def test_a_run_says_why_it_is_not_calibrated(vladapt, rows_file, monkeypatch):
    from vladapt.core.judgements import calibration
    from vladapt.core.tasks.classification.scoring import ClassificationFit

    def fails(*args, **options):
        raise DataError("a fold without reds; give more --shots")

    monkeypatch.setattr(ClassificationFit, "fit_again", fails)
    monkeypatch.setattr(calibration, "_left_of_val", fails)
    outcome = vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 8)
    reason = "no fit on a part of the support: a fold without reds; give more --shots"
    assert f"Confidences are not calibrated: {reason}" in outcome.out
    run = next(line.split()[1] for line in outcome.out.splitlines() if line.startswith("Run:"))
    assert reason in json.loads((Path(run) / "run.json").read_text())["not_calibrated"]
    assert reason in (Path(run) / "report.html").read_text()
    assert reason in " ".join(vladapt("eval", run, "--coverage", 0.9, "--json").json["notes"])


def test_a_run_of_features_predicts_no_images_and_says_what_it_can_do(vladapt, rows_file, colours):
    run = vladapt("fit", "--features", rows_file, "--adapter", "nearest-mean", "--shots", 4, "--json").json["run"]
    outcome = vladapt("predict", run, colours / "red")
    assert outcome.code and "made from a features file" in outcome.err
    assert "`vladapt embed IMAGES --out new.safetensors`" in outcome.err


def test_a_run_of_features_answers_features_without_labels_or_texts(vladapt, rows_file, tmp_path):
    run = vladapt("fit", "--features", rows_file, "--adapter", "nearest-mean", "--shots", 4, "--json").json["run"]
    held, new, grouped = dict(np.load(rows_file)), tmp_path / "new.npz", tmp_path / "grouped.npz"
    names = [f"scan{row}.png" for row in range(len(held["labels"]))]
    np.savez(new, image_features=held["image_features"], ids=names, patient=[name[:5] for name in names])
    told = vladapt("predict", run, new, "--coverage", 0.9, "--json")
    rows = told.json["predictions"]
    right = [row["label"] == held["class_names"][label] for row, label in zip(rows, held["labels"])]
    assert [row["id"] for row in rows] == names and all(row["set"] for row in rows)
    scored = vladapt("eval", run, "--features", rows_file, "--split", "all", "--json").json
    assert np.isclose(np.mean(right), scored["adapted"]["accuracy"])
    assert "Least certain: scan" in vladapt("predict", run, new).out

    np.savez(grouped, **held, patient=np.arange(400) // 6 * 3 + held["labels"])  # one label each
    fitted = vladapt("fit", "--features", grouped, "--adapter", "nearest-mean", "--shots", "all", "--json").json["run"]
    of_patients = vladapt("predict", fitted, new, "--per-patient", "mean", "--json").json["predictions"]
    assert len(of_patients) == len({name[:5] for name in names})
    for more, reason in (
        (("--explain", "--out", "why"), "a features file holds none"),
        ((new,), "answers one such file; give one"),
    ):
        assert reason in vladapt("predict", run, new, *more).err
    np.savez(new, image_features=held["image_features"][:, :-1])
    assert "was fitted on features of width" in vladapt("predict", run, new).err
    np.savez(new, image_features=held["image_features"])
    assert "add an array 'groups' (N,)" in vladapt("predict", fitted, new, "--per-patient", "mean").err


def test_many_classes_of_few_images_are_counted_and_few_are_named(vladapt, tmp_path):
    def note(classes):
        labels, texts = np.arange(classes).repeat(10), np.random.default_rng(0).normal(size=(classes, 16))
        names = [f"kind{number}" for number in range(classes)]
        rows = texts[labels] + np.random.default_rng(1).normal(size=(len(labels), 16))
        np.savez("few.npz", image_features=rows, labels=labels, text_features=texts, class_names=names)
        made = vladapt("fit", "--features", "few.npz", "--adapter", "nearest-mean", "--shots", 16, "--json").json
        return next(
            note for note in json.loads(Path(made["run"], "run.json").read_text())["notes"] if "ewer than 16" in note
        )

    assert note(3) == "Fewer than 16 training images, all used: kind0 (5), kind1 (5), kind2 (5)."
    assert note(30) == "30 of 30 classes have fewer than 16 training images (5), all used."


def test_predictions_go_to_as_many_files_as_are_named(vladapt, run, colours, tmp_path):
    files = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.html")]
    outs = [word for file in files for word in ("--out", file)]
    outcome = vladapt("predict", run, colours / "red", *outs, "--coverage", 0.9, "--max-error", 0.5, "--top", 2)
    assert outcome.code == 0 and "Written: " in outcome.out
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert len(rows) == 12 and all(len(row["top"]) == 2 and {"set", "open", "confidence"} <= row.keys() for row in rows)
    with files[0].open(newline="") as f:
        table = list(csv.DictReader(f))
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert {"red", "green"} <= table[0].keys()
    assert float(table[0][rows[0]["label"]]) == pytest.approx(rows[0]["confidence"], abs=1e-5)
    assert rows[0]["label"] in files[2].read_text()


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("--coverage", 1.5), "--coverage 1.5: give a share between 0 and 1"),
        (("--set-method", "aps"), "give --coverage too"),
        (("--coverage", 0.9, "--set-method", "thr"), "give one of lac, aps, raps"),
        (("--coverage-per", "class"), "give --coverage too"),
        (("--coverage", 0.9, "--coverage-per", "patient"), "coverage_per=patient"),
        (("--max-error", 0), "--max-error 0.0: give a share"),
        (("--top", 0), "--top 0"),
        (("--threshold", 0.5), "for two classes or several labels, and this run has 3 classes"),
        (("--out", "no/where.csv"), "there is no folder no"),
        (("--out", "a", "--out", "b"), "a second folder"),
        (("--out", "pictures"), "classification writes into a folder only with --as or with --explain; otherwise"),
    ],
)
def test_wishes_that_cannot_be_met_are_one_line(vladapt, run, colours, arguments, words):
    outcome = vladapt("predict", run, colours / "red" / "00.png", *arguments)
    assert outcome.code != 0 and words in outcome.error


def test_a_run_that_stays_loaded_says_what_the_command_says(vladapt, run, colours):
    image = colours / "red" / "00.png"
    said = vladapt("predict", run, image, "--coverage", 0.9, "--json").json["predictions"]
    predictor = package.load_run(run)
    backbone = predictor.backbone
    rows = [predictor.predict(image, coverage=0.9).rows() for _ in range(2)]
    assert rows[0] == rows[1] and predictor.backbone is backbone
    assert rows[0][0]["label"] == said[0]["label"]
    assert rows[0][0]["confidence"] == pytest.approx(said[0]["confidence"], abs=1e-6)


def test_few_images_have_the_features_that_many_have(vladapt, run, colours):
    predictor = package.load_run(run)
    many = {row["id"]: row["confidence"] for row in predictor.predict(colours).rows()}
    assert len(many) > 8
    for image in sorted((colours / "red").iterdir())[:3]:
        row = predictor.predict(image).rows()[0]
        assert row["confidence"] == pytest.approx(many[row["id"]], abs=1e-4)


def test_a_file_that_cannot_be_decoded_is_skipped_among_few(vladapt, run, colours, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    told = vladapt("predict", run, broken, colours / "red" / "00.png", "--json").json
    assert len(told["predictions"]) == 1 and told["skipped"][0][0].endswith("broken.png")


def test_a_run_without_the_file_predicts_uncalibrated_and_promises_nothing(vladapt, run, colours):
    (run / CALIBRATION).unlink()
    assert f"{CALIBRATION}: missing; copy the whole run folder again" in vladapt("eval", run).err
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "sha256"}))
    told = vladapt("predict", run, colours / "red" / "00.png", "--coverage", 0.9, "--max-error", 0.1, "--json").json
    row = told["predictions"][0]
    assert len(row["set"]) == 3 and row["open"] is True and "unlike" not in row
    assert any("no calibration rows" in note for note in told["notes"])
    evaluated = vladapt("eval", run, "--coverage", 0.9, "--json").json
    assert "conformal" not in evaluated and any("no calibration rows" in note for note in evaluated["notes"])


@pytest.mark.parametrize("shots,adapter", [(1, "tip-adapter"), (0, "zero-shot")])
def test_too_few_shots_for_folds_leave_validation_rows_that_chose_nothing(vladapt, rows_file, shots, adapter):
    made = vladapt("fit", "--features", rows_file, "--adapter", adapter, "--shots", shots, "--json").json
    calibration = Calibration.load(made["run"])
    splits = json.loads((Path(made["run"]) / "run.json").read_text())["splits"]
    file = package.load_features(rows_file)
    adapter = package.load_adapter(Path(made["run"]) / "adapter.safetensors")
    scored = {tuple(row) for row in calibration.logits.tolist()}
    searched = adapter.logits(file.features.select([int(i) for i in splits["val"]])) if splits["val"] else []
    assert len(scored) > 20 and not scored & {tuple(row.tolist()) for row in searched}
    assert "validation images that no choice was based on" in calibration.source


def test_a_run_keeps_no_more_rows_than_it_needs(vladapt, rows_file, monkeypatch):
    from vladapt.core.judgements import calibration

    monkeypatch.setattr(calibration, "MOST_NUMBERS", 48)
    run = vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 16, "--json").json["run"]
    kept = Calibration.load(run)
    assert len(kept.logits) == 16 and kept.labels.bincount().min() >= 4


def test_prompts_are_calibrated_without_being_trained_again(fit, class_folders, vladapt):
    data = class_folders(each=30)
    outcome = fit("--data", data, "--adapter", "coop", "--shots", 4, "--epochs", 2, "--json")
    calibration = Calibration.load(outcome.json["run"])
    assert "validation images that no choice was based on" in calibration.source and len(calibration.logits) > 0


def test_a_damaged_file_is_one_line(vladapt, run, colours):
    (run / CALIBRATION).write_bytes(b"damaged")
    outcome = vladapt("predict", run, colours / "red" / "00.png")
    assert outcome.code == 1 and CALIBRATION in outcome.error


@pytest.fixture
def patients_file(tmp_path) -> Path:
    """60 patients with 1 to 9 images each, of one of two classes; their images share an error."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), np.arange(60) % 9 + 1)
    labels = (patient % 2).astype(int)
    features = 2 * np.eye(8)[labels] + rng.normal(size=(60, 8))[patient] + 0.3 * rng.normal(size=(len(patient), 8))
    groups = np.array([f"P{each:03d}" for each in patient])
    rows = {"image_features": features.astype("f4"), "labels": labels, "groups": groups}
    path = tmp_path / "patients.npz"
    np.savez(path, **rows, text_features=np.eye(8)[:2], class_names=np.array(["benign", "malignant"]))
    return path


def test_a_fit_on_patients_counts_patients_and_says_so(vladapt, patients_file):
    made = vladapt("fit", "--features", patients_file, "--adapter", "gda", "--shots", 64, "--json").json
    calibration = Calibration.load(made["run"])
    patients, info = len(calibration.groups.unique()), json.loads((Path(made["run"]) / "run.json").read_text())
    assert 20 < patients < len(calibration.groups) and info["calibration"]["groups"] == patients
    said = next(note for note in info["notes"] if "each counted once" in note)
    assert f"{patients} groups (patients, for instance)" in said and "19 of 20 calibrations" in said
    report = (Path(made["run"]) / "report.html").read_text()
    assert f"{patients} groups (patients, for instance), each counted once" in report
    assert "Class held least often" in report

    told = vladapt("eval", made["run"], "--coverage", 0.8, "--max-error", 0.3, "--json").json
    by_class = told["conformal"]["by_class"]
    tested = len(package.load_features(patients_file).features) - sum(
        len(info["splits"][s]) for s in ("support", "val")
    )
    assert list(by_class) == ["benign", "malignant"]
    assert 0 < sum(each["images"] for each in by_class.values()) <= tested
    assert told["conformal"]["groups"] == sum(each["groups"] for each in by_class.values())
    assert told["selective"]["groups"] <= told["conformal"]["groups"]
    least = min(by_class, key=lambda name: by_class[name]["coverage"])
    assert any(f"Least often they hold “{least}”" in note for note in told["notes"])

    few = vladapt("eval", made["run"], "--coverage", 0.995).out
    assert f"of {patients} groups (patients, for instance) are too few, at least 199 groups are needed" in " ".join(
        few.split()
    )


def test_each_class_can_be_held_as_often(vladapt, rows_file):
    run = vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 40, "--json").json["run"]
    plain, told = (
        vladapt("eval", run, "--coverage", 0.95, *more, "--json").json for more in ((), ("--coverage-per", "class"))
    )
    sets = Calibration.load(run).conformal(0.95, per_class=True)
    assert len(sets.thresholds.unique()) == 3
    assert told["conformal"]["per"] == "class" and "per" not in plain["conformal"]
    assert told["conformal"]["mean_set_size"] != plain["conformal"]["mean_set_size"]
    assert any("Sets (LAC, 95% asked of each class) hold" in note for note in told["notes"])


@pytest.mark.thorough
def test_sets_of_labels_are_of_all_images(vladapt, labels_file):
    run = vladapt("fit", "--features", labels_file, "--adapter", "tip-adapter", "--shots", 16, "--json").json["run"]
    refused = vladapt("eval", run, "--coverage", 0.8, "--coverage-per", "class")
    assert refused.code == 2 and "--coverage-per class: only for one label per image" in refused.error
    told = vladapt("eval", run, "--coverage", 0.8, "--coverage-per", "all", "--json").json
    assert set(told["conformal"]["by_class"]) == {"effusion", "mass"}
