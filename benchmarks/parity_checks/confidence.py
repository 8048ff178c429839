"""Conformal sets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vladapt.core.confidence.conformal import conformal_scores, set_metrics

from .comparison import compares
from .fixtures import Check, Fixtures, Reference, stated_in

DEVIATIONS = {
    "conformal sets": "the threshold is the ceil((n + 1)(1 - alpha))-th smallest of n calibration scores, for which "
    "the guarantee is proved; the released code interpolates between two of them, and is compared with that "
    "threshold. The share of APS and RAPS is one number per image, computed from its probabilities, instead of one "
    "per image and class",
}

SETTINGS = {"lac": "lac", "aps": "aps", "raps": "raps", "raps2": "raps"}
"""Prefix of the fixture's names -> the method."""


@compares("conformal sets", "conformal")
def sets_as_released(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Scores and sets, with the released threshold: a quantile that is interpolated, which ours are not."""
    scale = ref.setting("logit_scale") / ref.setting("eps")
    for name, features in (("probs_cal", f.val), ("probs_test", f.test_set)):
        probs = (scale * features.features @ f.common["text_features"].T).softmax(dim=1)
        yield ref.check(probs, name, name.replace("_", " "))
    either_side = stated_in(ref.tolerance.get("note", ""), "within", 0.0)  # of the threshold, as the fixture says
    labels, true = f.val.labels, f.test_set.labels
    for prefix, method in SETTINGS.items():
        penalty = ref.setting(prefix) if method == "raps" else {"lam": 0.0, "kreg": 0}
        how = {"penalty": penalty["lam"], "free_ranks": penalty["kreg"]}
        shares = {side: None if method == "lac" else ref[f"{prefix}_u_{side}"] for side in ("cal", "test")}
        own = shares["cal"] if shares["cal"] is None else shares["cal"][:, None]
        scores = conformal_scores(ref["probs_cal"], method, own, **how).gather(1, labels[:, None]).squeeze(1)
        flipped = None if shares["test"] is None else 1 - shares["test"]  # the released test score takes U p away
        of_test = conformal_scores(ref["probs_test"], method, flipped, **how)
        for alpha in ref.setting("alphas"):
            number = f"a{str(alpha)[2:]}"
            quantile = interpolated(scores, 1 - alpha)
            near = (of_test - quantile).abs() <= either_side
            sets = torch.where(near, ref[f"{prefix}_{number}_sets"].bool(), of_test <= quantile)
            found = set_metrics(sets, true)
            gap = class_coverage_gap(sets, true, 1 - alpha)
            what = f"{prefix}, alpha {alpha}"
            yield ref.check(quantile[None], f"{prefix}_{number}_qhat", f"threshold, {what}")
            yield ref.check(sets.long(), f"{prefix}_{number}_sets", f"sets, {what}")
            metrics = torch.tensor([found["coverage"], found["mean_set_size"], gap])
            yield ref.check(metrics, f"{prefix}_{number}_metrics", f"metrics, {what}")


def interpolated(scores: Tensor, coverage: float) -> Tensor:
    """() the released threshold, between two order statistics."""
    share = (len(scores) + 1) * coverage / len(scores)
    return torch.tensor(torch.inf) if share > 1 else scores.quantile(share)


GROUPS = [sets_as_released]


def class_coverage_gap(sets: Tensor, labels: Tensor, coverage: float) -> float:
    """Mean over classes of the distance between their coverage and the one asked for, in points."""
    held = sets.gather(1, labels.long()[:, None]).squeeze(1).double()
    gaps = [abs(float(held[labels == c].mean()) - coverage) for c in labels.unique()]
    return 100 * sum(gaps) / len(gaps)
