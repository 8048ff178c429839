"""ProLIP: the last visual projection, fine-tuned on features taken before it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from forked import run as run_python
from parity_checks.towers import projection, projection_trained

from vladapt import (
    Batch,
    CapabilityError,
    DataError,
    FeatureSet,
    TextClassifier,
    build_adapter,
)
from vladapt.adapters.weights import _projections
from vladapt.core.contracts.backbone import Backbone
from vladapt.core.contracts.resources import PreProjection

GRID = [(rate, penalty) for rate in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8) for penalty in (10, 1, 0.1, 0.01, 0.001, 0.0001, 0)]  # fmt: skip  # noqa: E501


class Linear:
    """A backbone that is nothing but its projection."""

    spec, fingerprint, capabilities = "linear", "f" * 16, {"hidden"}

    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias

    def need(self, capability):
        assert capability == "hidden"

    def need_texts(self, method=""):
        """Texts are given."""

    def check_channels(self, method, trains):
        """It sees three."""

    def image_projection(self):
        return SimpleNamespace(weight=self.weight, bias=self.bias)

    def project(self, hidden, normalize=True):
        return hidden @ self.weight + (0 if self.bias is None else self.bias)


class Closed(Linear):
    """The same, but it does not tell its matrix."""

    def image_projection(self):
        return None


class Problem:
    """Hidden features around class centres, a random projection, and texts near the projected centres."""

    def __init__(self, classes=4, shots=4, width=12, dim=8, views=0, seed=0, scale=20.0, bias=None, labels=None):
        draw = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, width, generator=draw)
        weight = torch.randn(width, dim, generator=draw) / width**0.5
        self.backbone = Linear(weight, None if bias is None else bias * torch.randn(dim, generator=draw))
        self.names = tuple(f"class {c}" for c in range(classes))

        def drawn(counts, views=0):
            of = torch.repeat_interleave(torch.arange(classes), torch.as_tensor(counts).expand(classes))
            hidden = centres[of] + 1.2 * torch.randn(len(of), width, generator=draw)
            seen = hidden[:, None] + 0.5 * torch.randn(len(of), views, width, generator=draw) if views else None
            told = of if labels is None else torch.tensor([labels(int(c)) for c in of])
            features = self.backbone.project(hidden)
            hidden = FeatureSet(hidden, told, self.names, views=seen, tap="pre_projection")
            return FeatureSet(features, told, self.names, backbone=self.backbone.fingerprint), hidden

        self.support, self.hidden = drawn(shots, views)
        (self.val, self.val_hidden), (self.test, self.test_hidden) = drawn(5), drawn(20)
        text = F.normalize(centres @ weight + 0.9 * torch.randn(classes, dim, generator=draw), dim=-1)
        negative = F.normalize(torch.randn(classes, dim, generator=draw), dim=-1) if labels else None
        self.text = TextClassifier(text, class_names=self.names, logit_scale=scale, negative=negative)

    def fit(self, val=False, backbone=None, seed=0, **options):
        adapter = build_adapter("projection", **{"views": 0, "epochs": 30, **options})
        given = PreProjection(self.hidden, self.val_hidden if val else None)
        backbone = backbone or self.backbone
        report = adapter.fit(
            self.support, self.text, val=self.val if val else None, backbone=backbone,
            resources={"pre_projection": given}, seed=seed,
        )  # fmt: skip
        return adapter, report

    def logits(self, adapter, hidden=None):
        return adapter.logits(Batch(pre_projection=self.test_hidden.features if hidden is None else hidden))


def log_shares(labels, classes):
    """(C,): by which rare classes count as much as others; those without images as the rarest."""
    counts = torch.tensor([int((labels == c).sum()) for c in range(classes)])
    counts[counts == 0] = counts[counts > 0].min()
    return (counts / counts.sum()).log()


def plain_training(problem, lr, penalty, epochs, views=0):
    """One torch loop over the whole matrix."""
    start, bias = problem.backbone.weight, problem.backbone.bias
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=lr, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    rows = problem.text.weights if problem.text.negative is None else problem.text.weights - problem.text.negative
    shift, losses = 0.0 if problem.text.logit_bias is None else problem.text.logit_bias, []
    for epoch in range(epochs):
        hidden = problem.hidden.views[:, epoch % views] if views else problem.hidden.features
        unit = F.normalize(hidden @ weight + (0 if bias is None else bias), dim=-1)
        logits = problem.text.logit_scale * unit @ rows.T + shift
        labels = problem.support.labels
        if labels.ndim == 1:
            loss = F.cross_entropy(logits + log_shares(labels, len(rows)), labels)
        else:
            known = ~torch.isnan(labels)
            loss = F.binary_cross_entropy_with_logits(logits[known], labels[known])
        loss = loss + penalty * F.mse_loss(weight, start, reduction="sum")
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weight.detach(), losses


# The published algorithm ----------------------------------------------------------------------------------------------


def test_it_trains_as_the_reference_code(agrees):
    agrees(projection)


def test_the_report_of_the_reference_run(references, parity):
    for ref in references(projection):
        for run in ref.setting("runs"):
            _, report = projection_trained(ref, parity, run)
            views = len(ref.keys(r"view\d+"))
            assert report.chosen == {"lr": run["lr"], "lambda": run["lam"], "views": views}
            assert report.trained_parameters == ref["proj0"].numel()


@pytest.mark.parametrize("made", [{}, {"bias": 0.5}, {"views": 3}, {"scale": 430.0}, {"shots": [1, 7, 2, 0]}], ids=str)
def test_a_run_is_a_plain_training_of_the_matrix(made):
    problem = Problem(**made)
    views = made.get("views", 0)
    adapter, report = problem.fit(lr=1e-2, penalty=0.3, views=views)
    weight, losses = plain_training(problem, 1e-2, 0.3, 30, views)
    torch.testing.assert_close(problem.backbone.weight + adapter.change, weight, atol=1e-5, rtol=1e-4)
    assert [row["loss"] for row in report.history] == pytest.approx(losses, rel=1e-4)
    tuned = Linear(weight, problem.backbone.bias).project(problem.test_hidden.features)
    expected = problem.text.logits(F.normalize(tuned, dim=-1))
    torch.testing.assert_close(problem.logits(adapter), expected, atol=2e-3, rtol=1e-4)
    assert report.history[0]["lr"] == 1e-2 and report.history[15]["lr"] == pytest.approx(5e-3)


def test_all_pairs_trained_together_are_each_trained_alone():
    problem = Problem(classes=3, shots=2)
    runs = [_projections.ProjectionTraining(rate, float(penalty)) for rate, penalty in GRID]

    def train(group_bytes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_projections, "GROUP_BYTES", group_bytes)
            hidden, side = problem.hidden.features, _projections.ProjectedTexts.of(problem.text)
            projected = problem.backbone.project(hidden)
            return list(
                _projections.train_runs(lambda epoch: (hidden, projected), problem.support.labels, side, runs, 4)
            )

    together, in_groups, alone = train(1 << 30), train(80_000), train(0)
    assert len(together) == len(in_groups) == len(alone) == 49
    for one, other, third, (rate, penalty) in zip(together, in_groups, alone, GRID):
        assert (one.lr, one.penalty) == (rate, penalty)
        for run in (other, third):
            torch.testing.assert_close(one.change, run.change, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(one.losses, run.losses, atol=1e-5, rtol=1e-5)
        weight, _ = plain_training(problem, rate, penalty, 4)
        torch.testing.assert_close(problem.backbone.weight + one.change.T, weight, atol=1e-5, rtol=1e-4)


def test_val_chooses_among_all_pairs():
    problem = Problem(seed=3)
    report = problem.fit(val=True, epochs=10)[1]
    scores = []
    for rate, penalty in GRID:
        weight, _ = plain_training(problem, rate, penalty, 10)
        unit = F.normalize(problem.val_hidden.features @ weight, dim=-1)
        scores.append(float((problem.text.logits(unit).argmax(1) == problem.val.labels).double().mean()))
    assert report.val_score == max(scores) > min(scores)
    assert (report.chosen["lr"], report.chosen["lambda"]) == GRID[scores.index(max(scores))]
    assert report.chosen_on == "val (20 images)"
    told = problem.fit(val=True, lr=1e-2, epochs=10)[1]
    assert told.chosen["lr"] == 1e-2 and told.chosen_on == "val (20 images)"
    assert told.val_score == max(s for s, (rate, _) in zip(scores, GRID) if rate == 1e-2)
    both = problem.fit(val=True, lr=1e-4, penalty=0.1, epochs=2)[1]
    assert both.chosen_on == "given as options" and both.val_score is None


def test_without_val_the_published_choice():
    problem = Problem(shots=[5, 1, 2, 0])
    report = problem.fit()[1]
    assert report.chosen == {"lr": 1e-5, "lambda": 0.2, "views": 0} and report.val_score is None
    assert report.chosen_on == "published choice without val"
    assert problem.fit(penalty="1/K^2")[1].chosen["lambda"] == 0.04
    assert problem.fit(penalty="1/K")[1].chosen["lambda"] == 0.2
    published = {"views": 300, "lr": None, "penalty": None, "epochs": 300}
    assert build_adapter("projection").options == {**published, "class_weight": "balanced", "crop_scale": None}


# Limits and symmetries ------------------------------------------------------------------------------------------------


def test_a_heavy_penalty_is_zero_shot():
    problem = Problem()
    adapter, _ = problem.fit(lr=1e-4, penalty=1e6)
    zero_shot = problem.text.logits(problem.test.unit)
    torch.testing.assert_close(problem.logits(adapter), zero_shot, atol=0.05, rtol=0)
    free, report = problem.fit(lr=1e-2, penalty=0.0)
    assert (problem.logits(free) - zero_shot).abs().max() > 2
    assert report.history[-1]["loss"] < 0.5 * report.history[0]["loss"]


def test_the_order_of_classes_and_images_means_nothing():
    problem = Problem(views=2)
    one, _ = problem.fit(lr=1e-3, penalty=0.1, views=2)
    images, classes = torch.randperm(16), torch.tensor([2, 0, 3, 1])
    other = Problem(views=2)
    labels = classes.argsort()[problem.support.labels[images]]
    other.support = replace(problem.support.select(images), labels=labels)
    other.hidden, other.text = problem.hidden.select(images), problem.text.select(classes)
    again, _ = other.fit(lr=1e-3, penalty=0.1, views=2)
    torch.testing.assert_close(problem.logits(again), problem.logits(one)[:, classes], atol=1e-3, rtol=1e-4)


def test_several_labels_an_image():
    problem = Problem(classes=3, labels=lambda c: (float(c == 0), float(c != 1), float("nan") if c else 1.0))
    adapter, report = problem.fit(lr=1e-2, penalty=0.1)
    weight, losses = plain_training(problem, 1e-2, 0.1, 30)
    torch.testing.assert_close(problem.backbone.weight + adapter.change, weight, atol=1e-5, rtol=1e-4)
    assert [row["loss"] for row in report.history] == pytest.approx(losses, rel=1e-4)
    assert problem.fit(val=True, epochs=2)[1].val_score is not None
    problem.support = replace(problem.support, soft_labels=problem.support.labels.nan_to_num(0.7))
    assert not torch.equal(problem.fit(lr=1e-2, penalty=0.1)[0].change, adapter.change)
    found = adapter.predict(Batch(pre_projection=problem.test_hidden.features))
    assert found.shape == (60, 3) and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("made", [{"classes": 2, "shots": 1}, {"shots": [1, 7, 2, 0]}, {"classes": 1000, "shots": 1}])
def test_hard_shapes(made):
    problem = Problem(**made)
    adapter, _ = problem.fit(epochs=3)
    logits = problem.logits(adapter, problem.test_hidden.features[:5])
    assert logits.shape == (5, len(problem.names)) and torch.isfinite(logits).all()


def test_a_logit_bias_is_added():
    problem = Problem()
    plain, _ = problem.fit(lr=1e-3, penalty=0.1)
    problem.text = replace(problem.text, logit_bias=-7.0)
    shifted, _ = problem.fit(lr=1e-3, penalty=0.1)
    torch.testing.assert_close(problem.logits(shifted), problem.logits(plain) - 7, atol=1e-3, rtol=1e-4)


def test_views_are_counted_and_fewer_are_said():
    problem = Problem(views=3)
    assert problem.fit(views=300)[1].chosen["views"] == 3 and problem.fit(views=2)[1].chosen["views"] == 2
    report = problem.fit(views=0)[1]
    assert report.chosen["views"] == 0 and "without augmented views" in report.notes[0]


# A projection that is no matrix ---------------------------------------------------------------------------------------


def test_a_map_beside_an_unknown_projection_is_the_same_method():
    problem = Problem(bias=0.3)
    known, _ = problem.fit(lr=1e-2, penalty=0.1)
    closed = Closed(problem.backbone.weight, problem.backbone.bias)
    adapter, report = problem.fit(backbone=closed, lr=1e-2, penalty=0.1)
    torch.testing.assert_close(problem.logits(adapter), problem.logits(known), atol=1e-4, rtol=1e-4)
    assert adapter.weight is None and any("has no projection matrix" in note for note in report.notes)


def test_columns_that_no_text_reads_stay():
    problem = Problem()
    text = problem.text.weights.clone()
    text[:, 5:] = 0
    problem.text = replace(problem.text, weights=text)
    adapter, _ = problem.fit(lr=1e-2, penalty=0.1)
    assert adapter.change.shape == (12, 5) and adapter.columns.tolist() == [0, 1, 2, 3, 4]
    features = problem.test.features.clone()
    features[:, :5] += problem.test_hidden.features @ adapter.change
    expected = problem.text.logits(F.normalize(features, dim=-1))
    torch.testing.assert_close(problem.logits(adapter), expected, atol=1e-4, rtol=1e-4)


# Files and errors -----------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_logits_in_another_process(tmp_path):
    problem = Problem(bias=0.4)
    adapter, _ = problem.fit(lr=1e-2, penalty=0.1)
    adapter.save(tmp_path / "a.safetensors")
    torch.save(problem.test_hidden.features, tmp_path / "hidden.pt")
    code = (
        "import sys, torch; from vladapt import Backbone, Batch, load_adapter; f = sys.argv[1]\n"
        "logits = load_adapter(f + '/a.safetensors').logits(Batch(pre_projection=torch.load(f + '/hidden.pt')))\n"
        "torch.save(logits, f + '/logits.pt')"
    )
    run_python(["-c", code, tmp_path], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), problem.logits(adapter))
    again, _ = problem.fit(lr=1e-2, penalty=0.1, seed=9)
    assert torch.equal(problem.logits(again), problem.logits(adapter))  # nothing is drawn


def test_what_is_missing_is_said():
    problem = Problem()
    adapter = build_adapter("projection")
    with pytest.raises(CapabilityError, match="needs image features before the projection"):
        adapter.fit(problem.support, problem.text, backbone=problem.backbone)
    given = {"pre_projection": PreProjection(problem.hidden)}
    with pytest.raises(CapabilityError, match="starts from a backbone's projection"):
        adapter.fit(problem.support, problem.text, resources=given)
    with pytest.raises(DataError, match="its support has 3 rows, which are not the 16 images"):
        short = {"pre_projection": PreProjection(problem.hidden.select([0, 1, 2]))}
        adapter.fit(problem.support, problem.text, backbone=problem.backbone, resources=short)
    with pytest.raises(DataError, match="its val has 2 rows"):
        short = {"pre_projection": PreProjection(problem.hidden, problem.val_hidden.select([0, 1]))}
        adapter.fit(problem.support, problem.text, val=problem.val, backbone=problem.backbone, resources=short)
    other = SimpleNamespace(
        spec="other",
        fingerprint="",
        need=lambda capability: None,
        need_texts=lambda method: None,
        check_channels=lambda method, trains: None,
    )
    other.image_projection = lambda: Backbone.image_projection(other)  # of one that does not bring its own
    with pytest.raises(CapabilityError, match="'other' does not declare its projection"):
        adapter.fit(problem.support, problem.text, backbone=other, resources=given)
    fitted, _ = problem.fit()
    with pytest.raises(CapabilityError, match=r"pass Batch\(pre_projection=...\)"):
        fitted.logits(problem.test)
    with pytest.raises(CapabilityError, match="width 12 before the projection, these have 5"):
        problem.logits(fitted, torch.zeros(2, 5))
    with pytest.raises(CapabilityError, match="is not the one that adapter 'projection' was fitted on"):
        fitted.tuned(SimpleNamespace(spec="another", fingerprint="another"))
