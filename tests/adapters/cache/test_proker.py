from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.cache import proker
from torch.utils._python_dispatch import TorchDispatchMode

from vladapt.adapters.cache import proker as proker_file
from vladapt.adapters.cache._presets import PROKER_SETTINGS
from vladapt.adapters.published_sets import SETS
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import ConfigError
from vladapt.core.registry import build_adapter


def fitted(task, val=False, **options):
    adapter = build_adapter("proker", **options)
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None)
    return adapter


def written_out(task, rows, labels, beta, lam, weights=None):
    """(B, C) in float64, by the inverse."""
    rows, text, test = rows.double(), task.text.weights.double(), task.test.unit.double()
    kernel = torch.exp(-beta * (1 - rows @ rows.T))
    ridge = torch.eye(len(rows)) if weights is None else torch.diag(1 / weights)
    targets = F.one_hot(labels, len(text)).double()
    coefficients = torch.linalg.inv(kernel / lam + ridge.double()) @ (targets - rows @ text.T)
    return test @ text.T + torch.exp(-beta * (1 - test @ rows.T)) @ coefficients


def test_agrees_with_the_reference(agrees):
    agrees(proker)


@pytest.mark.parametrize("lam", [0.01, 3.0])
def test_logits_are_the_released_form_times_the_logit_scale(make_task, lam):
    task = make_task(shots=4)
    expected = 100 * written_out(task, task.support.unit, task.support.labels, 2.0, lam)
    torch.testing.assert_close(
        fitted(task, beta=2.0, penalty=lam).logits(task.test), expected.float(), atol=1e-3, rtol=1e-4
    )


def test_lambda_scales_the_correction_as_well_as_the_ridge(make_task):
    """Not kernel ridge regression, whose correction is one over lambda of this: a large lambda leaves it a sum."""
    task = make_task(shots=4)
    rows, labels = task.support.unit, task.support.labels
    kernel = torch.exp(-2.0 * (1 - task.test.unit @ rows.T))
    zero_shot = task.test.unit @ task.text.weights.T
    summed = zero_shot + kernel @ (F.one_hot(labels, 5) - rows @ task.text.weights.T)
    torch.testing.assert_close(
        fitted(task, beta=2.0, penalty=1e6).logits(task.test), 100 * summed, atol=1e-2, rtol=1e-3
    )
    near = fitted(task, beta=2.0, penalty=1e-6).logits(task.test)  # where ridge regression would meet every label
    torch.testing.assert_close(near, 100 * zero_shot, atol=1e-2, rtol=1e-3)


def test_unequal_classes_have_the_same_sum_of_weights(make_task):
    task = make_task(shots=[1, 7, 2, 16, 5])
    rows, labels = task.support.unit, task.support.labels
    weights = (31 / (5 * torch.bincount(labels).double()))[labels]
    for how, given in (("balanced", weights), ("none", None)):
        expected = 100 * written_out(task, rows, labels, 2.0, 0.3, given)
        ours = fitted(task, beta=2.0, penalty=0.3, class_weight=how).logits(task.test)
        torch.testing.assert_close(ours, expected.float(), atol=1e-3, rtol=1e-4)
    alike = task.support.select(torch.cat([torch.arange(31), torch.zeros(6, dtype=torch.long)]))
    repeated, heavier = replace(task, support=alike), torch.ones(31)  # an image seven times is one of weight 7
    heavier[0] = 7
    expected = 100 * written_out(task, rows, labels, 2.0, 0.3, heavier.double())
    ours = fitted(repeated, beta=2.0, penalty=0.3, class_weight="none").logits(task.test)
    torch.testing.assert_close(ours, expected.float(), atol=1e-3, rtol=1e-4)


