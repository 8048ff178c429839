"""ProLIP: images and captions as Gaussians, where the vaguer one includes the more precise one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import ONE, Ranks
from ._products import products_option, with_all

MASKED = ("image_masked", "image_masked_log_variance", "text_masked", "text_masked_log_variance")


@dataclass(eq=False, repr=False, kw_only=True)
class Prolip(RowLoss):
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
    first samples; with several processes or micro-batches give them for all samples (`masked_share` picks the first;
    the published models have 0.125, to save time, and an `inclusion_alpha` of 1e-7). `inclusion_loss_eps` keeps the
    exponential small, and shrinks the part of the means: the code of the loss has -10, its command line -20.

    Parts: "ppcl", "inclusion", "image_masked_inclusion", "text_masked_inclusion", "vib" (both KL divergences).

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> variances = {"image_log_variance": torch.full((4, 4), -9.0), "text_log_variance": torch.full((4, 4), -9.0)}
        >>> sorted(vladapt.build_loss("prolip")({**out, **variances}))
        ['inclusion', 'loss', 'ppcl', 'vib']
    """

    differs: ClassVar[str] = (
        "by default the released formulas, which mix up sigma and sigma^2, because published models were trained with "
        "them and the fixture is of them; `exact_gaussians` uses the paper's. Large terms are not left out of the step"
    )
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "image_log_variance", "text_log_variance", "logit_scale"}
    )
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    ppcl_lambda: float = option(1.0, "weight of the pairwise term", low=0, high=10_000)
    inclusion_alpha: float = option(
        1e-7, "weight of the inclusion of the image in its caption, 0 for none", low=0, high=10_000
    )
    inclusion_alpha_occ: float = option(
        1e-3, "weight of the inclusion of an input in its masked view, 0 for none", low=0, high=10_000
    )
    vib_beta: float = option(1e-4, "weight of the KL divergences, 0 for none", low=0, high=10_000)
    inclusion_loss_scale: float = option(1000.0, "steepness of the inclusion loss", above=0, high=1_000_000)
    inclusion_loss_eps: float = option(
        -10.0, "added to minus the log variances in the inclusion test", low=-100, high=100
    )
    masked: bool = option(False, "ask for masked views, which are used wherever they are given")
    masked_share: float = option(
        1.0, "share of the batch, its first samples, compared with masked views", above=0, high=1
    )
    exact_gaussians: bool = option(False, "log sigma and log variance stand where the formulas have them")
    init_bias: float = option(-10.0, "initial value of a bias of its own", low=-1000, high=1000)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.bias = nn.Parameter(torch.tensor(self.init_bias))
        if self.masked:
            self.needs = self.needs | frozenset(MASKED)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        image = out["image_features"], out["image_log_variance"]
        text = out["text_features"], out["text_log_variance"]
        bias = out.get("logit_bias", self.bias)
        logits = pairwise_logits(*image, *text, out["logit_scale"], bias, ranks, self.products)
        parts = {"ppcl": ranks.average(_sigmoid_loss(logits, ranks.own(len(logits)).start))}
        weights = {"ppcl": self.ppcl_lambda}
        if self.inclusion_alpha:
            parts["inclusion"] = ranks.average(self._inclusion(*image, *text))
            weights["inclusion"] = self.inclusion_alpha
        if self.inclusion_alpha_occ:
            for tower, whole in (("image", image), ("text", text)):
                if f"{tower}_masked" in out:
                    hidden = out[f"{tower}_masked"], out[f"{tower}_masked_log_variance"]
                    parts[f"{tower}_masked_inclusion"] = self._inclusion_of_first(ranks, *whole, *hidden)
                    weights[f"{tower}_masked_inclusion"] = self.inclusion_alpha_occ
        if self.vib_beta:
            parts["vib"] = ranks.average(self._divergence(*image) + self._divergence(*text))
            weights["vib"] = self.vib_beta
        return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}

    def _inclusion(self, *pair: Tensor) -> Tensor:
        return inclusion_loss(*pair, self.inclusion_loss_scale, self.inclusion_loss_eps, self.exact_gaussians)

    def _divergence(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL divergence from the unit Gaussian, mean over rows and dimensions."""
        width = log_variance if self.exact_gaussians else log_variance / 2
        return 0.5 * (mean.square() + width.exp() - width - 1).mean()

    def _inclusion_of_first(self, ranks: Ranks, *rows: Tensor) -> Tensor:
        """That of the samples of the whole batch that are compared with their masked views, its first ones."""
        of_all = [ranks.size * len(rows[0]), ranks.size * len(rows[-1])]
        count = max(1, min(int(self.masked_share * of_all[0]), of_all[1]))
        here = min(max(count - ranks.own(len(rows[0])).start, 0), len(rows[0]))  # of this rank's rows
        inclusion = self._inclusion(*(tensor[: max(here, 1)] for tensor in rows))
        return ranks.total(inclusion * (here / count))


def pairwise_logits(
    mean_1: Tensor,
    log_variance_1: Tensor,
    mean_2: Tensor,
    log_variance_2: Tensor,
    scale: Tensor,
    bias: Tensor,
    ranks: Ranks = ONE,
    products: str = "fp32",
) -> Tensor:
    """(n, M) of (n, D) Gaussians of this rank and (M, D) of all: scale (mu . mu' - (sum of both variances) / 2) + bias.

    The second ones are given as each rank holds them.
    """
    variances = log_variance_1.exp().sum(dim=1)[:, None] + ranks.columns(log_variance_2.exp().sum(dim=1))  # (n, M)
    return scale * (with_all(mean_1, mean_2, ranks, products) - variances / 2) + bias


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


def _sigmoid_loss(logits: Tensor, first: int) -> Tensor:
    """Each pair by itself, right on the diagonal and wrong elsewhere; a sum over the second axis, a mean over the first
    one (Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343).

    Args:
        logits: (n, N).
        first: the column that belongs to the first row.
    """
    return (F.softplus(logits).sum() - logits.diagonal(first).sum()) / len(logits)
