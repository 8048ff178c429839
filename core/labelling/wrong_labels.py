"""Labels that look wrong: those that a model which never saw the image holds for unlikely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..contracts.features import FeatureSet
from ..errors import DataError
from ..runtime.process import need_package

PARTS = 5


def held_out_probabilities(labelled: FeatureSet, fit: Callable[[FeatureSet], Callable], seed: int) -> Tensor:
    """(N, C) of models that did not learn from the image; NaN where none could be made.

    Args:
        labelled: one label per image; groups lie in one part whole.
        fit: support -> (rows -> logits (n, C)).
        seed: of the parts.

    Raises:
        DataError: groups, or classes of one image, leave nothing to hold out.
    """
    parts = labelled.folds(PARTS, seed)
    if not parts:
        raise DataError("most classes have one image or one group, so no label can be held out; add images")
    probabilities = torch.full((len(labelled), len(labelled.class_names)), torch.nan)
    for held in parts:
        rest = torch.ones(len(labelled), dtype=torch.bool)
        rest[held] = False
        logits = fit(labelled.select(rest.to(labelled.features.device)))
        probabilities[held] = logits(labelled.select(held.to(labelled.features.device))).softmax(dim=1).float().cpu()
    return probabilities


def doubt(labels: Tensor, probabilities: Tensor) -> Tensor:
    """(N,) how doubtful each label is, from 0 to 1: cleanlab's label quality, turned round.

    Confident learning (Confident Learning: Estimating Uncertainty in Dataset Labels, Northcutt, Jiang and Chuang, 2021,
    arXiv 1911.00068), scored by normalised margin. Rows without probabilities are 0.

    Args:
        labels: (N,) int64.
        probabilities: (N, C), held out; NaN where there are none.

    Raises:
        CapabilityError: cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.rank import get_label_quality_scores

    known = probabilities.isfinite().all(dim=1).numpy()
    quality = np.ones(len(labels))
    quality[known] = get_label_quality_scores(
        labels.cpu().numpy()[known], probabilities.double().numpy()[known], method="normalized_margin"
    )
    return torch.from_numpy(1 - quality)


def suspects(labels: Tensor, probabilities: Tensor) -> list[int]:
    """Rows whose labels confident learning finds wrong, the most doubtful first.

    Args, Raises: as `doubt`.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    known = probabilities.isfinite().all(dim=1).nonzero().flatten()
    if not len(known):
        return []
    found = find_label_issues(
        labels.cpu().numpy()[known.numpy()],
        probabilities.double().numpy()[known.numpy()],
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    return known[torch.from_numpy(np.asarray(found, dtype=np.int64))].tolist()


def require_cleanlab() -> None:
    """Raise the CapabilityError of a machine without cleanlab."""
    need_package("--wrong-labels", "cleanlab", "labels")
