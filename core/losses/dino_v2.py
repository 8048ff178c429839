"""DINOv2: crops are trained to match what a momentum teacher sees in whole images and in hidden patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.images import height_and_width
from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..contracts.outputs import Output
from ..errors import CapabilityError, ConfigError
from ..runtime.ranks import ONE, Ranks
from ._crops import GLOBAL, crop_of, hidden_places, masked_crops, patches_hidden
from ._prototypes import PrototypeHead

TERMS = ("dino", "ibot", "koleo")
OF_PATCHES = frozenset({"crops_patches", "crops_hidden", "teacher.crops_patches"})
CROPS = ("pixels_crops", "hidden_places")
SINKHORN_STEPS = 3
EPS = 1e-8


@dataclass(eq=False, repr=False, kw_only=True)
class DinoV2(RowLoss):
    """DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., 2023, arXiv 2304.07193).

    Of each image two global and V local crops are cut; patches of the global ones are hidden from the student. The
    teacher, a moving average of the student, sees the global crops whole. Heads map features to scores of K prototypes,
    and the student's softmax is trained towards the teacher's:

        dino   sum over pairs (teacher's crop g, student's crop s != g) of the mean cross-entropy, / (2 + 2 V)
               (Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv 2104.14294)
        ibot   cross-entropy at the hidden patches, each weighted by 1 / (hidden ones of its crop), / 2 B
               (iBOT: Image BERT Pre-Training with Online Tokenizer, 2021, arXiv 2111.07832)
        koleo  - mean log of the distance to the nearest other image, of unit class tokens; summed over global crops
               (Spreading vectors for similarity search, 2018, arXiv 1806.03198)

    The teacher's scores are balanced by `centering` (less their mean over time, then softmax) or by Sinkhorn-Knopp,
    three times over prototypes and samples.

    It needs images alone, and trains the image tower alone: a vision transformer whose feature is its class token, with
    patches that a learned token can stand for (CLIP, ViT, DINOv2 and DINOv3 of transformers; ViTs of open_clip and
    timm). Local crops are smaller, and these towers resample their positions.

    As published: K 65,536 (131,072 with `separate_heads` for ViT-L and g), `momentum` .992 to 1 (.994 for ViT-L and g),
    8 local crops, a batch of 1,024 and more. Users report that the loss stays at log K with small batches: for a few
    thousand images take K of some 1,000, a `momentum` below .996, and at least two different images in a batch (a copy
    costs 18 in `koleo`).

    The features of the two towers that are compared are those before the projection. The learned token that hides
    patches starts from the tower's own where it has one.

    Raises:
        ConfigError: all weights are 0, or the smaller share does not come first.
        CapabilityError: dims lacks image_width; an image tower that is no such transformer.

    Example:
        >>> import torch, vladapt
        >>> loss = vladapt.build_loss("dino-v2", {"image_width": 8}, out_dim=16, hidden_dim=8, ibot=0)
        >>> crops = torch.randn(4, 2, 8)
        >>> out = {"crops": crops, "crops_local": torch.randn(4, 3, 8), "teacher.crops": crops}
        >>> sorted(loss(out))
        ['dino_global', 'dino_local', 'koleo', 'loss']
    """

    differs: ClassVar[str] = (
        "each image has one global crop with hidden patches (published: half of the crops of a batch), whose share is "
        "drawn for itself (published: spread evenly over the batch); KoLeo's neighbours are sought in the whole batch "
        "(published: in that of each process). No stochastic depth"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"crops", "crops_local", "teacher.crops"}) | OF_PATCHES
    outputs: ClassVar[Mapping[str, Output]] = {
        "crops": Output("global crops with hidden patches", ("B", "G", "W"), "raw", fields=CROPS),
        "crops_local": Output("local crops", ("B", "V", "W"), "raw", fields=("pixels_crops_local",)),
        "crops_patches": Output("hidden patches of global crops", ("B", "L", "W"), "raw", fields=CROPS),
        "crops_hidden": Output("which of them there are", ("B", "L"), "mask", fields=CROPS),
        "teacher.crops": Output("the teacher's global crops", ("B", "G", "W"), "raw", fields=CROPS),
        "teacher.crops_patches": Output("the teacher's hidden patches", ("B", "L", "W"), "raw", fields=CROPS),
    }
    teacher: ClassVar[str | None] = "ema"
    compiles: ClassVar[bool] = False  # patches are hidden by a hook
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_blocks", "hidden", "image_tokens"})
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})

    dino: float = option(1.0, "weight of the term on whole crops, 0 for none", low=0, high=10_000)
    ibot: float = option(1.0, "weight of the term on hidden patches, 0 for none", low=0, high=10_000)
    koleo: float = option(0.1, "weight of the term that spreads images, 0 for none", low=0, high=10_000)
    balance: str = option("centering", "how the teacher's scores are balanced", choices=("centering", "sinkhorn"))
    momentum: float = option(0.992, "momentum of the teacher at the first step", low=0, high=1)
    final_momentum: float = option(1.0, "momentum of the teacher at the last step, along a cosine", low=0, high=1)
    centre_momentum: float = option(0.9, "momentum of the centres", low=0, high=1)
    first_temperature: float = option(0.04, "temperature of the teacher at the first step", above=0, high=100)
    teacher_temperature: float = option(0.07, "temperature of the teacher after its rise", above=0, high=100)
    temperature_rise: float = option(0.3, "share of the training in which it rises", low=0, high=1)
    student_temperature: float = option(0.1, "temperature of the student", above=0, high=100)
    fixed_prototypes: float = option(0.01, "share of the training in which prototypes do not learn", low=0, high=1)
    separate_heads: bool = option(False, "another head for patches than for whole crops")
    out_dim: int = option(65536, "prototypes", low=1, high=1_000_000)
    hidden_dim: int = option(2048, "width of the head's hidden layers", low=1, high=65_536)
    bottleneck_dim: int = option(256, "width of the head's last layer but one", low=1, high=65_536)
    local_crops: int = option(8, "local crops of an image", low=1, high=100)
    local_size: float = option(96 / 224, "side of a local crop, as a share of a global one's", above=0, high=1)
    global_scale: tuple[float, float] = option((0.32, 1.0), "shares of the area of global crops", above=0, high=1)
    local_scale: tuple[float, float] = option((0.05, 0.32), "shares of the area of local crops", above=0, high=1)
    masked: float = option(0.5, "share of the global crops that have hidden patches", above=0, high=1)
    mask_share: tuple[float, float] = option((0.1, 0.5), "shares of such a crop's patches", above=0, below=1)
    flip: float = option(0.5, "how often a crop is flipped", low=0, high=1)
    jitter: tuple[float, float, float, float] = option(
        (0.4, 0.4, 0.2, 0.1), "jitter of brightness, contrast, saturation, and hue (at most 0.5)", low=0, high=1
    )
    grey: float = option(0.2, "how often a crop loses its colours", low=0, high=1)
    blur: tuple[float, float, float] = option(
        (1.0, 0.1, 0.5), "how often the first, the second global crop and local ones are blurred", low=0, high=1
    )
    solarize: float = option(0.2, "how often the second global crop is solarised", low=0, high=1)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(TERMS)
        for name in ("global_scale", "local_scale", "mask_share"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{self.title}: {name}={low},{high}: give the smaller share first")
        if self.jitter[3] > 0.5:
            raise ConfigError(f"{self.title}: jitter: hue is shifted by at most 0.5, not {self.jitter[3]}")
        if not self.ibot:
            self.needs = self.needs - OF_PATCHES
        width = self.dim("image_width", "its head")
        shape = width, self.hidden_dim, self.bottleneck_dim, self.out_dim
        self.heads = nn.ModuleList(PrototypeHead(*shape) for _ in range(2 if self.ibot and self.separate_heads else 1))
        self.teacher_heads = deepcopy(self.heads).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(width)) if self.ibot else None
        for name in ("centre", "patch_centre"):
            self.register_buffer(name, torch.zeros(self.out_dim))
        self._seen: dict[str, Tensor] = {}
        self._progress = 0.0

    # The loss -----------------------------------------------------------------------------------------------------

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        self._progress = progress
        parts: dict[str, Tensor] = {}
        if self.dino:
            parts |= self._on_crops(out, ranks)
        if self.ibot:
            parts["ibot"] = self._on_patches(out, ranks)
        if self.koleo:
            parts["koleo"] = sum(koleo(crop, ranks) for crop in out["crops"].unbind(dim=1))
        of_terms = {"dino_global": self.dino, "dino_local": self.dino, "ibot": self.ibot, "koleo": self.koleo}
        return {"loss": sum(of_terms[name] * part for name, part in parts.items()), **parts}

    def _on_crops(self, out: Mapping[str, Any], ranks: Ranks) -> dict[str, Tensor]:
        with torch.no_grad():
            scores = self.teacher_heads[0](out["teacher.crops"])  # (n, 2, K)
            self._seen["centre"] = ranks.average(scores.mean(dim=(0, 1)))
            targets = self._targets(scores, self.centre, None, ranks)
        count, local = len(scores), self._log_softmax(self.heads[0], out["crops_local"])  # (n, V, K)
        whole = self._log_softmax(self.heads[0], out["crops"])  # (n, 2, K)
        terms = count * (GLOBAL * (GLOBAL - 1) + GLOBAL * local.shape[1])
        return {
            "dino_global": ranks.average(-(targets.flip(1) * whole).sum() / terms),
            "dino_local": ranks.average(-(targets.sum(dim=1) * local.sum(dim=1)).sum() / terms),
        }

    def _on_patches(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        hidden = out["crops_hidden"].bool()  # (n, L)
        with torch.no_grad():
            scores = self.teacher_heads[-1](out["teacher.crops_patches"])  # (n, L, K)
            counted = ranks.sum(hidden.sum())
            mean = ranks.sum((scores * hidden[..., None]).sum(dim=(0, 1))) / counted.clamp(min=1)
            self._seen["patch_centre"] = torch.where(counted > 0, mean, self.patch_centre.to(mean))
            targets = self._targets(scores, self.patch_centre, hidden, ranks)
        student = self._log_softmax(self.heads[-1], out["crops_patches"])
        lost = -(targets * student).sum(dim=-1)  # (n, L)
        return ranks.average((lost * mask_weights(hidden, masked_crops(self.masked))).sum() / (GLOBAL * len(lost)))

    def _log_softmax(self, head: PrototypeHead, features: Tensor) -> Tensor:
        scores = head(features, frozen=self._progress < self.fixed_prototypes)
        return F.log_softmax(scores / self.student_temperature, dim=-1)

    def _targets(self, scores: Tensor, centre: Tensor, valid: Tensor | None, ranks: Ranks) -> Tensor:
        """(n, ..., K) scores of the teacher -> softmaxes, balanced; `valid` (n, ...) says which of them count."""
        temperature = self.temperature(self._progress)
        if self.balance == "centering":
            return ((scores - centre) / temperature).softmax(dim=-1)
        flat = scores.flatten(0, -2)
        return sinkhorn(flat / temperature, None if valid is None else valid.flatten(), ranks).view_as(scores)

    def temperature(self, progress: float) -> float:
        """Of the teacher, at this share of the training."""
        risen = min(1.0, progress / self.temperature_rise) if self.temperature_rise else 1.0
        return self.first_temperature + (self.teacher_temperature - self.first_temperature) * risen

    def teacher_momentum(self, progress: float) -> float:
        """Share of itself that the teacher keeps in the step at this share of the training."""
        left = (1 + math.cos(math.pi * progress)) / 2
        return self.final_momentum + (self.momentum - self.final_momentum) * left

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Moves the centres towards what the teacher gave, and the teacher's heads towards the student's."""
        for name, mean in self._seen.items():
            centre = getattr(self, name)
            centre.lerp_(mean.to(centre), 1 - self.centre_momentum)
        step = 1 - self.teacher_momentum(self._progress)
        for average, trained in zip(self.teacher_heads.parameters(), self.heads.parameters()):
            average.lerp_(trained, step)
        self._seen = {}

    # What it sees -------------------------------------------------------------------------------------------------

    def prepare(self, backbone: Backbone) -> None:
        self._check_tower(backbone)
        if self.mask_token is None:
            return
        own = getattr(getattr(backbone.model, "embeddings", None), "mask_token", None)  # of DINOv2 and DINOv3
        if own is not None and own.numel() == self.mask_token.numel():
            self.mask_token.data.copy_(own.detach().flatten())

    @torch.no_grad()
    def _check_tower(self, backbone: Any) -> None:
        """Raise the CapabilityError of a tower whose feature is no class token beside patches."""
        for capability in sorted(self.backbone_needs):
            backbone.need(capability)
        blank = backbone.blank_image().to(backbone.device)
        has_class_token = backbone.image_prefix > 0
        if has_class_token:
            tokens, hidden = _tokens(backbone, blank), backbone.hidden(blank)
            has_class_token = tokens[:, 0].shape == hidden.shape and torch.allclose(tokens[:, 0], hidden, atol=1e-3)
        if not has_class_token or self.dim("image_width", "its token") != backbone.width("image"):
            raise CapabilityError(
                f"{self.title} trains the class token of a vision transformer, and '{backbone.spec}' makes its "
                "feature of something else; choose a ViT with a class token (CLIP, DINOv2)"
            )
        if self.ibot:
            backbone.patch_layer()

    def further_views(self, backbone: Backbone) -> dict[str, Callable[[Tensor], Tensor]]:
        if backbone.channels is not None:
            raise CapabilityError(
                f"{self.title} jitters the colours of pictures, and these have {len(backbone.channels)} channels; "
                "choose another loss (clip, silc)"
            )
        size = height_and_width(backbone.image_size)
        _, grid = backbone.image_tokens(backbone.blank_image())
        patch = size[0] // grid[0]
        height, width = (max(1, round(side * self.local_size / patch)) * patch for side in size)
        how: dict[str, Any] = {"flip": self.flip, "jitter": self.jitter, "grey": self.grey}
        how |= {"mean": backbone.image_mean, "std": backbone.image_std}
        whole = [
            crop_of(size, self.global_scale, blur=self.blur[number], solarize=number * self.solarize, **how)
            for number in range(GLOBAL)
        ]
        local = crop_of((height, width), self.local_scale, blur=self.blur[GLOBAL], solarize=0.0, **how)
        return {
            "pixels_crops": lambda pixels: torch.stack([crop(pixels) for crop in whole]),
            "pixels_crops_local": lambda pixels: torch.stack([local(pixels) for _ in range(self.local_crops)]),
            "hidden_places": lambda pixels: hidden_places(grid, self.mask_share, self.masked),
        }

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        places = batch["hidden_places"].flatten(1) if self.ibot else None  # (n, L)
        crops, patches = self._seen_in(batch["pixels_crops"], places, backbone, hide=True)
        local = batch["pixels_crops_local"]
        made = {"crops": crops, "crops_local": backbone.hidden(local.flatten(0, 1)).unflatten(0, local.shape[:2])}
        return made if places is None else {**made, "crops_patches": patches, "crops_hidden": places >= 0}

    def teacher_outputs(self, batch: Mapping[str, Tensor], teacher: Backbone) -> dict[str, Tensor]:
        places = batch["hidden_places"].flatten(1) if self.ibot else None
        crops, patches = self._seen_in(batch["pixels_crops"], places, teacher, hide=False)
        return {"teacher.crops": crops} | ({} if places is None else {"teacher.crops_patches": patches})

    def _seen_in(
        self, pixels: Tensor, places: Tensor | None, backbone: Any, hide: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(n, 2, 3, S, S) -> the class tokens (n, 2, W), and the patches (n, L, W) at some places."""
        hiding: AbstractContextManager[None] = nullcontext()
        if hide and places is not None:
            hiding = patches_hidden(backbone.patch_layer(), places, self.mask_token)
        with hiding:
            tokens = _tokens(backbone, pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])  # (n, 2, T, W)
        if places is None:
            return tokens[:, :, 0], None
        patches = tokens[:, :, backbone.image_prefix :].flatten(1, 2)  # (n, 2 P, W)
        at = places.clamp(min=0)[..., None].expand(-1, -1, patches.shape[-1])
        return tokens[:, :, 0], patches.gather(1, at)

    def held_parameters(self) -> list[nn.Parameter]:
        return [] if self.mask_token is None else [self.mask_token]


def _tokens(backbone: Any, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, T, W) after the last norm."""
    return backbone.norm_tokens(backbone.run_blocks("image", backbone.embed_image(pixels)))


def mask_weights(hidden: Tensor, crops: int) -> Tensor:
    """(n, L) bool, row after row of so many crops -> 1 / (hidden patches of the crop) for each that is."""
    of_crops = hidden.unflatten(1, (crops, -1)).float()
    return (of_crops / of_crops.sum(dim=-1, keepdim=True).clamp(min=1)).flatten(1)


@torch.no_grad()
def sinkhorn(scores: Tensor, valid: Tensor | None = None, ranks: Ranks = ONE) -> Tensor:
    """(N, K) scores over their temperature -> rows that sum to 1 and use the prototypes nearly alike.

    Args:
        valid: (N,) bool, rows that count; the others are 0.
        ranks: that hold further rows.
    """
    scores = scores.float()
    highest = ranks.highest(scores.max())  # a factor of all, which the first division takes away
    assigned = (scores - highest).exp()  # (N, K)
    count = ranks.sum(torch.tensor(float(len(scores)), device=scores.device))
    if valid is not None:
        assigned, count = assigned * valid[:, None], ranks.sum(valid.sum().float())
    tiny = torch.finfo(assigned.dtype).tiny
    assigned = assigned / ranks.sum(assigned.sum()).clamp(min=tiny)
    for _ in range(SINKHORN_STEPS):
        assigned = assigned / ranks.sum(assigned.sum(dim=0)).clamp(min=tiny) / assigned.shape[1]
        assigned = assigned / assigned.sum(dim=1, keepdim=True).clamp(min=tiny) / count.clamp(min=1)
    return assigned * count


def koleo(features: Tensor, ranks: Ranks = ONE) -> Tensor:
    """KoLeo of (n, W) features, not normalised: minus the mean log distance to the nearest of the others."""
    unit = F.normalize(features, dim=-1, eps=EPS)
    others = ranks.columns(unit)  # (N, W)
    with torch.no_grad():
        near = (unit @ others.T).masked_fill(ranks.is_own_pair(unit @ others.T), -2).argmax(dim=1)
    return ranks.average(-(F.pairwise_distance(unit, others[near], eps=EPS) + EPS).log().mean())
