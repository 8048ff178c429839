"""Passes through a tower that give more than one output, or give it of pixels that were made for another tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.images import height_and_width
from ..contracts.outputs import MASKED_SHARE
from ..errors import CapabilityError
from ..losses._draws import Draws

WHOLE = frozenset({"image_features", "image_embedding"})
"""What any image tower gives of an image as a whole."""


def image_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, D) unit. Of clips (B, T, 3, S, S) the frames' features are averaged, as the store does, where
    the tower does not see them together (`Backbone.joint`)."""
    return backbone.encode_image(pixels) if pixels.ndim == 4 else F.normalize(_embedding(backbone, pixels), dim=-1)


def _embedding(backbone: Backbone, pixels: Tensor) -> Tensor:
    """The same, not brought to length 1."""
    if pixels.ndim == 4 or backbone.joint is not None:
        return backbone.encode_image(pixels, normalize=False)
    frames = backbone.encode_image(pixels.flatten(0, 1), normalize=False)  # (B * T, D)
    return frames.unflatten(0, pixels.shape[:2]).mean(dim=1)


def image_outputs(backbone: Backbone, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
    """As of `Backbone.image_outputs`; of clips (B, T, 3, S, S) too, where only the whole is asked for."""
    if names == {"image_features"}:
        return {"image_features": image_features(backbone, pixels)}
    if names <= WHOLE:
        embedding = _embedding(backbone, pixels)
        made = {"image_embedding": embedding, "image_features": F.normalize(embedding, dim=-1)}
        return {name: made[name] for name in sorted(names)}
    if pixels.ndim == 5:
        lacking = ", ".join(sorted(names - WHOLE))
        raise CapabilityError(f"a loss needs {lacking}, which clips of several frames do not have; use clip")
    return backbone.image_outputs(pixels, names)


def seen_by(teacher: Backbone, student: Backbone, pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) made for the student as the teacher wants them: its mean, its deviation, its size.

    Raises:
        CapabilityError: as `check_seen`.
    """
    if student.in_rows:
        check_seen(teacher, student)
        return pixels
    same = (teacher.image_mean, teacher.image_std) == (student.image_mean, student.image_std)
    if not same:

        def channels(values):
            return pixels.new_tensor(values)[:, None, None]

        plain = pixels * channels(student.image_std) + channels(student.image_mean)
        pixels = (plain - channels(teacher.image_mean)) / channels(teacher.image_std)
    size = height_and_width(teacher.image_size)
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    resized = F.interpolate(pixels.flatten(0, -4), size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.unflatten(0, pixels.shape[:-3])


def check_seen(teacher: Backbone, student: Backbone) -> None:
    """Raise the CapabilityError of a teacher that cannot take the rows of patches that its student's images become."""
    if student.in_rows and teacher.preprocess().spec != student.preprocess().spec:
        raise CapabilityError(
            f"teacher '{teacher.spec}' cannot take the images of '{student.spec}', which keep their aspect ratio; omit "
            "#patches, or give the teacher's features (--set teacher_features=FOLDER)"
        )


# As in BERT, of the words that are asked for 80 % are hidden, 10 % are another word, 10 % stay. CLIP's vocabulary has
# no word for "hidden"; a learnt embedding stands for it.
HIDDEN, REPLACED = 0.8, 0.1
IGNORED = -100


class MaskedWords(nn.Module):
    """Masked captions through the text tower. What is hidden of a sample is a function of the sample's own draws."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self._held = [backbone]
        width = backbone.embed_tokens(backbone.tokenize(["a"])).shape[-1]
        self.hidden = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, tokens: Tensor, draws: Tensor, backbone: Backbone | None = None) -> dict[str, Tensor]:
        """Tokens (B, L) and draws (B, 4, K) in 0..1 -> "masked_tokens" (B, L, W) and "masked_labels" (B, L), -100 where
        nothing is asked; of another backbone of the same width, if given."""
        backbone = backbone or self._held[0]
        chosen, fate, other = (Draws.of_places(draws, row, tokens.shape[1]) for row in range(3))
        asked = backbone.word_mask(tokens) & (chosen < MASKED_SHARE)
        others = (other * backbone.vocab_size).long()
        shown = torch.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, tokens)
        embeddings = backbone.embed_tokens(shown)
        embeddings = torch.where((asked & (fate < HIDDEN))[..., None], self.hidden.to(embeddings.dtype), embeddings)
        labels = torch.where(asked, tokens, IGNORED)
        return {"masked_tokens": backbone.text_tokens(tokens, embeddings), "masked_labels": labels}
