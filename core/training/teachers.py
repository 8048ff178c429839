"""Frozen teachers of a training: loaded, checked against the towers that are trained, asked for features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..errors import CapabilityError
from ..losses._texts import encode_without_waiting
from ..registry.build import loss_class
from .fields import TRANSLATED
from .stored_teachers import stored_field
from .tower_passes import image_features, seen_by

OF_CAPTIONS = {"teacher.text": "tokens", "teacher.text_synthetic": "tokens_synthetic"}
"""Output -> field of the batch that holds the caption in the student's tokens."""
OF_TEACHERS = {**OF_CAPTIONS, "teacher.text_embedding": "tokens", "teacher.sentence": TRANSLATED}
"""The same with what a loss makes itself of the teacher's tokens, and with what no student reads."""
OF_TOKENS = frozenset({"teacher.word_logits", "teacher.word_states"})
"""What a teacher says of each of the student's tokens."""
PROBE = ["A photo of 2 small zebras, seen from above.", "overcast"]
"""Texts by which tokenizers are told apart."""
OF_TEXTS = frozenset({*OF_TEACHERS, "teacher.class_features"})


def load_teachers(specs: Sequence[str], student: Backbone) -> list[Backbone]:
    """The towers that specs name, on the device of the student.

    Raises:
        CapabilityError: one takes images of other channels. Others as `load_backbone`.
    """
    teachers = [load_backbone(spec, device=student.device) for spec in specs]
    for teacher in teachers:
        theirs, own = len(teacher.image_mean), len(student.image_mean)
        if theirs != own:
            raise CapabilityError(
                f"teacher '{teacher.spec}' takes images of {theirs} channels, and '{student.spec}' images of {own}; "
                "give a teacher for the same images"
            )
    return teachers


def widths_of(teachers: Sequence[Backbone]) -> dict[str, int]:
    """The `dims` of losses that tell how wide the features of teachers are, which stand side by side."""
    widths = {"teacher_dim": sum(teacher.embed_dim for teacher in teachers)}
    if len(teachers) > 1:
        widths |= {f"teacher_dim_{number}": each.embed_dim for number, each in enumerate(teachers, start=1)}
    return widths


def need_teacher_texts(teachers: Sequence[Backbone], needs: frozenset[str], asking: str) -> None:
    """Raise the CapabilityError of a teacher without a text tower, where a loss asks for its texts."""
    for teacher in teachers:
        if needs & OF_TEXTS and not teacher.has_text:
            raise CapabilityError(
                f"{asking} needs the texts of its teacher, and '{teacher.spec}' has no text tower; give a teacher that "
                "has one"
            )


def need_same_words(teachers: Sequence[Backbone], student: Backbone, needs: frozenset[str], asking: str) -> None:
    """Raise the CapabilityError of a teacher that would read the student's tokens as other words, or whose hidden
    states have another width where these are compared."""
    if not needs & OF_TOKENS:
        return
    for teacher in teachers:
        own, theirs = student.tokenize(PROBE), teacher.tokenize(PROBE)
        if student.vocab_size != teacher.vocab_size or not torch.equal(own, theirs):
            raise CapabilityError(
                f"{asking} gives its teacher the student's tokens, and '{teacher.spec}' reads other words than "
                f"'{student.spec}'; give a teacher with the same tokenizer"
            )
        width, taught = (tower.embed_tokens(tower.tokenize(PROBE)).shape[-1] for tower in (student, teacher))
        if "teacher.word_states" in needs and width != taught:
            raise CapabilityError(
                f"{asking} compares hidden states of width {width} with a teacher's of {taught}; give a teacher as "
                "wide, or --set loss.distilbert.cos=0"
            )


def token_field(place: int, field: str = "tokens") -> str:
    """Where a batch has the captions of a field as the teacher in this place reads them."""
    return f"teacher_{field}_{place}"


def teacher_images(teachers: Sequence[Backbone], student: Backbone, batch: Mapping[str, Any]) -> Tensor:
    """Pixels made for the student, of images (B, 3, H, W) or clips (B, T, 3, H, W) -> (B, D) unit; features that are
    stored are taken as they are."""
    made = []
    for place, each in enumerate(teachers):
        stored = batch.get(stored_field(place))
        made.append(image_features(each, seen_by(each, student, batch["pixels"])) if stored is None else stored)
    return side_by_side(made)


def teacher_texts(teachers: Sequence[Backbone], batch: Mapping[str, Any], field: str = "tokens") -> Tensor:
    """Captions -> (B, D) unit. A mean of the student over time reads the student's tokens."""
    tokens = [batch.get(token_field(place, field), batch[field]) for place in range(len(teachers))]
    return side_by_side([teacher.encode_text(each) for teacher, each in zip(teachers, tokens)])


def teacher_sentences(teachers: Sequence[Backbone], batch: Mapping[str, Any]) -> Tensor:
    """What texts translate -> (B, D), not normalised."""
    if len(teachers) > 1:
        raise CapabilityError("--teacher: features that are not normalised are learned from one teacher; give one")
    return encode_without_waiting(teachers[0], batch[token_field(0, TRANSLATED)], normalize=False)


def own_texts(backbone: Backbone, losses: Iterable[str]) -> list[Backbone]:
    """The teacher of losses on sentences, where towers were joined and none is given: the image tower's own texts."""
    asked = any("teacher.sentence" in loss_class(name).needs for name in losses)
    made = backbone.own_texts() if asked else None
    return [] if made is None else [made]


def side_by_side(features: Sequence[Tensor]) -> Tensor:
    """(N, D_k) unit features of K teachers -> (N, sum of D_k) unit: products of such rows are the mean over teachers of
    their cosines."""
    if len(features) == 1:
        return features[0]
    return torch.cat([each / len(features) ** 0.5 for each in features], dim=-1)
