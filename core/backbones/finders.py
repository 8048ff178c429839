"""Losses that are kept beside the towers that they trained: what images and texts are found by, where that is more than
the towers' own features, and what adapters answer by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.options import options_of
from ..errors import CapabilityError, DataError, VladaptError
from ..features.extract import in_eval_mode
from ..registry.build import build_loss

if TYPE_CHECKING:
    from ..contracts.loss import Loss

KEPT = {"finds": "the embedding that it searches by", "answers": "what it answers by"}
TAKEN_OVER = (
    *("spec", "image_size", "image_mean", "image_std", "context_length", "licence", "has_text", "notes", "channels"),
    *("device", "joint", "in_rows"),
)


OF_FILES = (".json", ".jsonl", ".csv", ".tsv", ".safetensors")
"""How an option ends that names a file, which no model may."""
FINDER, ANSWERS = "vladapt.finder.", "vladapt.answers."
"""How names of their tensors begin beside those of the towers."""


def searched(backbone: Backbone) -> Backbone:
    """The backbone that images and texts are searched by: itself, or one that has what its finder makes of them.

    Raises:
        CapabilityError: its training compared no images with texts.
    """
    if backbone.answers and not backbone.compares:
        name = next(iter(backbone.answers))
        raise CapabilityError(
            f"--backbone {backbone.spec}: trained by loss '{name}', which compares no images with texts, so it does "
            f"not retrieve; ask it for findings with: vladapt fit --adapter {name}"
        )
    if backbone.finder is None or (backbone.compares and not backbone.finder.compares):
        return backbone
    return FinderBackbone(backbone)


class SeenTowers(Backbone):
    """Towers seen through something that makes other vectors of what they give. It encodes, and does no more.

    Args:
        base: the towers.
        embed_dim: of the vectors.
        identity: what tells that something from any other.
    """

    capabilities = frozenset()

    def __init__(self, base: Backbone, embed_dim: int, identity: str):
        self.base, self.embed_dim = base, embed_dim
        for name in TAKEN_OVER:
            setattr(self, name, getattr(base, name))
        digest = hashlib.sha256(f"{base.fingerprint} {identity}".encode()).hexdigest()
        self.fingerprint = digest[: len(base.fingerprint)]

    @property
    def model(self) -> nn.Module:
        return self.base.model

    @property
    def logit_scale(self) -> Tensor:
        return self.base.logit_scale

    def preprocess(self, train: bool = False) -> Callable[[Any], Tensor]:
        return self.base.preprocess(train)

    @property
    def least_side(self) -> int | None:
        return self.base.least_side

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.base.tokenize(texts)

    def token_mask(self, tokens: Tensor) -> Tensor:
        return self.base.token_mask(tokens)


class FinderBackbone(SeenTowers):
    """Towers seen through the loss that they were trained by (`Loss.finds`)."""

    def __init__(self, base: Backbone, spec: str | None = None):
        super().__init__(base, base.finder.found_dim, weights_digest(weights_of_loss(base.finder)))
        self.spec, self.has_text = spec or base.spec, base.has_text and base.finder.compares

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """(B, 3, H, W) -> (B, D) unit, whether that is asked for or not."""
        with in_eval_mode(self.base.finder):
            return self.base.finder.embed_image(self.base, pixels.to(self.device))

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Texts or (N, L) tokens -> (N, D) unit, whether that is asked for or not."""
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        with in_eval_mode(self.base.finder):
            return self.base.finder.embed_text(self.base, tokens.to(self.device))


def loss_in_words(loss: Loss) -> str:
    """How a loss is built again, as JSON."""
    options = {option.name: getattr(loss, option.name) for option in options_of(type(loss))}
    return json.dumps({"loss": loss.name, "options": options, "dims": loss.dims})


def saved_part(loss: Loss) -> Loss:
    """What of a loss that `answers` or `finds` is saved, of its own tensors."""
    if not loss.saved_with:
        return loss
    options = {option.name: getattr(loss, option.name) for option in options_of(type(loss))}
    with torch.device("meta"):
        part = build_loss(loss.name, loss.dims, **{**options, **loss.saved_with})
    whole = loss.state_dict()
    part.load_state_dict({name: whole[name] for name in part.state_dict()}, assign=True)
    return part.requires_grad_(False).eval()


def weights_of_loss(loss: Loss) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU and its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in loss.state_dict().items()}


@dataclass(frozen=True)
class KeptLoss:
    """A loss as a file keeps it.

    Args:
        words: how it is built again, as of `loss_in_words`.
        weights: name -> tensor, as of `weights_of_loss`.
    """

    words: str
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, loss: Loss) -> KeptLoss:
        return cls(loss_in_words(loss), weights_of_loss(loss))

    def built(self, device: torch.device, place: str, claim: str) -> Loss:
        """The loss itself.

        Args:
            place: the file, for messages.
            claim: "finds" or "answers", which it must do.

        Raises:
            DataError: words and weights do not belong together, or name a loss that does not do that.
        """
        try:
            stored = json.loads(self.words)
            if any(isinstance(value, str) and value.lower().endswith(OF_FILES) for value in stored["options"].values()):
                raise ValueError("an option names a file")
            with torch.device("meta"):  # nothing is allocated that the file does not hold
                loss = build_loss(stored["loss"], stored["dims"], **stored["options"])
            if not getattr(loss, claim):
                raise ValueError(f"loss '{stored['loss']}' {claim} nothing")
            loss.load_state_dict(dict(self.weights), assign=True)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, VladaptError) as error:
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise DataError(f"{place}: {KEPT[claim]} is damaged ({reason}); fit again") from error
        return loss.to(device).requires_grad_(False).eval()


def kept_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Those of the losses that are kept beside a backbone, under the names that they have in files and checkpoints."""
    losses = {} if backbone.finder is None else {FINDER: backbone.finder}
    losses |= {f"{ANSWERS}{name}.": loss for name, loss in backbone.answers.items()}
    return {start + name: value for start, loss in losses.items() for name, value in loss.state_dict().items()}


def take_kept(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Put back what `kept_tensors` gave; it is taken out of the state."""
    for name, tensor in kept_tensors(backbone).items():
        tensor.copy_(state.pop(name))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hex digits that tell of tensors on the CPU and their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
