"""Attacks on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt.core.robustness.apgd import apgd, cross_entropy, dlr
from vladapt.core.robustness.pgd import LEVELS, pgd

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class AttackedTower(nn.Module):
    """The fixture's image tower with as much of a backbone as losses ask for, in float64.

    Args:
        weights: "model" or "original".
    """

    image_mean, image_std, spec, device = MEAN, STD, "the fixture's", torch.device("cpu")
    in_rows = False

    def __init__(self, ref: Reference, weights: str):
        super().__init__()
        kernel, head = ref[f"w.{weights}.c.weight"], ref[f"w.{weights}.f.weight"]
        self.c = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], kernel.shape[-1])
        self.f = nn.Linear(head.shape[1], head.shape[0])
        self.load_state_dict({key: ref[f"w.{weights}.{key}"] for key in self.state_dict()})
        self.double()

    @property
    def model(self) -> nn.Module:
        return self

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        features = self.f(torch.tanh(self.c(pixels)).flatten(1))
        return F.normalize(features, dim=-1) if normalize else features

    def normalised(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        return (images - mean) / std


def logits_of(ref: Reference) -> Callable[[Tensor], Tensor]:
    """Images -> scores of the fixture's classes."""
    tower, texts, scale = AttackedTower(ref, "model"), ref["text"].double(), float(ref.setting("logit_scale"))
    return lambda images: scale * tower.encode_image(tower.normalised(images)) @ texts


@compares("pgd", "robust_training")
def projected_gradient_descent(ref: Reference, f: Fixtures) -> Iterator[Check]:
    logits, images, labels = logits_of(ref), ref["images"].double(), ref["labels"]
    how = {"eps": ref.setting("eps") / LEVELS, "step": ref.setting("step") / LEVELS, "start": ref["start"].double()}
    how |= {"steps": int(ref.setting("iters")), "momentum": float(ref.setting("momentum"))}
    attacked = pgd(lambda at: cross_entropy(logits(at), labels), images, **how)
    yield ref.check(attacked, "tecoa.linf.adversarial", "attacked images")
    yield ref.check(logits(images), "clean_logits")
    yield ref.check(logits(attacked), "pgd_logits")


@compares("apgd", "robust_training")
def auto_pgd(ref: Reference, f: Fixtures) -> Iterator[Check]:
    logits, images, labels = logits_of(ref), ref["images"].double(), ref["labels"]
    done = apgd(logits, images, labels, eps=ref.setting("eps") / LEVELS, steps=int(ref.setting("apgd_iters")))
    yield ref.check(done.images, "apgd.ce.adversarial", "attacked images")
    yield ref.check(done.losses, "apgd.ce.loss", "highest losses")
    yield ref.check(dlr(logits(images), labels), "dlr_loss", "difference of logits ratio")


GROUPS = (projected_gradient_descent, auto_pgd)
DEVIATIONS = {
    "apgd": "the released code takes the largest entry of the embedding for the answer, and so returns any last "
    "iterate; ours gives that of the highest loss, and says whether a logit of another class was the largest at any "
    "step"
}
