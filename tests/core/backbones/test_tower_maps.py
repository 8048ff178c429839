"""Maps between towers: the published fits, and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity_checks import joined

from vladapt import ConfigError
from vladapt.core.backbones.shared_spaces import LinearSpace
from vladapt.core.backbones.tower_maps import (
    FITS,
    PENALTIES,
    RIDGE,
    Standard,
    _candidates,
    best_scale,
    choose_map,
    fit_map,
    held_out_scale,
    mean_reciprocal_rank,
    procrustes,
    ridge,
)


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(count, width, noise, seed=0):
    """Rows, and the same turned and disturbed."""
    source = rows(count, width, seed)
    rotation, _ = torch.linalg.qr(rows(width, width, seed + 1))
    return source, source @ rotation + noise * rows(count, width, seed + 2)


def test_fits_agree_with_the_released_code(agrees):
    agrees(joined.sitta)


@given(st.integers(2, 7), st.integers(2, 7), st.integers(8, 20), st.integers(0, 99))
def test_procrustes_is_orthonormal_on_the_narrower_side(source_width, target_width, count, seed):
    matrix = procrustes(rows(count, source_width, seed), rows(count, target_width, seed + 1))
    narrow = matrix.T @ matrix if source_width >= target_width else matrix @ matrix.T
    assert torch.allclose(narrow, torch.eye(len(narrow), dtype=torch.float64), atol=1e-9)


def test_few_rows_leave_the_directions_that_they_do_not_show_at_zero():
    source, target = rows(3, 8), rows(3, 6, 1)
    matrix = procrustes(source, target)
    unseen = torch.linalg.svd(source, full_matrices=True)[2][3:]
    assert torch.linalg.matrix_rank(matrix) == 3 and (unseen @ matrix).abs().max() < 1e-9


@given(st.integers(3, 7), st.integers(8, 11), st.integers(8, 11), st.integers(0, 99))
def test_few_rows_are_fitted_by_their_products_to_the_same_map(count, source_width, target_width, seed):
    source, target = (Standard.of(each)(each) for each in (rows(count, source_width, seed), rows(count, target_width)))
    gram, crossed = source.T @ source, source.T @ target
    left, values, right = torch.linalg.svd(crossed, full_matrices=False)
    by_width = {("procrustes", None): left[:, values > 1e-9] @ right[values > 1e-9]}
    by_width["least-squares", None] = torch.linalg.pinv(gram, rtol=1e-10) @ crossed
    for penalty in PENALTIES:
        by_width[RIDGE, penalty] = torch.linalg.solve(gram + penalty * torch.eye(source_width), crossed)
    for (kind, penalty), matrix in _candidates(source, target):
        assert torch.allclose(matrix, by_width[kind, penalty], atol=1e-8), (kind, penalty)
        alone = ridge(source, target, penalty) if penalty else FITS[kind](source, target)
        assert torch.allclose(alone, matrix, atol=1e-8), (kind, penalty)


def test_least_squares_is_ridge_without_a_penalty_and_a_penalty_makes_it_smaller():
    source, target = rows(40, 6), rows(40, 5, 1)
    exact = fit_map(source, target, "least-squares").matrix
    assert torch.allclose(fit_map(source, target, RIDGE, 1e-9).matrix, exact, atol=1e-7)
    flat = rows(20, 20)  # of rank 19, once standardised
    few = fit_map(flat, rows(20, 5), RIDGE, 0.0).matrix
    assert torch.allclose(few, fit_map(flat, rows(20, 5), "least-squares").matrix)
    assert fit_map(source, target, RIDGE, 50.0).matrix.norm() < 0.9 * exact.norm()
    assert fit_map(source, target, RIDGE).penalty == 1.0


def test_robust_procrustes_heeds_rows_that_fit_nothing_less():
    source, target = turned(60, 5, 0.01)
    target[:6] = 40 * rows(6, 5, 9)
    clean = Standard.of(source[6:])(source[6:])
    wanted = procrustes(clean, Standard.of(target[6:])(target[6:]))
    errors = {kind: (FITS[kind](source, target) - wanted).norm() for kind in ("procrustes", "robust-procrustes")}
    assert errors["robust-procrustes"] < 0.5 * errors["procrustes"]


def test_cross_validation_takes_a_rotation_for_few_rows_and_least_squares_for_many_that_are_stretched():
    chosen, choices = choose_map(*turned(100, 48, 1.0))
    assert chosen.kind == choices[0].kind == "procrustes"
    assert sorted(choices, key=lambda each: -each.score) == choices and len(choices) == 13
    source = rows(400, 8)
    stretched = source * torch.logspace(-1.5, 1.5, 8, dtype=torch.float64)
    target = stretched @ rows(8, 8, 3) + 0.01 * rows(400, 8, 4)
    assert choose_map(source, target)[0].kind in ("least-squares", RIDGE)


def test_rows_of_one_image_are_never_on_both_sides_of_a_fold():
    images, texts = rows(20, 12), rows(60, 12, 1)  # nothing can be learned but by heart
    groups = np.repeat(np.arange(20), 3)
    score = choose_map(images.repeat_interleave(3, dim=0), texts, groups)[1][0].score
    assert score < 0.6  # of 4 images a fold, where guessing gives 0.52
    by_heart = choose_map(images.repeat_interleave(3, dim=0), texts.view(20, 3, 12).mean(1).repeat_interleave(3, 0))
    assert by_heart[1][0].score > 0.3


def test_partners_of_one_group_count_as_true_and_ties_as_wrong():
    mapped = torch.eye(3, dtype=torch.float64)
    assert mean_reciprocal_rank(mapped, mapped, np.arange(3)) == 1
    assert mean_reciprocal_rank(torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [2, 2, 2]]), np.arange(2)) == 0.5
    swapped = mapped[[1, 0, 2]]
    assert mean_reciprocal_rank(mapped, swapped, np.array([0, 0, 1])) == 1
    equal = mapped[[0, 0, 2]]
    assert mean_reciprocal_rank(equal, equal, np.arange(3)) == 1


def test_the_space_of_a_map_is_the_map():
    source, target = (
        torch.nn.functional.normalize(rows(30, 6), dim=1),
        torch.nn.functional.normalize(rows(30, 4, 1), dim=1),
    )
    fitted = fit_map(source, target, RIDGE, 3.0)
    space = LinearSpace.of(fitted)
    assert torch.allclose(space.image(3 * source.float()), fitted(source).float(), atol=1e-4)
    assert torch.allclose(space.text(target.float()), fitted.target(target).float(), atol=1e-4)


def test_the_scale_is_the_one_of_least_loss():
    source, _ = turned(64, 16, 0.5)
    target = source + 0.5 * rows(64, 16, 5)
    scale = best_scale(source, target)
    cosines = torch.nn.functional.normalize(source, dim=1) @ torch.nn.functional.normalize(target, dim=1).T

    def loss(value):
        own = torch.arange(64)
        return sum(torch.nn.functional.cross_entropy(value * each, own) for each in (cosines, cosines.T))

    assert loss(scale) <= min(loss(scale * 0.9), loss(scale * 1.1))


def test_the_scale_of_rows_that_were_left_out_is_smaller_than_that_of_rows_learned_by_heart():
    source, target = rows(40, 30), rows(40, 30, 1)
    fitted = fit_map(source, target, "least-squares")
    assert held_out_scale(source, target, fitted, np.arange(40)) < 0.2 * best_scale(
        fitted(source), fitted.target(target)
    )


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: choose_map(rows(9, 4), rows(9, 4)), "9 pairs are too few: .*give 10 or more"),
        (lambda: fit_map(rows(9, 4), rows(9, 4), "cca"), "map 'cca' is not known; give auto, least-squares"),
        (lambda: fit_map(rows(9, 4), rows(9, 4), "procrustes", 2.0), "ridge=2: the map procrustes has no penalty"),
    ],
)
def test_bad_input_is_one_line(call, said):
    with pytest.raises(ConfigError, match=said):
        call()
