"""What some methods need besides images, given on the command line: `--resource NAME=PATH`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.registry import adapter_class

QUICK = ("--shots", "2", "--set", "adapter.views=0")


@pytest.fixture
def colours(class_folders):
    return class_folders("red", "green", "blue", each=12)


@pytest.fixture
def pool(tmp_path) -> Path:
    lines = [f"{what} {colour} {thing}" for what in ("a", "the") for colour in ("red", "green", "blue", "grey")
             for thing in ("square", "wall", "picture")]  # fmt: skip
    (tmp_path / "pool.txt").write_text("\n".join(lines))
    return tmp_path / "pool.txt"


def boxes_of(folder: Path, path: Path) -> Path:
    """A detector's file: one box an image."""
    files = sorted(folder.rglob("*.png"))
    images = [
        {"id": i, "file_name": f.relative_to(folder).as_posix(), "width": 24, "height": 24} for i, f in enumerate(files)
    ]
    found = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 18, 16], "score": 0.9} for i in range(len(files))
    ]
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": [{"id": 1, "name": "thing"}]}))
    return path


def test_captions_are_searched(vladapt, fit, colours, pool):
    outcome = fit("--data", colours, "--adapter", "x-more", "--resource", f"captions={pool}", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert 0 <= found["adapted"]["accuracy"] <= 1
    again = vladapt("eval", found["run"], "--json").json
    assert again["adapted"] == found["adapted"]


def test_a_run_forgets_no_resource_and_takes_no_idle_one(vladapt, fit, colours, pool):
    found = fit("--data", colours, "--adapter", "x-more", "--resource", f"captions={pool}", "--json").json
    pool.unlink()  # the run has what it needs of it
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    outcome = vladapt("eval", found["run"], "--resource", f"captions={colours}")
    assert outcome.code != 0 and "x-more, once fitted, does not use it" in outcome.error


def test_images_found_for_class_names_make_the_cache(fit, colours, class_folders, tmp_path):
    found = class_folders("red", "blue", each=4, name="found")
    common = ("--data", colours, "--adapter", "tip-x", *QUICK, "--json")
    own = fit(*common, "--out", tmp_path / "a").json
    of_found = fit(*common, "--out", tmp_path / "b", "--resource", f"support-folder={found}").json
    assert own["zero_shot"] == of_found["zero_shot"] and own["adapted"] != of_found["adapted"]


def test_a_support_folder_with_a_strange_class_is_refused(fit, colours, class_folders):
    found = class_folders("red", "green", each=3, name="found")
    (found / "red").rename(found / "purple")
    outcome = fit("--data", colours, "--adapter", "tip-x", *QUICK, "--resource", f"support-folder={found}")
    assert outcome.code != 0 and "'purple' is not a class of the data" in outcome.err


def test_boxes_at_the_fit_and_at_prediction(vladapt, fit, colours, class_folders, tmp_path):
    boxes = boxes_of(colours, tmp_path / "boxes.json")
    found = fit("--data", colours, "--adapter", "gc-clip", "--resource", f"boxes={boxes}", "--json").json
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    new = class_folders("red", "green", each=2, name="new")
    others = boxes_of(new, tmp_path / "others.json")
    outcome = vladapt("predict", found["run"], new, "--resource", f"boxes={others}", "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.json["predictions"]) == 4


def test_crops_of_images_are_looked_at_again(vladapt, fit, colours, tmp_path):
    said = {"red": ["a warm colour"], "green": ["the colour of grass"], "blue": ["the colour of the sea"]}
    (tmp_path / "said.json").write_text(json.dumps(said))
    wanted = ("--resource", f"descriptions={tmp_path / 'said.json'}", "--set", "adapter.n_crops=3")
    found = fit("--data", colours, "--adapter", "wca", *wanted, "--json").json
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    assert vladapt("predict", found["run"], colours / "red", "--json").code == 0


def test_features_before_the_projection_come_from_the_store(vladapt, fit, colours):
    wanted = ("--set", "adapter.views=2", "--set", "adapter.epochs=3")
    found = fit("--data", colours, "--adapter", "projection", *wanted, "--json").json
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    assert vladapt("predict", found["run"], colours / "red", "--json").code == 0


@pytest.mark.thorough
def test_further_backbones_by_name(vladapt, fit, colours, small_clip_spec):
    wanted = ("--adapter", "multi-backbone", "--resource", f"further-backbones={small_clip_spec}")
    found = fit("--data", colours, *wanted, "--json").json
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    assert vladapt("predict", found["run"], colours / "red", "--json").code == 0


def features_file(path: Path, width: int, seed: int, labels=None) -> Path:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3 if labels is None else labels
    centres = rng.normal(size=(3, width))
    np.savez(
        path,
        image_features=(centres[labels] + rng.normal(size=(60, width))).astype(np.float32),
        labels=labels,
        text_features=(centres + rng.normal(size=(3, width))).astype(np.float32),
        class_names=np.array(["a", "b", "c"]),
    )
    return path


def test_further_backbones_as_features_files(vladapt, tmp_path):
    first, second = features_file(tmp_path / "one.npz", 16, 0), features_file(tmp_path / "two.npz", 24, 1)
    common = ("fit", "--features", first, "--adapter", "multi-backbone", "--shots", "4")
    found = vladapt(*common, "--resource", f"further-backbones={second}", "--json").json
    assert found["adapted"]["accuracy"] > 0.4
    assert vladapt("eval", found["run"], "--json").json["adapted"] == found["adapted"]
    third = features_file(tmp_path / "three.npz", 24, 1, labels=np.arange(60)[::-1] % 3)
    outcome = vladapt(*common, "--resource", f"further-backbones={third}")
    assert outcome.code != 0 and "row by row" in outcome.err


def test_a_learned_context_is_a_start(fit, colours):
    quick = ("--set", "adapter.n_ctx=4", "--set", "adapter.epochs=1")
    learned = fit("--data", colours, "--adapter", "coop", *quick, "--json").json["run"]
    tuned = ("--data", colours, "--adapter", "tpt", "--set", "adapter.n_views=4", "--json")
    plain, started = fit(*tuned).json, fit(*tuned, "--resource", f"ctx={learned}").json
    probabilities = [json.loads((Path(run["run"]) / "metrics.json").read_text()) for run in (plain, started)]
    assert probabilities[0] != probabilities[1]
    other = fit("--data", colours, "--adapter", "ape", "--set", "adapter.views=0", "--json").json["run"]
    outcome = fit(*tuned, "--resource", f"ctx={other}")
    assert outcome.code != 0 and "'ape' learned no context" in outcome.err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--adapter", "x-more"), "needs a pool of captions; give --resource captions=FILE"),
        (("--adapter", "gc-clip"), "needs boxes from a detector; give --resource boxes=FILE"),
        (("--adapter", "biomed-coop"), "needs sentences about each class; give --resource descriptions=FILE"),
        (("--adapter", "ape", "--resource", "captions=pool.txt"), "--resource captions: ape does not use it"),
        (("--adapter", "x-more", "--resource", "captions=nowhere.txt"), "captions=nowhere.txt: no such file"),
        (("--adapter", "x-more", "--resource", "caption=pool.txt"), "did you mean captions?"),
        (("--adapter", "x-more", "--resource", "captions"), "write NAME=PATH"),
    ],
)
def test_what_is_missing_or_idle_is_one_line(fit, colours, pool, arguments, words):
    outcome = fit("--data", colours, *arguments)
    assert outcome.code != 0 and words in outcome.error


