"""Heads that answer with a number: ridge by hand, what is chosen and on what, intervals, files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV

from vladapt.core.contracts.options import options_from
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.tasks.regression.heads import (
    PENALTIES,
    HeadTraining,
    NumberHead,
    NumberRows,
    fit_head,
    fitted_ridge,
    mean_head,
)
from vladapt.core.tasks.regression.predictions import number_text

QUICK = HeadTraining(epochs=6, hidden=16, batch_size=16)


def rows(count=48, width=10, seed=0, of=lambda x: x[:, 0] * 6 + 20, places=12, noise=0.3):
    rng = np.random.default_rng(seed)
    features = F.normalize(torch.tensor(rng.normal(size=(count, width))), dim=1)
    numbers = of(features) + noise * torch.tensor(rng.normal(size=count))
    groups = tuple(f"p{n % places}" for n in range(count))
    return NumberRows(features.float(), numbers, groups, tuple(map(str, range(count))))


def rmse(head, held):
    return float((head.answers(held.features) - held.numbers).square().mean().sqrt())


def test_ridge_has_the_closed_form_at_the_penalty_of_the_least_leave_one_out_error():
    learned = rows(places=48)  # each stands alone
    head = fitted_ridge(learned)
    x = learned.features.double()
    x = (x - x.mean(0)) / x.std(0, unbiased=False)
    y = (learned.numbers - learned.numbers.mean()) / learned.numbers.std(unbiased=False)

    def left_out_error(penalty):
        hat = x @ torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]).double(), x.T)
        hat = hat + 1 / len(x)  # the intercept
        return float((((y - hat @ y) / (1 - hat.diagonal())) ** 2).mean())

    best = min(PENALTIES, key=left_out_error)
    assert head.penalty == pytest.approx(best)
    weight = torch.linalg.solve(x.T @ x + best * torch.eye(x.shape[1]).double(), x.T @ y)
    expected = x @ weight * learned.numbers.std(unbiased=False) + learned.numbers.mean()
    assert torch.allclose(head.answers(learned.features), expected, atol=1e-4)


def test_the_penalty_of_ridge_is_chosen_on_whole_places():
    """Copies of a row tell its number to a row left out alone, but not to a place left out whole."""
    once = rows(24, 20, noise=3.0, places=24)
    copies = NumberRows(once.features.repeat(4, 1), once.numbers.repeat(4), once.groups * 4, tuple(map(str, range(96))))
    alone = NumberRows(copies.features, copies.numbers, copies.ids, copies.ids)
    assert fitted_ridge(copies).penalty > 10 * fitted_ridge(alone).penalty
    held = rows(200, 20, seed=1, noise=0.0)
    assert rmse(fitted_ridge(copies), held) < rmse(fitted_ridge(alone), held)


@pytest.mark.parametrize(("count", "width"), [(96, 10), (40, 60)])
def test_on_whole_places_ridge_is_that_of_scikit_learn(count, width):
    learned = rows(count, width, places=8)
    head = fitted_ridge(learned)
    inputs = ((learned.features.double() - head.centre) / head.scale).numpy()
    targets = ((learned.numbers - head.mean) / head.deviation).numpy()
    parts = [(kept.numpy(), held.numpy()) for kept, held in learned.to_choose_on()]
    fitted = RidgeCV(PENALTIES, cv=parts, scoring="neg_mean_squared_error").fit(inputs, targets)
    assert len(parts) > 1 and head.penalty == fitted.alpha_
    assert np.allclose(head.linear.weight.detach().numpy(), fitted.coef_, atol=1e-6)


def test_the_number_of_epochs_has_the_least_of_the_error_that_is_minimised():
    """Few wrong numbers weigh little in absolute errors, so that more epochs are taken."""
    learned = rows(80, noise=0.05)
    learned.numbers[:6] += 60
    training = HeadTraining(epochs=40, lr=2e-2, batch_size=80)
    assert (
        fit_head(learned, "linear", "l1", training)[1].chosen != fit_head(learned, "linear", "mse", training)[1].chosen
    )


def test_the_mean_answers_the_mean():
    learned = rows()
    assert torch.allclose(mean_head(learned).answers(rows(5).features), learned.numbers.mean().expand(5))


def test_the_mlp_learns_what_no_line_does():
    def bent(x):
        return 12 * x[:, 0].abs() + 20

    learned, held = (rows(160, 4, seed, bent, places=40, noise=0.1) for seed in (0, 1))
    training = HeadTraining(epochs=15, hidden=32, lr=2e-2, batch_size=60)
    mlp, report = fit_head(learned, "mlp", "mse", training, 1)
    line, _ = fit_head(learned, "linear", "mse", training, 1)
    assert rmse(mlp, held) < 0.7 * rmse(line, held)
    assert 1 <= report.chosen["epochs"] <= 20 and "whole groups" in report.chosen_on and report.history


def test_held_out_places_stop_a_training_that_only_learns_noise():
    def constant(x):
        return torch.full((len(x),), 20.0).double()

    learned, held = (rows(40, 30, seed, constant, places=40, noise=1.0) for seed in (0, 1))
    training = HeadTraining(epochs=20, hidden=32, lr=2e-2, batch_size=40)
    head, report = fit_head(learned, "mlp", "mse", training, 1)
    alone = NumberRows(learned.features, learned.numbers, ("one",) * 40, learned.ids)
    unstopped, whole = fit_head(alone, "mlp", "mse", training, 1)
    assert report.chosen["epochs"] < whole.chosen["epochs"] == 20
    assert rmse(head, held) < rmse(unstopped, held)


def test_the_error_that_is_minimised_changes_the_head():
    """One wrong number draws the squared error farther than the absolute one."""
    learned, held = rows(80, noise=0.05), rows(80, seed=1, noise=0.05)
    learned.numbers[:6] += 60
    training = HeadTraining(epochs=60, lr=2e-2, batch_size=80)
    parts = {}
    for error in ("mse", "huber", "l1"):
        head, _ = fit_head(
            NumberRows(learned.features, learned.numbers, ("one",) * 80, learned.ids), "linear", error, training
        )
        parts[error] = rmse(head, held)
    assert parts["l1"] < parts["huber"] < parts["mse"]


def test_options_of_the_training_change_it_and_wrong_ones_are_refused():
    learned = rows()
    alone = NumberRows(learned.features, learned.numbers, ("one",) * len(learned), learned.ids)

    def head(**options):
        given = {"epochs": 3, "hidden": 8, "batch_size": 16, **options}
        return fit_head(alone, "mlp", "mse", HeadTraining(**given), 1)[0].answers(learned.features)

    usual = head()
    assert torch.equal(usual, head())
    for options in (
        {"epochs": 4},
        {"lr": 1e-2},
        {"weight_decay": 5.0},
        {"batch_size": 8},
        {"dropout": 0.5},
        {"hidden": 9},
    ):
        assert not torch.equal(usual, head(**options)), options
    with pytest.raises(ConfigError, match="epochs"):
        HeadTraining(epochs=0)
    with pytest.raises(UnknownNameError, match="alpha"):
        options_from(HeadTraining, {"alpha": 2}, "the head of regression")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_images_choose_nothing(count):
    learned = rows(count, width=32)
    head, report = fit_head(learned, "mlp", "mse", QUICK, 1)
    assert "fewer than" in report.chosen_on and bool(head.answers(learned.features).isfinite().all())


def test_features_and_numbers_that_do_not_differ_are_answered_by_the_mean():
    learned = NumberRows(torch.full((24, 4), 0.5), torch.full((24,), 7.0).double(), (None,) * 24, tuple("x" * 24))
    for kind in ("mlp", "linear", "ridge"):
        assert torch.allclose(
            fit_head(learned, kind, "mse", QUICK)[0].answers(learned.features), torch.tensor(7.0).double()
        )


def test_no_group_is_on_both_sides_of_what_is_held_out():
    learned = rows(40, places=7)
    parts = learned.held_out()
    assert sorted(torch.cat([seen for _, seen in parts]).tolist()) == list(range(40))
    for known, seen in parts:
        assert not {learned.groups[n] for n in known} & {learned.groups[n] for n in seen}
    assert rows(6, places=1).held_out() == []


def test_adaptive_intervals_are_wider_where_errors_are_larger():
    def spread(seed):
        made = rows(400, 6, seed, places=400, noise=0.0)
        rng = np.random.default_rng(seed + 10)
        made.numbers.add_((0.1 + 3 * made.features[:, 1].clamp(min=0)).double() * torch.tensor(rng.normal(size=400)))
        return made

    learned, val, held = map(spread, range(3))
    head = fitted_ridge(learned)
    head.calibrate(val, 0.9)
    constant = head.half_widths(held.features)
    assert float(constant.std()) == 0
    head.learn_errors(learned)
    head.calibrate(val, 0.9)
    wide = held.features[:, 1] > 0.3
    adaptive = head.half_widths(held.features)
    assert float(adaptive[wide].mean()) > 1.5 * float(adaptive[~wide].mean())
    covered = (head.answers(held.features) - held.numbers).abs() <= adaptive
    assert 0.85 <= float(covered.double().mean()) <= 0.96


def test_it_is_kept_in_a_file_with_its_intervals(tmp_path):
    learned = rows()
    for kind in ("mlp", "linear", "ridge"):
        head, _ = fit_head(learned, kind, "mse", QUICK, 1)
        head.column, head.made_by = "height", "abc"
        head.learn_errors(learned)
        head.calibrate(rows(seed=3), 0.8)
        head.save(tmp_path / kind)
        again = NumberHead.load(tmp_path / kind)
        assert torch.equal(again.answers(learned.features), head.answers(learned.features))
        assert torch.equal(again.half_widths(learned.features), head.half_widths(learned.features))
        assert (again.kind, again.column, again.made_by) == (kind, "height", "abc")


def test_intervals_without_enough_places_are_kept_as_infinite(tmp_path):
    head = fitted_ridge(rows())
    head.calibrate(rows(20, places=4), 0.9)
    head.save(tmp_path / "head")
    assert math.isinf(NumberHead.load(tmp_path / "head").intervals.reach)


def test_a_damaged_file_and_features_of_another_width_are_refused(tmp_path):
    head = fitted_ridge(rows())
    head.save(tmp_path / "head")
    (tmp_path / "cut").write_bytes((tmp_path / "head").read_bytes()[:-40])
    for name in ("cut", "absent"):
        with pytest.raises(DataError, match="damaged"):
            NumberHead.load(tmp_path / name)
    with pytest.raises(DataError, match=r"width 4.*10"):
        head.answers(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (12.3456, "12.35"), (-304123.0, "-304,100"), (99999.0, "100,000"), (2.5e12, "2.5e+12")],
)
def test_numbers_are_shown_with_four_digits_and_without_powers_of_ten(value, text):
    assert number_text(value) == text
