"""predict.py of an export prepares pictures, and says what it finds, as vladapt does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.confidence.calibration import Calibration, Scaling
from vladapt.core.confidence.patients import Pooling
from vladapt.core.contracts.run_info import FittedRun, RunInfo
from vladapt.core.contracts.serving import ClassifierFacts, Sample, Wishes
from vladapt.core.contracts.task import Use
from vladapt.core.data.images import decode_image
from vladapt.core.errors import ConfigError
from vladapt.core.export.folder import script_picture
from vladapt.core.registry import build_judgement
from vladapt.core.serving.exported import ServedExport
from vladapt.core.tasks.classification.predictions import predictions_of

pytest.importorskip("onnxruntime", reason="extra export is not installed")

from vladapt.core.export import standalone

MEAN, STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)
SIZES = st.integers(1, 90)


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES, st.sampled_from(["shortest", "squash"]), st.sampled_from([16, 15, (24, 12), (10, 17)]), st.data())
def test_pixels_are_those_of_the_run(height, width, mode, size, data):
    interpolation = data.draw(st.sampled_from(["bicubic", "bilinear", "nearest"]))
    resize = data.draw(st.sampled_from([None, 30])) if mode == "shortest" else None
    wanted = Preprocess(size, MEAN, STD, interpolation=interpolation, mode=mode, resize=resize)
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = standalone.pixels(script_picture(picture), wanted.spec)
    torch.testing.assert_close(torch.from_numpy(found[0]), wanted(picture), atol=1e-5, rtol=1e-5)


def test_a_strip_is_cut_before_it_is_resized():
    wanted = Preprocess(16, MEAN, STD)
    picture = np.random.default_rng(0).integers(0, 256, (1, 500, 3), dtype=np.uint8)
    found = standalone.pixels(Image.fromarray(picture), wanted.spec)
    torch.testing.assert_close(torch.from_numpy(found[0]), wanted(picture))


def test_deeper_pictures_keep_their_depth():
    wanted = Preprocess(16, MEAN, STD)
    picture = np.random.default_rng(0).random((40, 30, 3)).astype(np.float32)
    found = torch.from_numpy(standalone.pixels(script_picture(picture), wanted.spec)[0])
    torch.testing.assert_close(found, wanted(picture), atol=2e-3, rtol=1e-3)
    coarse = standalone.pixels(Image.fromarray((picture * 255).astype(np.uint8)), wanted.spec)[0]
    assert (found - wanted(picture)).abs().mean() < 0.1 * (torch.from_numpy(coarse) - wanted(picture)).abs().mean()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_files_are_decoded_as_by_the_run(mode, tmp_path):
    rng = np.random.default_rng(1)
    if mode in ("I;16", "F"):
        values = rng.integers(0, 60_000, (12, 9)).astype(np.uint16 if mode == "I;16" else np.float32)
        image = Image.fromarray(values)
    else:
        image = Image.fromarray(rng.integers(0, 256, (12, 9, 4), dtype=np.uint8), "RGBA")
        image = image if mode == "RGBA" else image.convert("RGB").convert(mode) if mode != "LA" else image.convert("LA")
    path = tmp_path / ("a.png" if mode not in ("CMYK", "F") else "a.tiff")
    image.save(path)
    wanted, found = decode_image(path, {}), standalone.decoded(path)
    found = np.stack([np.asarray(band) for band in found], axis=-1) if isinstance(found, list) else np.asarray(found)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_turned_photograph_stands_upright(tmp_path):
    image, exif = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        np.asarray(standalone.decoded(tmp_path / "a.png")), decode_image(tmp_path / "a.png", {})
    )
    assert standalone.decoded(tmp_path / "a.png").size == (2, 4)


@pytest.mark.parametrize(("several", "per"), [(False, "all"), (False, "class"), (True, "all")])
def test_rows_are_those_of_predict(several, per):
    generator = torch.Generator().manual_seed(0)
    logits, names = 3 * torch.randn(60, 3, generator=generator), ("a", "b", "c")
    labels = (logits + torch.randn(60, 3, generator=generator) > 0).float() if several else logits.argmax(dim=1)
    calibration = Calibration.of_rows(logits + torch.randn(60, 3, generator=generator), labels, names, "rows")
    new = 3 * torch.randn(8, 3, generator=generator)
    use = Use(FittedRun(Path("run")))
    of = (calibration, names, list("stuvwxyz"), new, torch.zeros(8, 2), several, [])
    judgement = build_judgement("coverage", coverage=0.9, coverage_per=per)
    wanted = predictions_of(use, [judgement], *of).rows()
    sets = calibration.conformal(0.9, per_class=per == "class")
    least = [float(sets.threshold)] * 3 if several else (1 - sets.thresholds).tolist()
    thresholds = calibration.thresholds.tolist() if several else None
    facts = {"multilabel": several, "class_names": names, "thresholds": thresholds}
    facts |= {"coverage": {"0.9": least}} if per == "all" else {"coverage_per": {per: {"0.9": least}}}
    scaled = calibration.scaling.logits(new).numpy()
    found = [standalone.row_of(name, row, None, facts, 3, 0.9, per) for name, row in zip("stuvwxyz", scaled)]
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        assert {k: v for k, v in one.items() if k in ("id", "label", "labels", "set")} == {
            k: v for k, v in other.items() if k in ("id", "label", "labels", "set")
        }
        assert [each["class"] for each in one["top"]] == [each["class"] for each in other["top"]]
        assert [e["probability"] for e in one["top"]] == pytest.approx([e["probability"] for e in other["top"]])


@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("several", [False, True])
def test_rows_at_an_operating_point_are_those_of_predict(several, threshold):
    generator = torch.Generator().manual_seed(0)
    logits, names = 3 * torch.randn(60, 2, generator=generator), ("well", "sick")
    labels = (logits > 0).float() if several else logits.argmax(dim=1)
    calibration = Calibration.of_rows(logits + torch.randn(60, 2, generator=generator), labels, names, "rows")
    new, point = 3 * torch.randn(20, 2, generator=generator), {"sick": 0.2}
    metrics = {"operating_point": {"points": {"sick": {"threshold": 0.2}}}}
    metrics |= {} if several else {"findings": {"finding": "sick", "reason": "named", "scores": {}}}
    run = FittedRun(Path("run"), RunInfo(class_names=names), metrics)
    use = Use(run, threshold=threshold)
    of = (calibration, names, list(map(str, range(20))), new, torch.zeros(20, 2), several, [])
    wanted = predictions_of(use, [build_judgement("coverage", coverage=0.9)], *of).rows()
    sets = calibration.conformal(0.9)
    least = [float(sets.threshold)] * 2 if several else (1 - sets.thresholds).tolist()
    facts = {"multilabel": several, "class_names": list(names), "coverage": {"0.9": least}, "operating_point": point}
    facts |= (
        {"thresholds": [float(calibration.thresholds[0]), 0.2], "finding": None} if several else {"finding": "sick"}
    )
    scaled = calibration.scaling.logits(new).numpy()
    found = [standalone.row_of(n, row, None, facts, 2, 0.9, threshold=threshold) for n, row in enumerate(scaled)]
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        assert [one.get(key) for key in ("id", "label", "labels")] == [
            other.get(key) for key in ("id", "label", "labels")
        ]
        assert set(one["set"]) == set(other["set"]) or several  # whose sets are made with other thresholds
        for key in ("confidence", "confidences", "threshold", "thresholds"):
            assert one.get(key) == pytest.approx(other.get(key))
    likelier = [names[int(c)] for c in new.argmax(dim=1)]
    assert several or [row["label"] for row in wanted] != likelier


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("kind", ["two", "several", "many"])
def test_logits_of_a_patient_are_those_of_the_run(kind, how):
    classes, several = (4 if kind == "many" else 2), kind == "several"
    logits = torch.from_numpy(3 * np.random.default_rng(0).normal(size=(5, classes)))
    names, finding = list("abcd")[:classes], 1 if kind == "two" else None
    shares = logits.sigmoid() if several else logits.softmax(dim=1)
    scaling = Scaling(torch.linspace(0.5, 2, classes).double(), torch.linspace(-1, 1, classes).double())
    pooled = Pooling(how, several, finding).logits(shares, torch.zeros(5, dtype=torch.long), 1)
    wanted = scaling.probabilities(pooled, several)[0]
    of = {"how": how, "temperature": scaling.temperature.tolist(), "offset": scaling.offset.tolist()}
    facts = {"multilabel": several, "class_names": names, "finding": None if finding is None else names[finding]}
    facts |= {"thresholds": [0.9] * classes, "coverage": {}, "operating_point": {"a": 0.8}, "unlike_beyond": 0.1}
    facts["per_patient"] = {**of, "thresholds": [0.5] * classes, "operating_point": {}, "coverage": {}}
    row = standalone.patient_row("patient", ["x", "y"], logits.numpy(), facts, top=classes)
    assert {each["class"]: each["probability"] for each in row["top"]} == pytest.approx(
        dict(zip(names, wanted.tolist()))
    )
    assert row["images"] == ["x", "y"] and "unlike" not in row and "threshold" not in row
    if several:
        assert row["labels"] == [name for name, share in zip(names, wanted) if share >= 0.5]


def test_a_set_holds_what_is_answered():
    """With thresholds that no class reaches."""
    for facts in ({"multilabel": False}, {"multilabel": True, "thresholds": [0.6, 0.6]}):
        facts |= {"class_names": ["a", "b"], "coverage": {"0.8": [0.99, 0.99]}}
        assert standalone.row_of("x", np.array([1.0, 0.0]), None, facts, 3, 0.8)["set"] == ["a"]


def test_an_image_that_is_far_is_unlike():
    facts = {"multilabel": False, "class_names": ["a", "b"], "coverage": {}, "unlike_beyond": 0.2}
    rows = [standalone.row_of("x", np.array([1.0, 0.0]), distance, facts) for distance in (0.1, 0.3, None)]
    assert [row.get("unlike") for row in rows] == [False, True, None]


def test_it_is_short_and_needs_three_packages():
    text = Path(standalone.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    imported = {
        line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_a_served_export_names_labels_from_the_threshold_of_a_request_on():
    served = ServedExport.__new__(ServedExport)
    served._script, served._coverages, served.name = standalone, {}, "export"
    served._facts = {"multilabel": True, "class_names": ["a", "b"], "thresholds": [0.5, 0.5], "coverage": {}}
    served.facts = ClassifierFacts("classification", "export", ["a", "b"], ["threshold"], True, [], False)
    sample = Sample("x", None, answer=(np.array([1.0, -1.0]), None))
    plain, low = (served.rows([sample], [], wishes)["predictions"] for wishes in (Wishes(), Wishes(threshold=0.2)))
    assert (plain[0]["labels"], low[0]["labels"]) == (["a"], ["a", "b"])
    assert "thresholds" not in plain[0] and low[0]["thresholds"] == [0.2, 0.2]
    with pytest.raises(ConfigError, match=r"--threshold 1\.5: give a probability between 0 and 1"):
        served.check(Wishes(threshold=1.5))
