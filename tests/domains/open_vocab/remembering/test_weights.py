"""Weights between before and after, and which of them are taken."""

import pytest
import torch
from torch import nn

from vladapt.domains.open_vocab.remembering.weights import ALPHAS, best_alpha, put_between, state_of


class Counting(nn.Module):
    """A layer, a count, and a buffer as long as there are names."""

    def __init__(self, names=2):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("embeddings", torch.rand(names, 4))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_weight_is_between_and_what_cannot_be_is_the_new_one(alpha):
    torch.manual_seed(0)
    before, after, mixed = Counting(), Counting(names=3), Counting(names=3)
    after.seen += 5
    old, new = state_of(before), state_of(after)
    put_between(mixed, old, {**new, "layer.bias": new["layer.bias"]}, alpha)
    for name in ("layer.weight", "layer.bias"):
        torch.testing.assert_close(mixed.state_dict()[name], (1 - alpha) * old[name] + alpha * new[name])
    assert mixed.seen == 5 and torch.equal(mixed.embeddings, after.embeddings)
    assert torch.equal(before.layer.weight, old["layer.weight"])  # a copy


def test_the_alpha_that_keeps_and_learns_most_is_taken():
    """Old names lose after 0.6, new ones have learned all that they can by 0.4."""

    def score(alpha):
        return 0.8 - max(0, alpha - 0.6), 0.5 * min(1, alpha / 0.4)

    alpha, scores = best_alpha(score)
    assert alpha == 0.6 and list(scores) == list(ALPHAS) and scores[1.0] == (pytest.approx(0.4), 0.5)


def test_old_and_new_count_by_shares_of_their_own_best():
    """AP of old names is ten times that of new ones: half of each counts alike."""
    alpha, _ = best_alpha(lambda alpha: (0.9 - 0.45 * alpha, 0.02 + 0.06 * alpha))
    assert alpha == 1.0  # a half is lost, three quarters are won
    alpha, _ = best_alpha(lambda alpha: (0.9 - 0.85 * alpha, 0.06 + 0.02 * alpha))
    assert alpha == 0.0


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (lambda alpha: (None, None), 0.5),
        (lambda alpha: (0.0, 0.0), 0.5),
        (lambda alpha: (None, alpha), 1.0),
        (lambda alpha: (1 - alpha, None), 0.0),
        (lambda alpha: (0.5, 0.5), 1.0),
    ],
)
def test_where_nothing_tells_it_is_a_half_and_of_equal_ones_the_largest(score, expected):
    assert best_alpha(score)[0] == expected


@pytest.mark.parametrize("new", [None, 0.0])
def test_where_val_tells_nothing_of_the_new_names_no_more_is_given_up_than_the_old_need(new):
    """Old names are best at 0.2; at 0.8 they still have 96 % of what they had, at 0.9 no longer."""
    old = {0.2: 0.6, 0.8: 0.48, 0.9: 0.47, 1.0: 0.3}
    assert best_alpha(lambda alpha: (old.get(alpha, 0.5), new))[0] == 0.8
