"""`eval --holistic --unlike`, as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.errors import CapabilityError
from vladapt.core.judgements import _unlike_sets
from vladapt.core.registry import load_domain


@pytest.fixture
def noise(tmp_path) -> Path:
    """45 images of noise."""
    rng, folder = np.random.default_rng(0), tmp_path / "noise"
    folder.mkdir()
    for number in range(45):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_images_of_other_things_are_compared_without_copies(vladapt, run, colours, noise):
    copied = sorted(colours.rglob("*.png"))[:5]
    for number, path in enumerate(copied):
        shutil.copy(path, noise / f"copy{number}.png")
    (noise / "broken.png").write_bytes(b"no image")
    how = ("eval", run, "--holistic", "--unlike", f"noise={noise}", "--json")
    made = vladapt(*how, "--holistic-images", "all").json["unlike"]
    of = made["sets"]["noise"]
    assert (of["images"], of["copies"], of["unreadable"]) == (45, 5, 1) and not made["drawn"]
    assert {"mcm/t1", "mcm/own", "energy/own", "max_logit"} <= set(of["scores"])
    assert set(of["zero_shot"]) == set(of["scores"]) - {"distance"} | {"gl_mcm/t1", "gl_mcm/own"}
    assert of["scores"]["mcm/t1"] != of["scores"]["mcm/own"]
    assert made["without"].startswith("GL-MCM is given of zero-shot alone, since the answers of this run are not")
    failing = vladapt(*how, "--holistic-images", "7", "--fail-under", "unlike=1", "--out", "seen")
    fewer = json.loads(failing.out)["unlike"]
    assert fewer["images"] == 7 and fewer["sets"]["noise"]["images"] <= 7
    assert failing.code == 1 and "--fail-under: unlike is " in failing.err
    assert "Unlike images" in Path("seen/report.html").read_text(encoding="utf-8")


def test_patches_count_where_a_run_answers_by_its_texts_alone(vladapt, fit, colours, noise):
    run = fit("--data", colours, "--adapter", "zero-shot", "--json").json["run"]
    how = ("--holistic", "--unlike", f"noise={noise}", "--holistic-images", "40", "--json")
    made = vladapt("eval", run, *how).json["unlike"]
    of = made["sets"]["noise"]
    assert {"gl_mcm/t1", "gl_mcm/own"} <= set(of["scores"]) and not made["without"]
    assert of["scores"]["gl_mcm/t1"]["auroc"] == pytest.approx(of["zero_shot"]["gl_mcm/t1"])
    assert of["scores"]["gl_mcm/t1"] != of["scores"]["mcm/t1"]


def test_by_default_samples_of_other_domains_are_compared(vladapt, run, monkeypatch):
    how = ("eval", run, "--holistic", "--holistic-images", "4", "--json")
    made = vladapt(*how).json["unlike"]
    assert set(made["sets"]) == {"natural sample", "remote-sensing sample"} and made["drawn"]

    def without_natural(name):
        if name == "natural":
            raise CapabilityError("natural needs a package")
        return load_domain(name)

    monkeypatch.setattr(_unlike_sets, "load_domain", without_natural)
    assert set(vladapt(*how).json["unlike"]["sets"]) == {"remote-sensing sample"}


def refused(outcome, words: str) -> None:
    assert outcome.code == 1 and words in outcome.err and "Traceback" not in outcome.err


def test_what_cannot_be_compared_is_refused(vladapt, run, colours, noise):
    def asked(place):
        return vladapt("eval", run, "--holistic", "--unlike", f"near={place}")

    refused(asked("absent"), "--unlike near=absent: no such folder or file; check the path")
    refused(asked(colours), f"near={colours}: all 36 images are images of the run's own data")
    for place, cure in (("near", "is not usable; give NAME=FOLDER"), (f"a={noise},a={noise}", "has a twice")):
        outcome = vladapt("eval", run, "--holistic", "--unlike", place)
        assert outcome.code == 2 and f"option unlike={place} of judgement 'out-of-distribution': {cure}" in outcome.err
    (noise / "rows.npz").write_bytes(b"")
    refused(asked(noise / "rows.npz"), "this run is of images and encodes them itself; give a folder of images")


def test_a_folder_of_the_own_images_is_refused_before_anything_is_computed(
    vladapt, run, colours, tmp_path, monkeypatch
):
    monkeypatch.setattr(_unlike_sets, "images_of", None)
    for number, path in enumerate(sorted(colours.rglob("*.png"))[:2]):
        (tmp_path / "own").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "own" / f"{number}.png")
    outcome = vladapt("eval", run, "--holistic", "--unlike", f"near={tmp_path / 'own'}")
    refused(outcome, "all 2 images are images of the run's own data, so nothing is unlike them")


def test_a_run_of_stored_features_takes_such_files(vladapt, tmp_path):
    rng = np.random.default_rng(0)

    def write(name: str, rows: np.ndarray, **more) -> Path:
        np.savez(tmp_path / name, image_features=rows.astype("f4"), ids=np.arange(len(rows)).astype(str), **more)
        return tmp_path / name

    labels, backbone = rng.integers(0, 3, 240), np.array("tower")
    rows = 3 * np.eye(8)[labels] + rng.normal(size=(240, 8))
    names = {"labels": labels, "text_features": np.eye(8, dtype="f4")[:3], "class_names": np.array(["a", "b", "c"])}
    data = write("data.npz", rows, backbone=backbone, **names)
    run = vladapt("fit", "--features", data, "--adapter", "tip-adapter", "--shots", "8", "--json").json["run"]
    others = 3 * np.eye(8)[rng.integers(4, 7, 60)] + rng.normal(size=(60, 8))
    other = write("other.npz", np.concatenate([others, 2 * rows[:10]]), backbone=backbone)
    how = ("eval", run, "--holistic", "--holistic-images", "all", "--json")
    of = vladapt(*how, "--unlike", f"other={other}").json["unlike"]
    scores = of["sets"]["other"]
    assert (scores["images"], scores["copies"], of["headline"]) == (60, 10, "distance")
    assert scores["scores"]["distance"]["auroc"] > 0.9 and scores["flagged"] > 3 * of["flagged"]
    assert "a features file has no features of patches" in of["without"]
    assert "give --unlike" in vladapt(*how).json["unlike"]["lacking"]
    strange = write("strange.npz", others, backbone=np.array("another"))
    refused(vladapt(*how[:-1], "--unlike", f"a={strange}"), "was made by backbone another, those of the run by tower")
    refused(vladapt(*how[:-1], "--unlike", f"a={write('unsaid.npz', others)}"), "does not say which backbone made it")
    wide = write("wide.npz", np.ones((4, 9)), backbone=backbone)
    refused(vladapt(*how[:-1], "--unlike", f"a={wide}"), "its features have 9 numbers, those of the run 8")
    empty = tmp_path / "folder"
    empty.mkdir()
    needed = f"--unlike a={empty}: this run is of a features file, and needs another one to compare: "
    refused(vladapt(*how[:-1], "--unlike", f"a={empty}"), needed)
    attacked = vladapt(*how[:-1], "--attack", "pgd")
    assert attacked.code == 2 and "data holds features and no images to attack; omit it" in attacked.err
    own = write("own.npz", rows[:20], backbone=backbone)
    refused(vladapt(*how[:-1], "--unlike", f"a={own}"), "all 20 images are images of the run's own data")
