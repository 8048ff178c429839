"""ProLIP: images and captions as Gaussians, what is vaguer including what is more precise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.loss import Loss

MASKED = ("image_masked", "image_masked_log_variance", "text_masked", "text_masked_log_variance")


class Prolip(Loss):
    """Probabilistic Language-Image Pre-Training (Chun et al., 2024, arXiv 2410.18857).

    Every input is a Gaussian with a mean of length 1 and one variance a dimension. Pairs are classified by a sigmoid of
    a (mu_i . mu_t - (sum of both variances) / 2) + b (PPCL); an inclusion loss wants each image inside its caption, and
    each input inside its masked view; and a KL divergence to the unit Gaussian keeps variances from vanishing (VIB).

    Where the released code and the paper differ:
    * The test of "1 in 2", ln of the integral of p_1^2 p_2, holds 2 ln sigma_1 and ln sigma_2, for which the code takes
      2 ln sigma_1^2 and ln sigma_2^2; the KL divergence holds ln sigma^2 and sigma^2, for which it takes ln sigma and
      sigma. Its published models were trained so: the default. `exact_gaussians` takes the formulas as they are.
    * It leaves an inclusion loss above 1e5 or a VIB above 1e4 out of the step. Here, as in the paper, it stays, for the
      trainer to report; both are computed in a form that does not overflow on the way.
    * Its bias is that of the model; where `out` has no "logit_bias", an own learned one is used, from `init_bias`.

    Masked views are compared where `out` has them. They may hold fewer rows than the batch, which then belong to its
    first samples; with several processes or micro-batches give them for all samples (`masked_share` picks the first).

    Args:
        ppcl_lambda: weight of the pairwise term.
        inclusion_alpha: weight of "image in caption", 0 for none. Published models: 1e-7.
        inclusion_alpha_occ: weight of "input in its masked view", 0 for none.
        vib_beta: weight of the KL divergences, 0 for none.
        inclusion_loss_scale: steepness of the inclusion loss.
        inclusion_loss_eps: added to minus the log variances in the inclusion test, so that the exponential stays small;
            it shrinks the part of the means. The code of the loss has -10, its command line -20.
        masked: whether masked views are asked for, and their lack is an error; else they are used where given.
        masked_share: share of the batch, its first samples, compared with masked views; 0 to 1. To save time the
            published models have 0.125.
        exact_gaussians: whether log sigma and log variance stand where the formulas have them (see above).
        init_bias: where an own bias starts.

    Parts: "ppcl", "inclusion", "image_masked_inclusion", "text_masked_inclusion", "vib" (both KL divergences).

    Raises:
        ConfigError: an option is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "image_log_variance", "text_log_variance", "logit_scale"}
    )
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        ppcl_lambda: float = 1.0,
        inclusion_alpha: float = 1e-7,
        inclusion_alpha_occ: float = 1e-3,
        vib_beta: float = 1e-4,
        inclusion_loss_scale: float = 1000.0,
        inclusion_loss_eps: float = -10.0,
        masked: bool = False,
        masked_share: float = 1.0,
        exact_gaussians: bool = False,
        init_bias: float = -10.0,
    ):
        super().__init__(dims)
        weights = {"inclusion_alpha": inclusion_alpha, "inclusion_alpha_occ": inclusion_alpha_occ, "vib_beta": vib_beta}
        for name, value in {"ppcl_lambda": ppcl_lambda, **weights}.items():
            require(value >= 0, name, value, "give 0 or more")
        require(inclusion_loss_scale > 0, "inclusion_loss_scale", inclusion_loss_scale, "give a number above 0")
        require(0 < masked_share <= 1, "masked_share", masked_share, "give a share above 0, up to 1")
        self.ppcl_lambda, self.vib_beta = ppcl_lambda, vib_beta
        self.inclusion_alpha, self.inclusion_alpha_occ = inclusion_alpha, inclusion_alpha_occ
        self.scale, self.eps = inclusion_loss_scale, inclusion_loss_eps
        self.masked_share, self.exact_gaussians = masked_share, exact_gaussians
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))
        if masked:
            self.needs = self.needs | frozenset(MASKED)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        image = out["image_features"], out["image_log_variance"]
        text = out["text_features"], out["text_log_variance"]
        logits = pairwise_logits(*image, *text, out["logit_scale"], out.get("logit_bias", self.bias))
        parts = {"ppcl": _sigmoid_loss(logits)}
        weights = {"ppcl": self.ppcl_lambda}
        if self.inclusion_alpha:
            parts["inclusion"], weights["inclusion"] = self._inclusion(*image, *text), self.inclusion_alpha
        if self.inclusion_alpha_occ:
            for tower, whole in (("image", image), ("text", text)):
                if f"{tower}_masked" in out:
                    hidden = out[f"{tower}_masked"], out[f"{tower}_masked_log_variance"]
                    parts[f"{tower}_masked_inclusion"] = self._inclusion(*self._first(*whole, *hidden))
                    weights[f"{tower}_masked_inclusion"] = self.inclusion_alpha_occ
        if self.vib_beta:
            parts["vib"] = self._divergence(*image) + self._divergence(*text)
            weights["vib"] = self.vib_beta
        return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}

    def _inclusion(self, *pair: Tensor) -> Tensor:
        return inclusion_loss(*pair, self.scale, self.eps, self.exact_gaussians)

    def _divergence(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL divergence from the unit Gaussian, mean over rows and dimensions."""
        width = log_variance if self.exact_gaussians else log_variance / 2
        return 0.5 * (mean.square() + width.exp() - width - 1).mean()

    def _first(self, *rows: Tensor) -> list[Tensor]:
        """The samples that are compared with their masked views."""
        count = max(1, min(int(self.masked_share * len(rows[0])), len(rows[-1])))
        return [tensor[:count] for tensor in rows]


def pairwise_logits(
    mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """(N, M) of (N, D) and (M, D) Gaussians: scale (mu . mu' - (sum of both variances) / 2) + bias."""
    variances = log_variance_1.exp().sum(dim=1)[:, None] + log_variance_2.exp().sum(dim=1)  # (N, M)
    return scale * (mean_1 @ mean_2.T - variances / 2) + bias


def inclusion_loss(
    mean_1: Tensor,
    log_variance_1: Tensor,
    mean_2: Tensor,
    log_variance_2: Tensor,
    scale: float,
    eps: float,
    exact: bool = False,
) -> Tensor:
    """How far the first of each pair of Gaussians (N, D) is from lying in the second, mean over all dimensions."""
    one_in_two = inclusion_test(mean_1, log_variance_1, mean_2, log_variance_2, eps, exact)
    two_in_one = inclusion_test(mean_2, log_variance_2, mean_1, log_variance_1, eps, exact)
    return -F.logsigmoid(scale * (one_in_two - two_in_one)).mean()


def inclusion_test(
    mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor, eps: float, exact: bool = False
) -> Tensor:
    """ln of the integral of p_1^2 p_2, less a constant, of each dimension (N, D): large where 1 lies in 2.

    With p = exp(-s_1 + eps) and q = exp(-s_2 + eps) / 2 it is -2 s_1 - s_2 - ln(p + q) / 2 - (mu_1 - mu_2)^2 p q /
    (p + q); s is the log variance, or, in the first two terms if `exact`, half of it. The last term is the paper's
    B^2 / 4A - C, without the difference of two large numbers.
    """
    log_p, log_q = eps - log_variance_1, eps - log_variance_2 - math.log(2)
    log_sum = torch.logaddexp(log_p, log_q)
    sigma = 0.5 if exact else 1.0
    apart = (mean_1 - mean_2).square() * (log_p + log_q - log_sum).exp()
    return -sigma * (2 * log_variance_1 + log_variance_2) - log_sum / 2 - apart


def _sigmoid_loss(logits: Tensor) -> Tensor:
    """Each pair by itself, right on the diagonal and wrong elsewhere; a sum over the second axis, a mean over the first
    one (Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343)."""
    return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(logits)
