"""What images and texts are found by where a training's loss made more of them than the towers' own features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.options import options_of
from ..errors import DataError, VladaptError
from ..features.extract import in_eval_mode
from ..registry.build import build_loss

if TYPE_CHECKING:
    from ..contracts.loss import Loss

TAKEN_OVER = (
    *("spec", "image_size", "image_mean", "image_std", "context_length", "licence", "has_text", "notes", "channels"),
    *("device", "joint"),
)


def searched(backbone: Backbone) -> Backbone:
    """The backbone that images and texts are searched by: itself, or one that has what its finder makes of them."""
    return backbone if backbone.finder is None else FinderBackbone(backbone)


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

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.base.tokenize(texts)

    def token_mask(self, tokens: Tensor) -> Tensor:
        return self.base.token_mask(tokens)


class FinderBackbone(SeenTowers):
    """Towers seen through the loss that they were trained by (`Loss.finds`)."""

    def __init__(self, base: Backbone):
        super().__init__(base, base.finder.found_dim, digest_of(weights_of_finder(base.finder)))

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """(B, 3, H, W) -> (B, D) unit, whether that is asked for or not."""
        with in_eval_mode(self.base.finder):
            return self.base.finder.embed_image(self.base, pixels.to(self.device))

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Texts or (N, L) tokens -> (N, D) unit, whether that is asked for or not."""
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        with in_eval_mode(self.base.finder):
            return self.base.finder.embed_text(self.base, tokens.to(self.device))


def finder_in_words(finder: Loss) -> str:
    """How a finder is built again, as JSON."""
    options = {option.name: getattr(finder, option.name) for option in options_of(type(finder))}
    return json.dumps({"loss": finder.name, "options": options, "dims": finder.dims})


def weights_of_finder(finder: Loss) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU and its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in finder.state_dict().items()}


def built_finder(words: str, weights: Mapping[str, Tensor], device: torch.device, place: str) -> Loss:
    """The finder that `finder_in_words` told, with its weights.

    Args:
        place: the file, for messages.

    Raises:
        DataError: words and weights do not belong together, or name a loss that finds nothing.
    """
    try:
        told = json.loads(words)
        with torch.device("meta"):  # nothing is allocated that the file does not hold
            finder = build_loss(told["loss"], told["dims"], **told["options"])
        if not finder.finds:
            raise ValueError(f"loss '{told['loss']}' finds nothing")
        finder.load_state_dict(dict(weights), assign=True)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, VladaptError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise DataError(f"{place}: the embedding that it searches by is damaged ({reason}); fit again") from error
    return finder.to(device).requires_grad_(False).eval()


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Hex digits that tell of tensors on the CPU and their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