@pytest.mark.parametrize("name", ["coop", "wca", "projection", "x-more"])
def test_a_features_file_cannot_serve_what_looks_at_images(vladapt, tmp_path, name):
    file = features_file(tmp_path / "one.npz", 16, 0)
    outcome = vladapt("fit", "--features", file, "--adapter", name, "--shots", "2")
    assert outcome.code != 0 and "which a features file does not have; give --data and --backbone" in outcome.error


def test_a_comparison_goes_on_without_what_it_lacks(vladapt, tmp_path):
    file = features_file(tmp_path / "one.npz", 16, 0)
    assert "captions" in adapter_class("x-more").needs
    common = ("compare", "--features", file, "--shots", "2", "--seeds", "1", "--out", tmp_path / "compared")
    outcome = vladapt(*common, "--adapters", "tip-adapter,x-more", "--json")
    assert set(outcome.json["refused"]) == {"x-more"}
    assert all(row["seconds"] >= 0 for row in outcome.json["rows"])
    table = vladapt(*common, "--adapters", "tip-adapter").out
    assert "seconds per fit" in table
    assert "at once" not in table
    assert "Note: Transclip read all test images at once" in vladapt(*common, "--adapters", "transclip").out


def test_novel_classes_of_a_features_file_have_its_text_weights(vladapt, tmp_path):
    labels = np.arange(200) % 5
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16))
    np.savez(
        tmp_path / "five.npz",
        image_features=(centres[labels] + 0.5 * rng.normal(size=(200, 16))).astype(np.float32),
        labels=labels,
        text_features=(centres + 0.5 * rng.normal(size=(5, 16))).astype(np.float32),
        class_names=np.array(list("abcde")),
    )
    common = ("fit", "--features", tmp_path / "five.npz", "--shots", "4", "--classes", "base", "--novel", "--json")
    found = vladapt(*common, "--adapter", "gda").json
    assert found["novel"]["adapted"]["accuracy"] > 0.6
    outcome = vladapt(*common, "--adapter", "ape")
    assert outcome.code != 0 and "no scores for classes it never saw" in outcome.err