def test_a_class_without_images_keeps_its_zero_shot_score(make_task):
    """As a target of 0 it would be taken to 0 near every image."""
    task = make_task(shots=[4, 0, 4, 4, 4])
    adapter = fitted(task, beta=2.0, penalty=0.3)
    zero_shot = task.text.logits(task.test.unit)
    torch.testing.assert_close(adapter.logits(task.test)[:, 1], zero_shot[:, 1])
    others = [0, 2, 3, 4]
    smaller = TextClassifier(task.text.weights[others])
    labels = torch.tensor([0, -1, 1, 2, 3])[task.support.labels]
    without = build_adapter("proker", beta=2.0, penalty=0.3)
    without.fit(FeatureSet(task.support.features, labels), smaller)
    torch.testing.assert_close(adapter.logits(task.test)[:, others], without.logits(task.test))


def test_without_texts_it_is_the_regression_of_the_labels(make_task):
    task = make_task(shots=4)
    silent = replace(task, text=TextClassifier(torch.zeros(5, 16)))
    adapter = fitted(silent, beta=2.0, penalty=0.3)
    expected = 100 * written_out(silent, task.support.unit, task.support.labels, 2.0, 0.3)
    torch.testing.assert_close(adapter.logits(task.test), expected.float(), atol=1e-3, rtol=1e-4)
    assert task.accuracy(adapter) > 0.8


def test_each_view_is_a_row_as_far_as_rows_go(make_task):
    task = make_task(shots=3, views=4)
    at = {"beta": 2.0, "penalty": 0.3}
    adapter = fitted(task, **at)
    views = F.normalize(task.support.views, dim=-1).flatten(0, 1)
    expected = 100 * written_out(task, views, task.support.labels.repeat_interleave(4), 2.0, 0.3)
    torch.testing.assert_close(adapter.logits(task.test), expected.float(), atol=1e-3, rtol=1e-4)
    fewer = fitted(task, most_rows=35, **at)
    assert torch.equal(fewer.logits(task.test), fitted(task, views=2, **at).logits(task.test))
    assert fewer.report.notes == ["2 augmented views of each image are rows of their own (of 4, to keep to 35 rows)"]
    assert len(fitted(task, most_rows=2, **at).rows) == 15  # never fewer images
    assert len(fitted(task, preset="dtd", **at).rows) == len(fitted(task, most_rows=0, **at).rows) == 60
    assert len(fitted(task, preset="dtd", most_rows=2, **at).rows) == 15  # what is given goes before a preset


@pytest.mark.parametrize(("options", "views"), [({}, 4), ({"most_rows": 0}, 10)], ids=["ours", "no limit"])
def test_the_search_sees_as_many_views_as_the_fit(make_task, monkeypatch, options, views):
    """Where images are held out there are fewer of them, and room for more views of each."""
    seen, of = [], proker_file.Problem.of
    monkeypatch.setattr(proker_file.Problem, "of", lambda rows, *rest: seen.append(len(rows)) or of(rows, *rest))
    monkeypatch.setattr(proker_file, "MOST_ROWS", 160)
    fitted(make_task(shots=8, views=10), search_step=(2, 2), **options)
    assert seen == [30 * views, 40 * views]


def test_the_search_finds_the_first_best_on_val(make_task):
    task = make_task(shots=4, noise=2.5)
    grid = {"search_beta": (0.5, 6.0), "search_penalty": (0.01, 2.0), "search_step": (4, 3)}
    report = fitted(task, val=True, ties="published", **grid).report
    right = {}
    for beta in np.linspace(0.5, 6.0, 4):
        for lam in np.linspace(0.01, 2.0, 3):
            guess = fitted(task, beta=float(beta), penalty=float(lam)).predict(task.val)
            right[beta, lam] = float((guess == task.val.labels).double().mean())
    best = max(right, key=right.get)
    assert len(set(right.values())) > 2 and report.val_score == right[best]
    assert report.chosen == {"beta": pytest.approx(best[0]), "penalty": pytest.approx(best[1])}


def test_without_val_settings_are_those_of_imagenet_for_the_shots(make_task):
    found = {shots: fitted(make_task(shots=shots)).report for shots in (1, 3, 9)}
    assert found[1].chosen == {"beta": 3.0, "penalty": 0.05} and found[3].chosen == {"beta": 2.6, "penalty": 0.05}
    assert found[1].chosen_on.startswith("defaults") and found[9].chosen_on == "10 images held out of the support"


