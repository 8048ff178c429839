"""The classification layer that texts give: features projected into their space, compared with each class's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts import require
from .....core.errors import ConfigError, UnknownNameError, did_you_mean
from .....registry import MODELS
from ...text_embeddings import TextEmbeddings
from ...vocabulary import Classes, Vocabulary

PROJECTIONS = ("linear", "mlp", "none")
BACKGROUNDS = ("learned", "zeros")
MAX_SCALE = 100.0
"""What a learned scale is clipped at, as in CLIP, 2021, arXiv 2103.00020."""
EPSILON = 1e-12


@MODELS.register_module()
class CosineTextClassifier(nn.Module):
    """logit = cos(project(x), text) / temperature + bias, in float32.

    "Open-vocabulary Object Detection via Vision and Language Knowledge Distillation" (ViLD), 2021, arXiv 2104.13921:
    text embeddings in place of a detector's classification layer, with a learned background. RegionCLIP, 2021, arXiv
    2112.09106: a background of zeros, temperature 0.01. Nothing that trains belongs to one class, so other names may be
    given at any time (`set_classes`).

    Args:
        in_channels: F, of the features.
        backbone, classes, templates: of `TextEmbeddings`.
        projection: "linear"; "mlp", with one hidden layer and GELU; "none" for features that are in the space already.
        hidden_channels: of the mlp; None is F.
        background: for softmax: "learned", an embedding of its own; "zeros", a logit of 0; None for heads without, as
            those with a sigmoid for each class.
        background_class: None puts the background after all classes, as mmdet has it. A name, such as "background" in
            masks: the class of that name is not said by its text but is the background; without such a class there is
            none.
        temperature: above 0.
        learn_temperature: whether it trains; its inverse stays below 100, or where it started if that is more.
        prior: probability that a sigmoid has at first where the cosine is 0, for focal losses: a bias that trains and
            is the same for all classes. None has no bias.
        anchors: A, how many embeddings a feature is projected to, each classified.

    Raises:
        ConfigError: an option is not usable.
    """

    def __init__(
        self,
        in_channels: int,
        backbone: str,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        *,
        projection: str = "linear",
        hidden_channels: int | None = None,
        background: str | None = None,
        background_class: str | None = None,
        temperature: float = 0.02,
        learn_temperature: bool = False,
        prior: float | None = None,
        anchors: int = 1,
    ):
        super().__init__()
        require(projection in PROJECTIONS, "projection", projection, f"give one of {', '.join(PROJECTIONS)}")
        known = background is None or background in BACKGROUNDS
        require(known, "background", background, f"give one of {', '.join(BACKGROUNDS)}, or None")
        require(temperature > 0, "temperature", temperature, "give above 0")
        require(prior is None or 0 < prior < 1, "prior", prior, "give above 0 to below 1, or None")
        if background is None and background_class is not None:
            raise ConfigError(f"option background_class='{background_class}' says no background; give background too")
        if hidden_channels is not None and projection != "mlp":
            raise ConfigError(f"option hidden_channels={hidden_channels} is for projection 'mlp' alone; omit it")
        self.text = TextEmbeddings(backbone, classes, templates)
        self.anchors, self.background, self.background_class = anchors, background, background_class
        self._add_projection(projection, in_channels, hidden_channels or in_channels)
        if background == "learned":
            self.background_embedding = nn.Parameter(F.normalize(torch.randn(self.text.embed_dim), dim=0))
        self._first_scale = 1 / temperature
        self.log_scale = nn.Parameter(torch.tensor(math.log(self._first_scale))) if learn_temperature else None
        self.logit_bias = None if prior is None else nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., A * C) logits, or A * (C + 1) with a background after the classes; of anchor 0 first."""
        x = self.hidden(x)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.scale * self._cosines(x.float(), self.rows())
        return logits if self.logit_bias is None else logits + self.logit_bias

    def on_map(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, A * C, H, W), as `forward` for each cell."""
        return self(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def embed(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., A, D) unit embeddings in the space of the texts."""
        x = self.hidden(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._unit(x.float())

    def rows(self) -> Tensor:
        """(C, D) or (C + 1, D): what features are compared with; unit, but for a background of zeros."""
        texts = self.text()
        if self.background is None:
            return texts
        zeros = self.background == "zeros"
        other = torch.zeros_like(texts[:1]) if zeros else F.normalize(self.background_embedding, dim=0)[None]
        if self.background_class is None:
            return torch.cat([texts, other])
        if self.background_class not in self.text.names:
            return texts
        place = self.text.names.index(self.background_class)
        return torch.cat([texts[:place], other, texts[place + 1 :]])

    @property
    def scale(self) -> Tensor | float:
        """What cosines are multiplied by."""
        if self.log_scale is None:
            return self._first_scale
        return self.log_scale.exp().clamp(max=max(MAX_SCALE, self._first_scale))

    def _cosines(self, x: Tensor, rows: Tensor) -> Tensor:
        """(..., F) and (C, D) -> (..., A * C)."""
        if self.projection is not None and x.shape[-1] < rows.shape[1]:
            return self._cosines_without_embeddings(x, rows)
        return (self._unit(x) @ rows.T).flatten(-2)

    def _unit(self, x: Tensor) -> Tensor:
        projected = x if self.projection is None else self.projection(x)
        return F.normalize(projected.unflatten(-1, (self.anchors, -1)), dim=-1)

    def _cosines_without_embeddings(self, x: Tensor, rows: Tensor) -> Tensor:
        """The same cosines where F < D, in memory of F an anchor and cell: |Wx|^2 is x W'W x, and t Wx is (tW) x."""
        weight = self.projection.weight.unflatten(0, (self.anchors, -1))  # (A, D, F)
        bias = self.projection.bias.unflatten(0, (self.anchors, -1, 1))  # (A, D, 1)
        whole = torch.cat([weight, bias], dim=-1)  # (A, D, F + 1)
        x = F.pad(x, (0, 1), value=1.0)  # the one that the bias is multiplied with
        dots = torch.einsum("...f,acf->...ac", x, torch.einsum("cd,adf->acf", rows, whole))
        mixed = torch.einsum("...f,afg->...ag", x, whole.transpose(1, 2) @ whole)
        squares = (mixed * x.unsqueeze(-2)).sum(dim=-1, keepdim=True)  # (..., A, 1)
        return (dots / squares.clamp(min=EPSILON).sqrt()).flatten(-2)

    def _add_projection(self, kind: str, in_channels: int, hidden_channels: int) -> None:
        self.hidden, self.projection, width = nn.Identity(), None, self.text.embed_dim
        if kind == "none":
            fits = in_channels == width and self.anchors == 1
            require(fits, "projection", kind, f"features have {in_channels} channels, texts {width}; give 'linear'")
            return
        if kind == "mlp":
            self.hidden = nn.Sequential(nn.Linear(in_channels, hidden_channels), nn.GELU())
            in_channels = hidden_channels
        self.projection = nn.Linear(in_channels, self.anchors * width)
        nn.init.zeros_(self.projection.bias)  # beside small features it would be all of the embedding's direction


def classifier_of(
    head: str, options: Mapping[str, Any] | None, in_channels: int, **defaults: Any
) -> CosineTextClassifier:
    """The classifier of a head.

    Args:
        head: its name, for messages.
        options: of `CosineTextClassifier`, as the config gives them.
        defaults: what the head decides where the config says nothing.

    Raises:
        ConfigError: backbone or classes are missing. UnknownNameError: there is no such option.
    """
    count_classes(head, options)
    return CosineTextClassifier(in_channels, **{**defaults, **options})


def count_classes(head: str, options: Mapping[str, Any] | None) -> int:
    """C, of a head's `classifier`; nothing is encoded. Raises as `classifier_of`."""
    options = options or {}
    known = set(inspect.signature(CosineTextClassifier).parameters) - {"in_channels", "anchors"}
    for name in set(options) - known:
        raise UnknownNameError(f"{head}: classifier has no option '{name}'; {did_you_mean(name, known)}")
    missing = [name for name in ("backbone", "classes") if not options.get(name)]
    if missing:
        raise ConfigError(
            f"{head}: classifier names no {' and no '.join(missing)}; write "
            "classifier=dict(backbone='embedded', classes='cat, dog')"
        )
    return len(Vocabulary.of(options["classes"], options.get("templates", "photo")))
