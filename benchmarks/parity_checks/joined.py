"""Maps between towers that were not trained together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import KFold

from vladapt.core.backbones.tower_maps import FITS as fits
from vladapt.core.backbones.tower_maps import KINDS, Standard, fit_map

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

NAMES = ("linear_reg", "ridge_reg", "procrustes", "robust_procrustes")
"""What the released code calls `KINDS`."""


@compares("tower-maps", "sitta")
def sitta(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for setting, value in (("ridge_alpha", 1.0), ("fit_intercept", False), ("robust_rounds", 5), ("robust_eps", 1e-3)):
        ref.require(setting, value)
    source, target, images = (ref[key].double() for key in ("source", "target", "images"))
    words, seen = Standard.of(target)(target), Standard.of(images)(images)
    for kind, name in zip(KINDS, NAMES):
        yield ref.check(fit_map(source, target, kind).matrix, f"lex.{name}")
        yield ref.check(fits[kind](seen[ref["ext.rows"]], words[ref["ext.tokens"]]), f"ext.{name}")
    mapped = seen @ fits["procrustes"](seen[ref["ext.rows"]], words[ref["ext.tokens"]])
    yield ref.check(F.normalize(mapped, dim=1) @ F.normalize(words, dim=1).T, "ext.sims")
    yield ref.check(_cross_validated(Standard.of(source)(source), words), "lex.cv_acc")


def _cross_validated(source: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """(4, 2) top-1 of words by what they look like, among the words that were learned and among those that were not, in
    the mean over the folds of the released code."""
    folds = list(KFold(5, shuffle=True, random_state=101).split(source))
    found = np.zeros((len(KINDS), 2))
    for row, kind in enumerate(KINDS):
        for taught, left in folds:
            matrix = fits[kind](source[taught], target[taught])
            found[row] += [_found(source[rows] @ matrix, target[rows]) for rows in (taught, left)]
    return found / len(folds)


def _found(mapped: torch.Tensor, words: torch.Tensor) -> float:
    nearest = (F.normalize(mapped, dim=1) @ F.normalize(words, dim=1).T).argmax(dim=1)
    return float((nearest == torch.arange(len(words))).double().mean())


GROUPS = (sitta,)
DEVIATIONS = {
    "tower-maps": "cross-validation standardises a fold by its own rows, the released code before it divides; single "
    "images are standardised by the statistics of the fit, there by those of the test images; fewer rows than "
    "dimensions leave directions that Procrustes maps to nothing, there to whatever its library ends with",
}