def test_many_rows_are_not_searched_but_with_a_preset(make_task, monkeypatch):
    monkeypatch.setattr(proker_file, "MOST_SEARCHED", 10)
    monkeypatch.setattr(proker_file, "MOST_ROWS", 10)
    task = make_task(shots=4)
    report = fitted(task, val=True).report
    assert report.chosen == {"beta": 1.5, "penalty": 0.05} and report.chosen_on.startswith("defaults: 20 rows")
    assert fitted(task, val=True, most_rows=0).report.chosen_on == "val (30 images)"
    assert fitted(task, val=True, preset="stanford_cars").report.chosen_on == "val (30 images)"


def test_every_set_of_the_protocol_has_its_grid(make_task):
    assert PROKER_SETTINGS.keys() == {None, *SETS}
    axes = build_adapter("proker", preset="Flowers102")._axes(make_task().support)
    assert [(axis.grid[0], axis.grid[-1], len(axis.grid)) for axis in axes] == [(0.1, 10.0, 20), (0.001, 10.0, 100)]
    general = build_adapter("proker")._axes(make_task().support)
    assert [(axis.grid[0], axis.grid[-1], len(axis.grid)) for axis in general] == [(0.5, 3.0, 20), (0.001, 1.0, 10)]


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"option search_beta.*lower end first"):
        build_adapter("proker", search_beta=(3.0, 0.5))


def test_the_logit_scale_and_bias_change_no_setting(make_task):
    task = make_task(shots=5, noise=2.0)
    plain = fitted(task, val=True)
    other = fitted(replace(task, text=replace(task.text, logit_scale=10.0, logit_bias=-12.0)), val=True)
    assert plain.report.chosen == other.report.chosen
    torch.testing.assert_close(other.logits(task.test), plain.logits(task.test) / 10 - 12, atol=1e-4, rtol=1e-5)


@pytest.mark.thorough
def test_a_thousand_classes_of_three_images():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, 32, generator=generator)
    labels = torch.arange(1000).repeat(3)
    support = FeatureSet(centres[labels] + 0.1 * torch.randn(3000, 32, generator=generator), labels)
    adapter = build_adapter("proker")
    adapter.fit(support, TextClassifier(centres + torch.randn(1000, 32, generator=generator)))
    assert (adapter.predict(centres) == torch.arange(1000)).double().mean() > 0.95