def test_a_folder_of_images_beside_a_features_file_is_refused_in_one_line(vladapt, tmp_path, class_folders):
    file, found = features_file(tmp_path / "one.npz", 16, 0), class_folders("red", "green", each=2, name="found")
    outcome = vladapt("fit", "--features", file, "--adapter", "tip-x", "--resource", f"support-folder={found}")
    assert outcome.code != 0
    assert "--resource support-folder: a features file has no backbone to read it with" in outcome.error


def test_a_caption_that_is_no_text_is_named(fit, colours, class_folders):
    found = class_folders("red", "green", "blue", each=2, name="found")
    for image in found.rglob("*.png"):
        image.with_suffix(".txt").write_text("a wall", encoding="utf-8")
    (found / "red" / "00.txt").write_bytes(b"\xff\xfe\x00")
    outcome = fit("--data", colours, "--adapter", "real-linear", "--resource", f"support-folder={found}")
    assert outcome.code != 0 and "00.txt: is not UTF-8 text" in outcome.err


def test_a_support_folder_is_read_and_counted_apart_from_the_data(small_clip, class_folders):
    """A domain may note what kind of set it read last, which decides its prompts."""
    from vladapt.core.contracts.domain import Domain
    from vladapt.core.recipes.resolve import resolve, task_of
    from vladapt.core.runtime.progress import Reporter

    class Noting(Domain):
        name, read_last = "noting", ""

        def read(self, path, task, **options):
            from vladapt.core.data.class_folders import read_class_folders

            self.read_last = Path(path).name
            return read_class_folders(path)

        def sample(self, task):
            raise AssertionError

        def templates(self, task):
            return ["{}"]

    data, found = class_folders("red", "green", each=8), class_folders("red", "green", each=2, name="found")
    flags = {"data.path": str(data), "resources.support_folder": str(found), "backbone": small_clip.spec}
    domain = Noting()
    recipe = resolve(flags=flags)
    prepared = task_of(recipe, domain).prepared(recipe, Reporter(quiet=True))
    prepared.skipped += [(f"{i}.png", "lost while encoding") for i in range(5)]  # of the data, not of the folder's 4
    assert len(prepared.resources.support_folder) == 4
    assert domain.read_last == "data" and len(prepared.skipped) == 5
