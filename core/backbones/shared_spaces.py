"""Spaces that two towers share which were not trained together: what makes comparable vectors of either's features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from .embedded import Alignment
from .tower_maps import TowerMap


class SharedSpace(nn.Module):
    """Base of the spaces of joined towers.

    Class attributes:
        kind: by which a file names it.
    """

    kind: ClassVar[str]
    dim: int

    @property
    def keeps_images(self) -> bool:
        """Whether image features are in it as the tower gives them, up to their length."""
        return False

    @abstractmethod
    def image(self, features: Tensor) -> Tensor:
        """(..., S) image features as the tower gives them -> (..., D)."""

    @abstractmethod
    def text(self, features: Tensor) -> Tensor:
        """(N, T) text features as the tower gives them -> (N, D)."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What builds it again beside its tensors, JSON-able."""


class LinearSpace(SharedSpace):
    """A linear layer for either side: (x P + b) and (t Q + c), compared by cosine.

    Made of a `TowerMap`, P and b have the standardisation of images and the map in them, Q and c that of texts.

    Args:
        image_width, text_width: S and T, of the towers' features.
        dim: D, of the space.
        bias: whether the layers add one; CLIP-Italian's projections do not.
        unit: whether features are brought to unit length first; CLIP-Italian's are not.
    """

    kind = "linear"

    def __init__(self, image_width: int, text_width: int, dim: int, bias: bool = True, unit: bool = True):
        super().__init__()
        self.dim, self.bias, self.unit = dim, bias, unit
        self.of_image, self.of_text = nn.Linear(image_width, dim, bias=bias), nn.Linear(text_width, dim, bias=bias)

    @classmethod
    def of(cls, fitted: TowerMap) -> LinearSpace:
        """The space of a closed form: that of the text tower."""
        source, target = fitted.matrix.shape
        space = cls(source, target, target)
        with torch.no_grad():
            scaled = fitted.matrix / fitted.source.std[:, None]
            space.of_image.weight.copy_(scaled.T)
            space.of_image.bias.copy_(-(fitted.source.mean @ scaled))
            space.of_text.weight.copy_(torch.diag(1 / fitted.target.std))
            space.of_text.bias.copy_(-fitted.target.mean / fitted.target.std)
        return space

    @classmethod
    def of_texts(cls, fitted: TowerMap) -> LinearSpace:
        """The space of the target, in which images are as they are: the map brings texts of another tower into it."""
        source, target = fitted.matrix.shape
        space = cls(target, source, target)
        with torch.no_grad():
            scaled = fitted.matrix / fitted.source.std[:, None] * fitted.target.std
            space.of_text.weight.copy_(scaled.T)
            space.of_text.bias.copy_(fitted.target.mean - fitted.source.mean @ scaled)
            space.of_image.weight.copy_(torch.eye(target))
            space.of_image.bias.zero_()
        return space

    @property
    def keeps_images(self) -> bool:
        weight = self.of_image.weight
        same = weight.shape[0] == weight.shape[1] and bool((weight == torch.eye(len(weight)).to(weight)).all())
        return same and (not self.bias or not self.of_image.bias.any())

    def image(self, features: Tensor) -> Tensor:
        return self.of_image(F.normalize(features, dim=-1) if self.unit else features)

    def text(self, features: Tensor) -> Tensor:
        return self.of_text(F.normalize(features, dim=-1) if self.unit else features)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "image_width": self.of_image.in_features,
            "text_width": self.of_text.in_features,
            "dim": self.dim,
            "bias": self.bias,
            **({} if self.unit else {"unit": False}),
        }


class TextHead(SharedSpace):
    """The image tower's own space: images are in it as they are, texts by a linear layer on what their tower gives, as
    in M-CLIP and LiT.

    Args:
        image_width, text_width: S and T, of the towers' features.
    """

    kind = "text-head"
    keeps_images = True

    def __init__(self, image_width: int, text_width: int):
        super().__init__()
        self.dim, self.of_text = image_width, nn.Linear(text_width, image_width)

    def image(self, features: Tensor) -> Tensor:
        return features

    def text(self, features: Tensor) -> Tensor:
        return self.of_text(features)

    @property
    def settings(self) -> dict[str, Any]:
        return {"image_width": self.dim, "text_width": self.of_text.in_features}


class LexicalSpace(SharedSpace):
    """The alignment of an image tower that tells classes apart by itself, by a classifier or by texts of its own.

    Args:
        alignment: of its classes.
        classifier: (..., S) image features -> (..., C) logits of the classes.
        phi: of the alignment.
        unit: whether features are brought to unit length before they are classified.
    """

    kind = "lexical"

    def __init__(self, alignment: Alignment, classifier: nn.Linear, phi: float, unit: bool):
        super().__init__()
        self.alignment, self.classifier, self.phi, self.unit = alignment, classifier, phi, unit
        self.dim = sum(alignment.rotation.shape)

    def image(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # the ten best names hang on small differences
            features = features.float()
            classified = self.classifier(F.normalize(features, dim=-1) if self.unit else features)
            return self.alignment.image(features, classified)

    def text(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.alignment.text(features.float())

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "classes": len(self.alignment.names),
            "image_width": self.classifier.in_features,
            "text_width": len(self.alignment.centre),
            "phi": self.phi,
            "temperature": self.alignment.temperature,
            "unit": self.unit,
        }


def built_space(kind: str, settings: Mapping[str, Any]) -> SharedSpace:
    """A space without its weights.

    Raises:
        DataError: no such kind, or settings that are not its own.
    """
    try:
        if kind == LinearSpace.kind:
            return LinearSpace(**settings)
        if kind == TextHead.kind:
            return TextHead(**settings)
        if kind == LexicalSpace.kind:
            return _empty_lexical(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"joined towers: the settings of their space are damaged ({error}); join them again") from error
    raise DataError(f"joined towers: no space of the kind '{kind}'; join them again")


def _empty_lexical(
    classes: int, image_width: int, text_width: int, phi: float, temperature: float, unit: bool
) -> LexicalSpace:
    rotation, names = torch.zeros(image_width, text_width), torch.zeros(classes, text_width)
    alignment = Alignment(rotation, names, torch.zeros(text_width), phi, temperature)
    return LexicalSpace(alignment, nn.Linear(image_width, classes), phi, unit)


class SideBySide(SharedSpace):
    """No shared space yet: image features stand before zeros, text features behind them, each of unit length.

    Args:
        image_width, text_width: S and T.
    """

    kind = "side-by-side"

    def __init__(self, image_width: int, text_width: int):
        super().__init__()
        self.image_width, self.text_width = image_width, text_width
        self.dim = image_width + text_width

    def image(self, features: Tensor) -> Tensor:
        return F.pad(F.normalize(features, dim=-1), (0, self.text_width))

    def text(self, features: Tensor) -> Tensor:
        return F.pad(F.normalize(features, dim=-1), (self.image_width, 0))

    @property
    def settings(self) -> dict[str, Any]:
        return {"image_width": self.image_width, "text_width": self.text_width}
