from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt.core.confidence import CALIBRATION, Calibration, Unlike, distances
from vladapt.core.errors import ConfigError, DataError


def rows(count=60, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = 3 * torch.nn.functional.one_hot(labels, classes) + 2 * torch.randn(count, classes, generator=generator)
    return logits, labels


def several(count=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, 2, generator=generator) < 0.3).float()
    labels[::9, 0] = torch.nan
    return 4 * labels.nan_to_num() - 5 + torch.randn(count, 2, generator=generator), labels


def made(**kwargs):
    return Calibration.of_rows(*rows(), ("a", "b", "c"), "some rows", **kwargs)


def test_a_file_gives_back_the_same_confidences_sets_and_flags(tmp_path):
    support = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    calibration = made(unlike=Unlike.of_rows(support, support, torch.eye(40, dtype=torch.bool)))
    calibration.save(tmp_path)
    read = Calibration.load(tmp_path)
    logits = rows(seed=5)[0]
    assert torch.equal(read.probabilities(logits), calibration.probabilities(logits))
    probs = read.probabilities(logits)
    assert torch.equal(read.conformal(0.9).sets(probs), calibration.conformal(0.9).sets(probs))
    assert torch.equal(read.unlike.flags(support), calibration.unlike.flags(support))


def test_a_run_without_the_file_has_none(tmp_path):
    assert Calibration.load(tmp_path) is None


@pytest.mark.parametrize(
    "tensor,value",
    [
        ("temperature", torch.tensor([-1.0])),
        ("temperature", torch.ones(2)),
        ("logits", torch.full((60, 3), torch.nan)),
        ("labels", torch.full((60,), 7)),
        ("labels", torch.arange(3)),
        ("offset", None),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, tensor, value):
    path = made().save(tmp_path)
    header = {"format": 1, "class_names": ["a", "b", "c"], "source": "some rows"}
    tensors = {**load_file(path), tensor: value}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata={"vladapt": json.dumps(header)})
    with pytest.raises(DataError, match="damaged"):
        Calibration.load(tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / CALIBRATION).write_bytes(b"no safetensors")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        Calibration.load(tmp_path)


def test_each_label_has_the_threshold_of_its_best_f1():
    logits, labels = several()
    calibration = Calibration.of_rows(logits, labels, ("a", "b"), "some rows")
    probs = calibration.probabilities(logits)

    def f1(c: int, least: float) -> float:
        known = ~labels[:, c].isnan()
        called, truth = probs[known, c] >= least, labels[known, c] == 1
        return 2 * float((called & truth).sum()) / float(called.sum() + truth.sum())

    for c in range(2):
        best = max(f1(c, float(p)) for p in probs[:, c])
        assert f1(c, float(calibration.thresholds[c])) == pytest.approx(best)


def test_several_labels_leave_answers_open_label_by_label():
    logits, labels = several(count=800)
    labels[:, 1] = (torch.rand(800, generator=torch.Generator().manual_seed(1)) < 0.5).float()  # cannot be told
    calibration = Calibration.of_rows(logits, labels, ("a", "b"), "some rows")
    left = calibration.open_answers(calibration.probabilities(logits), 0.1)
    assert left[:, 0].double().mean() < 0.2 and left[:, 1].double().mean() > 0.8


def test_sets_of_labels_are_the_same_from_the_file(tmp_path):
    logits, labels = several()
    weights = torch.linspace(0.5, 1.5, len(labels), dtype=torch.float64)
    calibration = Calibration.of_rows(logits, labels, ("a", "b"), "some rows", row_weights=weights)
    calibration.save(tmp_path)
    read, probs = Calibration.load(tmp_path), calibration.probabilities(logits)
    assert torch.equal(read.row_weights, weights)
    assert torch.equal(read.conformal(0.8).sets(probs), calibration.conformal(0.8).sets(probs))
    with pytest.raises(ConfigError, match="--set-method aps"):
        calibration.conformal(0.8, "aps")


def test_unlike_images_are_told_and_one_in_twenty_ordinary_ones_is():
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(2000, 16, generator=generator) + 3
    far = torch.randn(200, 16, generator=generator) - 3
    unlike = Unlike.of_rows(near[:200], near[200:600])
    assert float(unlike.flags(near[600:]).double().mean()) == pytest.approx(0.05, abs=0.03)
    assert bool(unlike.flags(far).all())


def test_a_row_is_not_its_own_neighbour():
    support = torch.eye(4)
    assert torch.allclose(distances(support, support, torch.eye(4, dtype=torch.bool)), torch.ones(4))


def test_the_limit_does_not_come_from_rows_that_find_themselves():
    support = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    own = torch.eye(60, dtype=torch.bool)
    away = distances(support, support, own).sort().values
    limit = Unlike.of_rows(support, support, own).limit
    assert limit in away[-4:].tolist() and limit > Unlike.of_rows(support, support).limit


def test_too_few_rows_tell_no_unlike_image():
    support = torch.randn(10, 4)
    unlike = Unlike.of_rows(support, support, torch.eye(10, dtype=torch.bool))
    assert not unlike.known and not unlike.flags(-support).any()
