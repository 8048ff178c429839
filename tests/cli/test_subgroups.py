"""`--by COLUMN` in `fit` and `eval`: scores by site, sex and age, as features files and tables tell them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def rows_file(tmp_path) -> Path:
    """600 rows of two classes, which can hardly be told apart at the site "south"."""
    rng = np.random.default_rng(0)
    labels, site = rng.integers(0, 2, 600), rng.choice(["north", "south", "east"], 600, p=[0.5, 0.4, 0.1])
    features = rng.normal(size=(600, 8))
    features[:, 0] += np.where(site == "south", 0.2, 2.5) * (2 * labels - 1)
    rows = {"image_features": features.astype("f4"), "labels": labels, "site": site}
    rows |= {"sex": rng.choice(["F", "M", "unknown"], 600), "age": rng.integers(20, 90, 600).astype("f4")}
    texts, path = np.eye(8)[:2] * [[-1], [1]], tmp_path / "rows.npz"
    texts[1] = np.eye(8)[0]
    np.savez(path, **rows, text_features=texts, class_names=np.array(["healthy", "sick"]))
    return path


@pytest.fixture
def fit_rows(vladapt, rows_file):
    return lambda *more: vladapt("fit", "--features", rows_file, "--adapter", "linear-probe", "--shots", 16, *more)


def shares(told: dict, column: str, share: str = "Accuracy") -> dict:
    of = next(each for each in told["subgroups"]["columns"] if each["column"] == column)
    return {part["name"]: part["share"] for part in of["shares"][share]["parts"]}


def test_a_fit_shows_where_it_does_worse(fit_rows):
    made = fit_rows("--by", "SITE", "--by", "sex", "--json").json
    site, sex = shares(made, "site"), shares(made, "sex")
    assert list(site) == ["north", "south"] and site["north"] - site["south"] > 0.3
    assert sorted(sex) == ["F", "M"]  # who is unknown is no group
    assert shares(made, "site", "Recall of sick")["south"] < 0.75
    assert made["adapted"] == fit_rows("--json").json["adapted"]

    report = (Path(made["run"]) / "report.html").read_text()
    assert "Scores by site" in report and "the largest gap is between north" in report
    assert report.count("share is drawn towards the mean") == 1  # so it is not that of the table
    assert "adjusted for 6 tests (Holm)" in report and "Left out: 1 value of fewer than 20 images." in report
    assert "north" not in (Path(made["run"]) / "log.txt").read_text()


def test_eval_takes_the_columns_of_the_data_it_scores(vladapt, fit_rows, rows_file):
    run = fit_rows("--json").json["run"]
    own = vladapt("eval", run, "--by", "sex", "--json").json
    assert "subgroups" not in vladapt("eval", run, "--json").json
    rows = dict(np.load(rows_file))
    np.savez("elsewhere.npz", **{**rows, "sex": np.where(rows["labels"] == 1, "F", "M")})
    told = vladapt("eval", run, "--features", "elsewhere.npz", "--by", "sex", "--json").json
    assert shares(told, "sex") != shares(own, "sex")
    assert list(shares(told, "sex", "Recall of sick")) == ["F"]
    gone = vladapt("eval", run, "--features", "elsewhere.npz", "--by", "scanner")
    assert gone.code == 2 and "--by scanner: elsewhere.npz has no such column" in gone.error


def test_what_is_left_out_of_one_comparison_alone_is_said_of_it(vladapt, fit_rows, rows_file):
    """Sites where nearly all images show one class have an accuracy, and no recall of the other."""
    run = fit_rows("--json").json["run"]
    rows = dict(np.load(rows_file))
    sick_of_south = (rows["labels"] == 1) & (rows["site"] == "south") & (np.arange(600) > 60)
    site = np.where(sick_of_south, "north", rows["site"])
    np.savez("elsewhere.npz", **{**rows, "site": site})
    out = " ".join(vladapt("eval", run, "--features", "elsewhere.npz", "--by", "site").out.split())
    assert "Left out, with fewer than 20 images: 1 value of Recall of healthy, 1 value of Recall of sick." in out


def test_many_numbers_are_cut_at_the_quartiles_and_that_is_said(fit_rows):
    out = " ".join(fit_rows("--by", "age").out.split())
    assert "up to" in out and "Numbers are cut at the quartiles of the test images." in out
    assert "No difference is shown" in out and "largest gap" not in out


@pytest.mark.parametrize(
    "column, message",
    [
        ("sit", "rows.npz has no such column; did you mean site"),
        ("labels", "holds the image or its label; give another column"),
        ("brightness", "--by brightness: rows has no images to measure, and no column of that name"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused_before_anything_is_computed(fit_rows, column, message):
    refused = fit_rows("--by", column)
    assert refused.code == 2 and message in refused.error and not Path("runs").exists()


@pytest.mark.thorough
def test_the_recall_of_each_label_where_images_have_several(vladapt, tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 2)) < 0.5).astype("f4")
    site = rng.choice(["north", "south"], 500)
    told_apart = np.where(site == "south", 0.0, 3.0)[:, None] * [1, 0] + [0, 3]
    features = rng.normal(size=(500, 8)) + (told_apart * labels) @ np.eye(8)[:2]
    rows = {"image_features": features.astype("f4"), "labels": labels, "site": site}
    np.savez("labels.npz", **rows, text_features=np.eye(8)[:2], class_names=np.array(["mass", "effusion"]))
    made = vladapt("fit", "--features", "labels.npz", "--adapter", "linear-probe", "--by", "site", "--json").json
    mass, effusion = (shares(made, "site", f"Recall of {name}") for name in ("mass", "effusion"))
    assert mass["north"] - mass["south"] > 0.25 and abs(effusion["north"] - effusion["south"]) < 0.2
    of = made["subgroups"]["columns"][0]["shares"]
    assert of["Recall of mass"]["p_value"] < 0.05 < of["Recall of effusion"]["p_value"]


@pytest.fixture
def table(tmp_path, picture) -> Path:
    """Red and green pictures with sites; those of the south are painted over."""
    lines = ["image,label,site"]
    for n in range(160):
        colour, site = ("red", "green")[n % 2], ("north", "south")[n // 2 % 2]
        (tmp_path / "set" / colour).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture("blue" if site == "south" else colour, n)).save(tmp_path / "set" / colour / f"{n}.png")
        lines.append(f"{colour}/{n}.png,{colour},{site}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "set"


def test_columns_of_a_table_and_of_one_beside_class_folders(fit, table):
    adapter = ("--adapter", "linear-probe")
    made = fit("--data", table / "labels.csv", *adapter, "--by", "site", "--json").json
    assert shares(made, "site")["north"] > shares(made, "site")["south"]
    rows = (table / "labels.csv").read_text().splitlines()
    (table / "sites.csv").write_text("\n".join(line.rsplit(",", 2)[0] + "," + line.rsplit(",", 1)[1] for line in rows))
    (table / "labels.csv").unlink()
    beside = fit("--data", table, *adapter, "--by", "site", "--json").json
    assert shares(beside, "site")["north"] > shares(beside, "site")["south"]
    refused = fit("--data", table / "labels.csv", "--by", "image")
    assert refused.code != 0


def test_class_folders_alone_have_no_columns(fit, colours):
    refused = fit("--data", colours, "--by", "site")
    assert refused.code == 2 and "--by site: data has no columns; give a table with a row per image" in refused.error


@pytest.mark.thorough
def test_boxes_have_the_columns_of_their_images(vladapt, small_clip_spec, tmp_path):
    rng, images, boxes = np.random.default_rng(0), [], []
    (tmp_path / "images").mkdir()
    for n in range(60):
        pixels = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        pixels[:, 16:, 2] //= 4
        Image.fromarray(pixels).save(tmp_path / f"images/{n}.png")
        images.append({"id": n, "file_name": f"{n}.png"})
        boxes += [{"image_id": n, "category_id": side, "bbox": [16 * side, 0, 16, 16]} for side in (0, 1)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "sites.csv").write_text("file,site\n" + "".join(f"{n}.png,site {n % 3 > 0}\n" for n in range(60)))
    where = ("--domain", "natural", "--backbone", small_clip_spec, "--data", tmp_path, "--adapter", "linear-probe")
    run = vladapt("fit", *where, "--shots", 4, "--json").json["run"]
    factors = ("--by", "object-size", "--by", "Brightness")
    told = vladapt("eval", run, "--split", "all", "--by", "site", *factors, "--json").json
    column, size, bright = told["subgroups"]["columns"]
    (whole,) = size["shares"]["Accuracy"]["parts"]
    assert (size["column"], whole["name"], whole["images"], size["computed"]) == ("object-size", "16", 120, True)
    assert bright["cut"] and [part["images"] for part in bright["shares"]["Accuracy"]["parts"]] == [40] * 3
    units = {part["name"]: (part["images"], part["units"]) for part in column["shares"]["Accuracy"]["parts"]}
    assert units == {"site True": (80, 40), "site False": (40, 20)} and not column["without"]


def test_columns_that_answers_follow_are_named_in_an_evaluation_of_a_features_file(vladapt, tmp_path):
    """The features show the site alone, which goes with the class among the rows learned from."""
    rng = np.random.default_rng(0)
    labels, split = rng.integers(0, 2, 400), np.array(["train"] * 200 + ["test"] * 200)
    site = np.where(split == "train", labels ^ (rng.random(400) < 0.05), rng.integers(0, 2, 400))
    features = rng.normal(size=(400, 8))
    features[:, 0] += 3 * (2 * site - 1)
    rows = {"image_features": features.astype("f4"), "labels": labels, "split": split, "one": np.ones(400)}
    rows |= {"site": np.array(["north", "south"])[site], "coin": rng.integers(0, 2, 400)}
    texts = {"text_features": np.eye(8)[:2], "class_names": np.array(["healthy", "sick"])}
    np.savez("rows.npz", **rows, **texts)
    run = vladapt("fit", "--features", "rows.npz", "--adapter", "linear-probe", "--shots", 60, "--json").json["run"]
    told = vladapt("eval", run, "--holistic", "--out", "seen", "--json").json
    of = told["followed_columns"]
    follows = {each["column"]: each["following"]["p_value"] < 0.05 for each in of["columns"]}
    assert follows == {"site": True, "coin": False}
    assert of["not_judged"] == {"one": "has one value in the test images"}
    words = "answers follow site beyond the label: the model reads it, or something that goes with it"
    assert any(note.startswith(words) for note in told["notes"])
    assert any("corrupted images: not tested, since a features file holds no images" in note for note in told["notes"])
    assert words[1:] in Path("seen/report.html").read_text()
    np.savez("other.npz", **{**rows, "split": np.array(["test"] * 400)}, **texts)
    other = vladapt("eval", run, "--holistic", "--features", "other.npz", "--json").json["followed_columns"]
    assert other["columns"][0]["column"] == "site" and other["columns"][0]["following"]["images"] == 400
