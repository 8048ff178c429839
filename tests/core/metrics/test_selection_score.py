from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from vladapt.core.metrics.classification import macro_auroc, val_score


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(2, 40))
def test_macro_auroc_with_ties_and_unknown_labels(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (3, 4, 25), generator=generator).float()
    labels = (torch.rand(4, 25, generator=generator) < 0.4).float()
    labels[:, 0], labels[:, 1] = 1.0, 0.0
    labels[:, 2:][torch.rand(4, 23, generator=generator) < 0.2] = torch.nan
    labels[3] = 1.0  # one kind only: left out
    ours = macro_auroc(scores, labels)
    for a in range(3):
        known = ~torch.isnan(labels)
        areas = [roc_auc_score(labels[c][known[c]], scores[a, c][known[c]]) for c in range(3)]
        np.testing.assert_allclose(ours[a], np.mean(areas), rtol=1e-12)


def test_val_score_is_accuracy_or_macro_auroc():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    assert val_score(logits, torch.tensor([0, 1, 1])) == 2 / 3
    assert val_score(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])) == (1.0 + 0.75) / 2
