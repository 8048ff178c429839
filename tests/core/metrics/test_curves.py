"""Areas and calibration errors, to the bit those of torchmetrics."""

import pytest
import torch
import torchmetrics.functional.classification as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.metrics import classification_metrics, confusion_matrix, multilabel_metrics
from vladapt.core.metrics.classification import BINS, auroc, average_precision, binned_calibration_error, ranking_curve
from vladapt.domains.video.metrics.top_five import KEY, TopFive


def scores_and_truth(seed: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = 30 + 100 * seed
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    truth = (scores + torch.rand(count, generator=generator) > 1).long()
    return (scores * 12).round() / 12 if ties else scores, truth


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_areas_are_those_of_torchmetrics(seed, ties):
    scores, truth = scores_and_truth(seed, ties)
    assert auroc(scores, truth) == float(peer.binary_auroc(scores, truth))
    assert average_precision(scores, truth) == float(peer.binary_average_precision(scores, truth))


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_error_is_that_of_torchmetrics(seed):
    confidence, right = scores_and_truth(seed, ties=False)
    below_one = confidence.float().clamp(max=1 - torch.finfo(torch.float32).eps)
    assert binned_calibration_error(confidence, right) == float(
        peer.binary_calibration_error(below_one, right, n_bins=BINS)
    )


def test_only_the_order_of_scores_counts():
    scores, truth = scores_and_truth(1, ties=True)
    assert auroc(scores * 1e30 - 5, truth) == auroc(scores, truth)
    infinite = scores.where(scores < 0.9, torch.inf)
    assert auroc(infinite, truth) == auroc(scores.where(scores < 0.9, 2.0), truth)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 7, 150])
def test_scores_with_one_label_are_those_of_torchmetrics(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (97,), generator=generator)
    logits = torch.randn(97, classes, generator=generator) + 2 * torch.eye(classes)[labels]
    found, present = classification_metrics(logits, labels, classes), labels.unique()
    predicted, each = logits.argmax(dim=1), {"num_classes": classes, "average": "none"}
    assert found["accuracy"] == float(peer.multiclass_accuracy(predicted, labels, classes, average="micro"))
    assert found["balanced_accuracy"] == float(peer.multiclass_accuracy(predicted, labels, **each)[present].mean())
    assert found["macro_f1"] == float(peer.multiclass_f1_score(predicted, labels, **each)[present].mean())
    probs = logits.double().softmax(dim=1)
    assert found["ece"] == float(peer.multiclass_calibration_error(probs, labels, classes, n_bins=BINS))
    aurocs = peer.multiclass_auroc(probs, labels, classes, average="none")[present]
    assert found["auroc"] == pytest.approx(float(aurocs.mean()), abs=1e-7)
    matrix = peer.multiclass_confusion_matrix(predicted, labels, classes)
    assert torch.equal(confusion_matrix(logits, labels, classes), matrix)


@pytest.mark.parametrize("seed", range(4))
def test_scores_with_several_labels_are_those_of_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (83, 3), generator=generator)
    logits = torch.randn(83, 3, generator=generator, dtype=torch.float64) + labels
    found = multilabel_metrics(logits, labels.double(), ("a", "b", "c"))
    probs, pairs = logits.sigmoid(), (logits.sigmoid().flatten(), labels.flatten())
    assert [found[f"auroc/{name}"] for name in "abc"] == peer.multilabel_auroc(
        probs, labels, 3, average="none"
    ).tolist()
    precision = [float(peer.binary_average_precision(probs[:, c], labels[:, c])) for c in range(3)]
    assert found["mean_average_precision"] == sum(precision) / 3
    f1 = [float(peer.binary_f1_score(probs[:, c], labels[:, c])) for c in range(3)]
    assert found["macro_f1"] == sum(f1) / 3
    assert found["accuracy"] == float(peer.binary_accuracy(*pairs))
    assert found["ece"] == float(peer.binary_calibration_error(pairs[0].float(), pairs[1], n_bins=BINS))


def test_the_five_highest_scores_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(9, (61,), generator=generator), torch.randn(61, 9, generator=generator)
    theirs = peer.multiclass_accuracy(logits, labels, 9, average="micro", top_k=5)
    assert TopFive().compute(logits, labels, ())[KEY] == float(theirs)


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_curves_are_those_of_torchmetrics_at_the_cuts_that_are_kept(ties):
    scores, truth = scores_and_truth(3, ties)
    whole = ranking_curve(scores, truth, most=10_000)
    rates, hits, _ = peer.binary_roc(scores, truth)
    precision, _, _ = peer.binary_precision_recall_curve(scores, truth)
    assert whole.sensitivity.tolist() == pytest.approx(hits[1:].tolist(), abs=1e-6)
    assert whole.false_positive_rate.tolist() == pytest.approx(rates[1:].tolist(), abs=1e-6)
    assert whole.precision.flip(0).tolist() == pytest.approx(precision[:-1].tolist(), abs=1e-6)
    few = ranking_curve(scores, truth, most=20)
    kept = set(zip(few.false_positive_rate.tolist(), few.sensitivity.tolist(), few.precision.tolist()))
    assert 10 < len(few.precision) <= 20 and few.sensitivity[-1] == few.false_positive_rate[-1] == 1
    assert kept <= set(
        zip(*(each.tolist() for each in (whole.false_positive_rate, whole.sensitivity, whole.precision)))
    )
    gaps = torch.stack((few.false_positive_rate, few.sensitivity)).diff(dim=1).sum(dim=0)
    assert gaps.max() < 0.25  # evenly along the curve


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 400), levels=st.integers(1, 60), most=st.integers(2, 100))
def test_few_points_of_a_ranking_curve_keep_its_area(seed, count, levels, most):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (count,), generator=generator).double()
    truth = torch.arange(count) % 3 == 0
    curve = ranking_curve(scores, truth, most)
    alarms, hits = ([0.0, *each.tolist()] for each in (curve.false_positive_rate, curve.sensitivity))
    assert len(alarms) <= most + 1 and alarms == sorted(alarms) and hits == sorted(hits)
    area, steps = float(torch.trapezoid(torch.tensor(hits), torch.tensor(alarms))), torch.tensor([alarms, hits]).diff()
    assert abs(area - auroc(scores, truth)) <= float((steps[0] * steps[1]).sum()) / 2 + 1e-6