class LargeStorages(TorchDispatchMode):
    """Collects the memory of tensors of some size that operations give."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.places = elements, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.elements:
                self.places[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no place is used twice
        return result


def test_many_rows_are_solved_in_the_place_of_one_kernel(make_task, monkeypatch):
    task = make_task(shots=12, classes=5)
    support = task.support.select(torch.arange(len(task.support))[7:])  # of unequal classes
    rows = len(support)
    exact = build_adapter("proker", beta=2.0, penalty=0.05)
    double = exact.fit(support, task.text)
    monkeypatch.setattr(proker_file, "MOST_DOUBLE", rows - 1)
    for_many = build_adapter("proker", beta=2.0, penalty=0.05)
    with LargeStorages(rows * rows) as large:
        single = for_many.fit(support, task.text)
    assert len(large.places) == 1
    difference = (for_many.coefficients - exact.coefficients).norm() / exact.coefficients.norm()
    assert 0 < difference < 1e-4
    words = f"{rows} rows are solved in single precision, to some 1e-5 of the coefficients"
    assert words in single.notes and words not in double.notes


def test_a_tiny_lambda_keeps_double_precision(make_task, monkeypatch):
    task = make_task(shots=8)
    exact = fitted(task, beta=2.0, penalty=1e-5)
    monkeypatch.setattr(proker_file, "MOST_DOUBLE", 8)
    for_many = fitted(task, beta=2.0, penalty=1e-5)
    torch.testing.assert_close(for_many.coefficients, exact.coefficients, rtol=1e-5, atol=1e-7)
    assert not any("precision" in note for note in for_many.report.notes)


def problem_of_many(rows, width, classes, unequal=False):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    if unequal:
        labels[: rows // 2] = 0
    centres = torch.randn(classes, width, generator=generator)
    unit = F.normalize(centres[labels] + 2 * torch.randn(rows, width, generator=generator) + 1, dim=1)
    counts = torch.bincount(labels, minlength=classes)
    weights = counts.sum() / (classes * counts) if unequal else None
    return proker_file.Problem.of(unit, labels, unit @ F.normalize(centres, dim=1).T, weights)


@pytest.mark.parametrize("unequal", [False, True])
def test_conjugate_gradients_leave_three_hundredths_of_the_right_side(monkeypatch, unequal):
    for name, value in {"MOST_DOUBLE": 0, "LANDMARKS": 100, "COLUMNS": 32}.items():
        monkeypatch.setattr(proker_file, name, value)
    problem = problem_of_many(600, 96, 70, unequal)
    exact, how = problem.solved(1.7, 0.1, exact=False)
    assert how == ["600 rows are solved in single precision, to some 1e-5 of the coefficients"]
    monkeypatch.setattr(proker_file, "MOST_EXACT", 0)
    near, how = problem.solved(1.7, 0.1, exact=False)
    assert how == ["600 rows are solved by conjugate gradients, to 3 % of the right side; exactly: most_rows=0"]
    assert torch.equal(problem.solved(1.7, 0.1)[0], exact)
    monkeypatch.setattr(proker_file, "RESIDUAL", 1e-3)
    nearer = problem.solved(1.7, 0.1, exact=False)[0]
    monkeypatch.setattr(proker_file, "MOST_STEPS", 0)
    assert "single precision" in problem.solved(1.7, 0.1, exact=False)[1][0]  # so the last one took steps

    target, matrix = problem.roots * problem.residual, problem._weighted_kernel(1.7) / 0.1 + torch.eye(600)
    shares = []
    for coefficients in (near, nearer, exact):
        left = target - matrix @ (coefficients.double() / problem.roots)
        shares.append(float(left.norm() / target.norm()))
    assert 0.04 > shares[0] > 2e-3 > shares[1] > 1e-5 > shares[2]


@pytest.mark.parametrize("settings", [{"beta": 1.7, "penalty": 0.001}, {"beta": 0.0, "penalty": 0.01}])
def test_where_few_steps_do_not_suffice_many_rows_are_solved_exactly(monkeypatch, settings):
    exact = problem_of_many(600, 24, 70).solved(**settings)[0]
    for name, value in {"MOST_DOUBLE": 0, "MOST_EXACT": 0, "LANDMARKS": 8, "MOST_STEPS": 1, "RESIDUAL": 1e-9}.items():
        monkeypatch.setattr(proker_file, name, value)
    again, (how,) = problem_of_many(600, 24, 70).solved(**settings, exact=False)
    assert "single precision" in how
    torch.testing.assert_close(again, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def test_a_matrix_that_rounding_spoils_is_solved_exactly(monkeypatch):
    for name, value in {"MOST_DOUBLE": 0, "MOST_EXACT": 0, "LANDMARKS": 8, "TINY": -1.0}.items():
        monkeypatch.setattr(proker_file, name, value)
    assert "single precision" in problem_of_many(600, 24, 70).solved(1.7, 0.1, exact=False)[1][0]


def test_only_fits_without_a_preset_stop_early(make_task, monkeypatch):
    task = make_task(shots=12, classes=5)
    for name, value in {"MOST_DOUBLE": 0, "MOST_EXACT": 0, "LANDMARKS": 8}.items():
        monkeypatch.setattr(proker_file, name, value)
    words = (
        f"{len(task.support)} rows are solved by conjugate gradients, to 3 % of the right side; exactly: most_rows=0"
    )
    assert words in fitted(task, beta=1.7, penalty=0.5).report.notes
    assert words not in fitted(task, beta=1.7, penalty=0.5, preset="dtd").report.notes
