"""`eval` writes a report and its numbers beside the run, and says first how many of the images were in the fit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.runs.folder import Run


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def made(fit, colours) -> Path:
    return Path(fit("--data", colours, "--adapter", "ape", "--json").json["run"])


def test_an_evaluation_is_written_beside_the_run_which_stays_as_it_was(vladapt, made):
    before = files_of(made)
    outcome = vladapt("eval", made)
    assert files_of(made) == before
    (folder,) = (made / "evaluations").iterdir()
    assert set(files_of(folder)) == {"report.html", "metrics.json", "predictions.csv"}
    assert f"Written: {folder}" in outcome.out
    assert Run.open(made).info["adapter"] == "ape"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["adapted"] == Run.open(made).metrics["adapted"] and metrics["baselines"]["linear_probe"]
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["test_images"]
    right = np.mean([row["true"] == row["label"] for row in rows])
    assert right == pytest.approx(metrics["adapted"]["accuracy"])
    page = (folder / "report.html").read_text()
    assert "Report of one evaluation" in page and "None of the" in page


def test_out_names_the_folder_and_a_second_one_has_its_own(vladapt, made, tmp_path):
    vladapt("eval", made, "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "report.html").is_file() and not (made / "evaluations").exists()
    for _ in range(2):
        assert vladapt("eval", made, "--json").code == 0
    assert len(list((made / "evaluations").iterdir())) == 2
    refused = vladapt("eval", made, "--out", made / "run.json")
    assert refused.code != 0 and "a file, not a folder" in refused.err


def test_the_first_line_says_how_many_images_were_in_the_fit(vladapt, made):
    digests = Run.open(made).info["digests"]
    taught = len(digests["support"]) + len(digests["val"])
    assert len(digests["support"]) == len(Run.open(made).info["splits"]["support"]) > 0
    every = vladapt("eval", made, "--split", "all")
    assert every.out.splitlines()[0].startswith(f"{taught} of the 36 images were in the fit.")


def test_images_of_the_fit_are_known_by_their_content(vladapt, made, colours, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(colours, moved)
    for number, path in enumerate(sorted(moved.rglob("*.png"))):
        path.rename(path.with_name(f"x{number}.png"))
    digests = Run.open(made).info["digests"]
    taught = len(digests["support"]) + len(digests["val"])
    assert vladapt("eval", made, "--data", moved, "--split", "all", "--json").json["in_fit"] == taught


def test_other_data_are_tested_whole_however_few_they_are(vladapt, made, colours, tmp_path):
    for shade in ("red", "green"):
        (tmp_path / "few" / shade).mkdir(parents=True)
        shutil.copy(colours / shade / "01.png", tmp_path / "few" / shade)
    assert vladapt("eval", made, "--data", "few", "--json").json["test_images"] == 2
    refused = vladapt("eval", made, "--data", "few", "--split", "train")
    assert refused.code == 1 and "few has only test" in refused.error


def test_what_could_not_be_read_is_listed(vladapt, made, class_folders):
    other = class_folders(each=30, name="other")
    damaged = other / "red" / "broken.png"
    damaged.write_bytes(b"\x89PNG no more")
    outcome = vladapt("eval", made, "--data", other)
    assert "Skipped: " in outcome.out and "broken.png" in outcome.out
    (folder,) = (made / "evaluations").iterdir()
    assert "broken.png" in (folder / "report.html").read_text()
    assert any("broken.png" in name for name, _ in json.loads((folder / "metrics.json").read_text())["skipped"])


def test_rows_of_a_features_file_are_known_wherever_they_stand(vladapt, tmp_path):
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = (rng.normal(size=(60, 8)) + 3 * np.eye(8)[labels]).astype("f4")
    common = {"text_features": np.eye(8)[:3].astype("f4"), "class_names": np.array(["red", "green", "blue"])}
    for name, order in (("rows", np.arange(60)), ("turned", np.arange(60)[::-1])):
        np.savez(tmp_path / f"{name}.npz", image_features=images[order], labels=labels[order], **common)
    run = vladapt("fit", "--features", tmp_path / "rows.npz", "--adapter", "ape", "--shots", "2", "--json").json["run"]
    digests = Run.open(run).info["digests"]
    found = vladapt("eval", run, "--features", tmp_path / "turned.npz", "--split", "all", "--json").json
    assert found["in_fit"] == len(digests["support"]) + len(digests["val"]) > 6
    assert Path(found["out"], "report.html").is_file()
    np.savez(tmp_path / "few.npz", image_features=images[:2], labels=labels[:2], **common)
    assert vladapt("eval", run, "--features", tmp_path / "few.npz", "--json").json["test_images"] == 2


def test_an_older_run_does_not_say(vladapt, made):
    content = json.loads((made / "run.json").read_text())
    del content["digests"], content["sha256"]
    (made / "run.json").write_text(json.dumps(content))
    (made / "linear-probe.safetensors").unlink()
    outcome = vladapt("eval", made)
    assert outcome.out.splitlines()[0] == (
        "Whether some of these images were in the fit is not known: the run was made by an older version."
    )
    assert "linear_probe" not in vladapt("eval", made, "--json").json["baselines"]
