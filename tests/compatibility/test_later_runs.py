"""Runs, exports, an MLflow model and an index of commit 9b9a365d answer as they answered there."""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

import vladapt

ON_FEATURES = ("auto", "judged", "judged-kept", "base", "gda")
ON_IMAGES = (
    *("tip-adapter", "auto", "natural", "lora", "without-labels", "judged", "several-labels"),
    *("scenes", "windows", "action-recognition"),
)
OF_PAIRS = ("lit", "pairs", "moments", "person-search", "re-identification")
MOMENTS = "retrieval_runs/moments"
ASKED = {
    "runs/several-labels": ["people/0.png", "people/13.png"],
    "runs/scenes": ["scenes/SeaLake/0.tif", "scenes/Forest/1.tif"],
    "runs/windows": ["field.tif"],
    "runs/action-recognition": ["clips/right/5.mp4", "clips/down/5.mp4"],
    MOMENTS: ["films/f2.mp4", "films/f3.mp4"],
    "open_vocab_runs/windows": ["field.tif"],
}
"""Run -> the images that it is asked about; any other is asked about new/."""
NAMED = {"runs/without-labels"}
"""Runs on images of which none has a label, that cannot be scored."""
SENTENCES = ["a red square goes right", "a blue square goes down"]
BACKBONES = ("models/open-clip", "retrieval_runs/re-identification")
WORDS = ("class", "label", "labels", "id", "set", "strongest", "deciding", "method", "sentence", "counts")
"""Keys whose texts are answers; any other text is prose, which the tests of its own page hold."""
COVERAGE = 0.8


def answers(value, key: str = ""):
    """What was computed, at any depth: numbers, booleans, and the words under a key in `WORDS`."""
    if isinstance(value, dict):
        kept = {name: answers(each, name) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each is not None}
    if isinstance(value, (list, tuple)):
        return [each for each in (answers(each, key) for each in value) if each is not None]
    if isinstance(value, str):
        return value if key in WORDS else None
    return value


def predicted(run: str):
    """Rows of `predict` on the images of `ASKED`; what a run on one label per image answers, with sets of classes."""
    extra = {"classes": SENTENCES} if run == MOMENTS else {}
    if run.startswith("runs/") and not run.endswith(("several-labels", "without-labels")):
        extra = {"coverage": COVERAGE}
    return answers(vladapt.predict(run, ASKED.get(run, ["new"]), device="cpu", **extra).rows())


def scored(run: str):
    """Everything that `eval` says of its own test images."""
    return answers(vladapt.evaluate(run, device="cpu"))


def grown(run: str):
    """What `eval` says with further judgements."""
    asked = {"coverage": COVERAGE, "max_error": 0.4, "vocabulary_steps": 2}
    said = answers(vladapt.evaluate(run, device="cpu", **asked))
    return {name: said[name] for name in ("vocabulary", "conformal", "selective")}


def alone(export: str) -> list:
    """What the script of an export prints of new/."""
    images = sorted(map(str, Path("new").iterdir()))
    before, sys.argv = sys.argv, [f"{export}/predict.py", *images, "--coverage", str(COVERAGE)]
    try:
        with redirect_stdout(StringIO()) as out:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
    finally:
        sys.argv = before
    return answers([json.loads(line) for line in out.getvalue().splitlines()])


def served(folder: str) -> list:
    """What a server of an export or a run answers about new/."""
    from vladapt.core.contracts.serving import Serving, Wishes
    from vladapt.core.engine.serve import load_export, load_served

    load = load_export if folder.startswith("exports") else load_served
    model = load(Path(folder), Serving(device="cpu"))
    samples, refused = model.samples(sorted(Path("new").iterdir()))
    for sample in samples:
        model.prepare(sample)
    model.answer(samples)
    return answers(model.rows(samples, refused, Wishes(coverage=COVERAGE))["predictions"])


def graph(file: str, **arrays: np.ndarray) -> list:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, arrays)[0].tolist()


def graphs() -> dict[str, list]:
    """Outputs of the graphs that take arrays: a head of features, and towers of images and of texts."""
    random = np.random.RandomState(4)
    rows = random.randn(3, 8).astype(np.float32)
    pixels, tokens = random.randn(2, 3, 16, 16).astype(np.float32), np.arange(56).reshape(2, 28)
    return {
        "features": graph("exports/features/head.onnx", features=rows),
        "image": graph("exports/towers/image.onnx", pixels=pixels),
        "text": graph("exports/towers/text.onnx", tokens=tokens),
    }


def hits() -> list:
    """Of a gallery: who is found by a sentence, by a picture, and by one camera."""
    from vladapt.core.engine.search import search

    asked = ({"text": "a red coat"}, {"image": "people/0.png"}, {"text": "a red coat", "where": {"camera": "c1"}})
    return [[[hit["id"], hit["score"]] for hit in search("indexes/people", **how, top=4).rows()] for how in asked]


def features_of(folder: str) -> dict[str, list]:
    """Of two drawn images and of two texts, by trained towers."""
    backbone = vladapt.load_backbone(f"{folder}/model.safetensors", device="cpu")
    size = backbone.image_size if isinstance(backbone.image_size, tuple) else 2 * (backbone.image_size,)
    pixels = torch.from_numpy(np.random.RandomState(3).randn(2, 3, *size)).float()
    with torch.no_grad():
        texts = backbone.encode_text(["a red cat", "a blue coat"])
        return {"images": backbone.encode_image(pixels).tolist(), "texts": texts.tolist()}


