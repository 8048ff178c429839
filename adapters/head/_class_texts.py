"""What stands for the classes in text: the classifier's prompts, or those of the names the classes most often go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import TextClassifier
from ...core.errors import CapabilityError, DataError
from ...core.prompts import build_classifier

NAMED = 8  # classes in a note; of more only the number


@dataclass(frozen=True)
class ClassTexts:
    """Text features of C classes.

    Args:
        zero_shot: (C, D) unit weights.
        prompts: (P, D) unit rows, one per prompt.
        classes: (P,) int64, whose prompt each is.
        ranking: (C, D) mean over a class's names of the unit weights each name makes; a cosine with it is a mean of
            cosines.
    """

    zero_shot: Tensor
    prompts: Tensor
    classes: Tensor
    ranking: Tensor


def checked_synonyms(synonyms, classifier: TextClassifier, backbone):
    """The synonyms, or None where there are none.

    Raises:
        CapabilityError: there is no text tower to encode them.
        DataError: they are not of the classifier's classes.
    """
    if synonyms is None:
        return None
    if backbone is None:
        raise CapabilityError(
            "adapter 'real-linear' encodes synonyms with the text tower, which a features file does not have; give "
            "--data and --backbone, or omit the synonyms"
        )
    if len(synonyms) != len(classifier) or not all(synonyms):
        empty = sum(not names for names in synonyms)
        raise DataError(
            f"synonyms: {len(synonyms)} lists for {len(classifier)} classes, {empty} of them empty; give each class at "
            "least one name"
        )
    return synonyms


def classifier_texts(classifier: TextClassifier) -> ClassTexts:
    """The classifier's own texts."""
    return ClassTexts(classifier.weights, *_together(classifier.prototypes), classifier.weights)


def texts_of_synonyms(synonyms, backbone, templates: Sequence[str] | None, device) -> ClassTexts:
    """Every synonym's prompts, encoded once; the most frequent ones make the zero-shot weights and the prompts.

    Args:
        synonyms: C tuples of (name, count).
        templates: texts with `{}`; "a photo of a {}." where there are none.
    """
    names = [name for names in synonyms for name, _ in names]
    everything = build_classifier(backbone, names, templates or ("a photo of a {}.",)).to(device)
    sizes = [len(names) for names in synonyms]
    frequent = [sum(sizes[:i]) + _most_frequent(names) for i, names in enumerate(synonyms)]
    spoken = everything.select(frequent)
    ranking = torch.stack([rows.mean(dim=0) for rows in everything.weights.split(sizes)])  # (C, D)
    return ClassTexts(spoken.weights, *_together(spoken.prototypes), ranking)


def spoken_of(synonyms) -> str:
    """By which names the classes go, in words."""
    names = [names[_most_frequent(names)][0] for names in synonyms]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"classes are called: {', '.join(names[:NAMED])}{more}"


def _most_frequent(names) -> int:
    return max(range(len(names)), key=lambda i: names[i][1])


def _together(prototypes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(P, D) prompts of all classes, and (P,) whose they are."""
    sizes = torch.tensor([len(rows) for rows in prototypes], device=prototypes[0].device)
    prompts = F.normalize(torch.cat(tuple(prototypes)).float(), dim=-1)
    return prompts, torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
