"""The fields of a training batch: which output needs which, and which the data must be able to give."""

from __future__ import annotations

from collections.abc import Iterable

from ..contracts.errors import CapabilityError
from ..contracts.loss import in_words
from ..contracts.outputs import OUTPUTS, SHARED
from .sources import Source

FIELDS: dict[str, tuple[str, ...]] = {
    "image_features": ("pixels",),
    "image_hidden": ("pixels",),
    "image_tokens": ("pixels",),
    "image_log_variance": ("pixels",),
    "image_masked": ("pixels", "lots"),
    "image_masked_log_variance": ("pixels", "lots"),
    "text_features": ("tokens",),
    "text_tokens": ("tokens",),
    "text_mask": ("tokens",),
    "text_log_variance": ("tokens",),
    "text_masked": ("tokens", "lots"),
    "text_masked_log_variance": ("tokens", "lots"),
    "image_view2": ("pixels_view2",),
    "text_view2": ("tokens_view2",),
    "hidden_view1": ("pixels_strong1",),
    "hidden_view2": ("pixels_strong2",),
    "hidden_local": ("pixels_local",),
    "masked_tokens": ("tokens", "lots"),
    "masked_labels": ("tokens", "lots"),
    "text_positives": ("tokens_positives",),
    "text_short": ("tokens_short",),
    "text_synthetic": ("tokens_synthetic",),
    "text_negative": ("tokens_negative",),
    "image_negative": ("pixels_negative",),
    "teacher.image": ("pixels",),
    "teacher.text": ("tokens",),
    "teacher.image_hidden": ("pixels",),
    "logits": ("pixels", "labels"),
    "labels": ("labels",),
    "index": ("index",),
    "image_ids": ("image_ids",),
}
"""Output -> fields of the batch it is made from. What is missing here, no data set of this version has."""

TEXT_KINDS = {
    "tokens": "caption",
    "tokens_view2": "view2",
    "tokens_positives": "positives",
    "tokens_short": "short",
    "tokens_synthetic": "synthetic",
    "tokens_negative": "negative",
}
"""Field -> kind of text that the source is asked for."""

CURES = {
    "tokens": "captions, or one label an image",
    "tokens_view2": "captions, or one label an image",
    "tokens_synthetic": "a column 'synthetic', or rewrites",
    "tokens_negative": "a column 'negative'",
    "tokens_positives": "long captions or several an image",
    "tokens_short": "a column 'short'",
    "pixels_negative": "a column 'negative_image'",
    "labels": "a column 'label'",
}


def fields_of(needs: Iterable[str], source: Source, asking: str) -> frozenset[str]:
    """The fields that make these outputs.

    Args:
        needs: names of outputs.
        source: the data.
        asking: who needs them, for the message ("loss 'alip'").

    Raises:
        CapabilityError: no data can give one of them, or this data cannot.
    """
    wanted: set[str] = set()
    for need in sorted(set(needs) - SHARED):
        if need not in FIELDS:
            raise CapabilityError(
                f"{asking} needs {in_words(need)}, which no pairs or class folders hold; "
                + ("a domain's own trainer gives it" if need in OUTPUTS else "no part of this version gives it")
            )
        for field in FIELDS[need]:
            _check(field, source, need, asking)
            wanted.add(field)
    return frozenset(wanted)


def _check(field: str, source: Source, need: str, asking: str) -> None:
    kind = TEXT_KINDS.get(field)
    there = (
        kind in source.texts
        if kind
        else source.labelled
        if field == "labels"
        else "negative_image" in source.texts
        if field == "pixels_negative"
        else True
    )
    if not there:
        raise CapabilityError(f"{asking} needs {in_words(need)}; the data has none, give {CURES[field]}")
