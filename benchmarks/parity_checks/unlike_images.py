"""Images of other things, told by published scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt.core.confidence.unlike_scores import class_scores, global_and_local, local_score, separations

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

NAMES = {
    "MCM": "mcm",
    "energy": "energy",
    "max-logit": "max_logit",
    "entropy": "entropy",
    "var": "variance",
    "L-MCM": "local_mcm",
    "GL-MCM": "gl_mcm",
}
"""Of the fixture -> ours."""


def scores(ref: Reference, side: str) -> dict[str, torch.Tensor]:
    temperature, text = ref.setting("T"), ref["text"]
    made = class_scores(F.normalize(ref[f"image_{side}"], dim=1) @ F.normalize(text, dim=1).T, temperature)
    made["local_mcm"] = local_score(ref[f"local_{side}"].flatten(1, 2), text, temperature)
    made["gl_mcm"] = global_and_local(made["mcm"], made["local_mcm"], ref.setting("lambda_local"))
    return made


@compares("unlike images", "ood_scores")
def scores_and_measures(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Released scores have the other sign."""
    own, others = scores(ref, "in"), scores(ref, "out")
    apart = separations(own, others)
    for theirs, ours in NAMES.items():
        yield ref.check(-own[ours], f"in.{theirs}", f"{theirs}, images of the classes")
        yield ref.check(-others[ours], f"out.{theirs}", f"{theirs}, other images")
        measures = [apart[ours].auroc, apart[ours].aupr, apart[ours].fpr]
        yield ref.check(torch.tensor(measures), f"measures.{theirs}", f"{theirs}: AUROC, AUPR, FPR at 95 %")


@compares("GL-MCM features", "glmcm_local")
@torch.no_grad()
def local_features(ref: Reference, f: Fixtures) -> Iterator[Check]:
    backbone = f.backbone(ref)
    tokens, _, grid = backbone.value_tokens(ref["images"])
    yield ref.check(tokens.unflatten(1, grid), "local_features", "features of patches")
    whole = backbone.encode_image(ref["images"], normalize=False)
    yield ref.check(whole, "global_feature", "features of images")


GROUPS = (scores_and_measures, local_features)
DEVIATIONS = {
    "unlike images": "more is more ordinary, released scores have the other sign; means and covariances "
    "(Mahalanobis) are left out, which the released code takes of the numbers of batches in place of images"
}