HOW_CERTAIN = {"interval", "intervals", "metric_intervals", "gain_interval", "p_value"}
"""Keys of what follows the smallest class and the number of groups now, and did not then."""


def assert_holds(now, then, within: float = 1e-5, where: str = "") -> None:
    """All that was answered then is answered now, but for rounding and for how certain it is; what has come since is of
    no concern."""
    if isinstance(then, dict):
        assert then.keys() - HOW_CERTAIN <= now.keys(), where
        for key in then.keys() - HOW_CERTAIN:
            assert_holds(now[key], then[key], within, f"{where}/{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for number, (one, other) in enumerate(zip(now, then)):
            assert_holds(one, other, within, f"{where}/{number}")
    elif isinstance(then, float):
        assert now == pytest.approx(then, abs=within, rel=within), where
    else:
        assert now == then, where


def skip_without_what_it_needs(run: str) -> None:
    needed = {"scenes": "rasterio", "windows": "pyogrio", "moments": "av", "lit": "av", "action-recognition": "av"}
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    pytest.importorskip(needed.get(run.rpartition("/")[2], "numpy"), reason="the extra of its domain is not installed")


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_run_on_features_is_judged_as_it_was(later_place, recorded, name):
    assert_holds(scored(f"feature_runs/{name}"), recorded["scored"][f"feature_runs/{name}"])


@pytest.mark.parametrize("name", ("auto", "gda"))
def test_sets_open_answers_and_a_growing_vocabulary_are_as_they_were(later_place, recorded, name):
    now, then = grown(f"feature_runs/{name}"), recorded["grown"][name]
    sets, were = now["conformal"], then["conformal"]  # what was left empty holds the answer now
    assert sets["mean_set_size"] == pytest.approx(were["mean_set_size"] + were["empty"]) and sets["empty"] == 0
    assert were["coverage"] <= sets["coverage"] <= were["coverage"] + were["empty"] + 1e-9
    same = {"conformal": ("asked", "method", "rows"), "selective": ("max_error", "open", "answered")}
    assert_holds(now, {**then, **{part: {key: then[part][key] for key in keys} for part, keys in same.items()}})
    assert now["selective"]["error"] == pytest.approx(then["selective"]["error"], abs=0.05)  # now over groups


@pytest.mark.parametrize("run", [*(f"runs/{name}" for name in ON_IMAGES), MOMENTS])
def test_a_run_predicts_as_it_did(later_place, recorded, run):
    skip_without_what_it_needs(run)
    then = recorded["predicted"][run]  # a set that was left empty holds the answer now
    then = [{**row, "set": row["set"] or [row["label"]]} if "set" in row else row for row in then]
    assert_holds(predicted(run), then)


@pytest.mark.parametrize(
    "run", sorted({f"runs/{name}" for name in ON_IMAGES} - NAMED) + [f"retrieval_runs/{name}" for name in OF_PAIRS]
)
def test_a_run_is_judged_as_it_was(later_place, recorded, run):
    skip_without_what_it_needs(run)
    assert_holds(scored(run), recorded["scored"][run])


def test_a_run_on_windows_is_segmented_and_scored_as_it_was(later_place, recorded):
    pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
    run = "open_vocab_runs/windows"
    skip_without_what_it_needs(run)
    assert_holds(predicted(run), recorded["predicted"][run])
    assert_holds(scored(run), recorded["scored"][run])


@pytest.mark.parametrize("folder", ("exports/pixels", "runs/tip-adapter", "runs/scenes"))
def test_an_export_and_a_run_are_served_as_they_were(later_place, recorded, folder):
    skip_without_what_it_needs(folder)
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    assert_holds(served(folder), recorded["served"][folder], within=1e-4)


def test_the_script_and_the_graphs_of_an_export_run(later_place, recorded):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    assert_holds(alone("exports/pixels"), recorded["alone"], within=1e-4)
    assert_holds(graphs(), recorded["graphs"], within=1e-4)


def test_a_saved_model_is_loaded_by_mlflow_and_by_us(later_place, recorded):
    pytest.importorskip("mlflow", reason="extra mlflow is not installed")
    skip_without_what_it_needs("runs/tip-adapter")
    # What MLflow's own loader, and ours, make of the saved model.
    import mlflow

    images = sorted(map(str, Path("new").iterdir()))
    table = mlflow.pyfunc.load_model("mlflow").predict(images, params={"coverage": COVERAGE})
    columns = {name: table[name].tolist() for name in ("label", "confidence", "set")}
    ours = vladapt.mlflow.load_model("mlflow", device="cpu").predict(images, coverage=COVERAGE).rows()
    assert_holds({"table": answers(columns), "rows": answers(ours)}, recorded["mlflow"])


def test_a_gallery_is_searched_as_it_was(later_place, recorded):
    pytest.importorskip("faiss", reason="extra retrieval is not installed")
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    assert_holds(hits(), recorded["hits"])


@pytest.mark.parametrize("folder", BACKBONES)
def test_trained_towers_give_their_features(later_place, recorded, folder):
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    assert_holds(features_of(folder), recorded["features"][folder])


def test_every_folder_is_asked(later_place):
    """A test of the tests."""
    asked = {f"feature_runs/{name}" for name in ON_FEATURES} | {f"runs/{name}" for name in ON_IMAGES}
    asked |= {f"retrieval_runs/{name}" for name in OF_PAIRS} | {"open_vocab_runs/windows"}
    assert {path.parent.relative_to(later_place).as_posix() for path in later_place.glob("*runs/*/run.json")} == asked
