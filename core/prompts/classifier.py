"""From class names and templates to a text classifier: every distinct text is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.text import TextClassifier
from ..errors import ConfigError, DataError
from .placeholders import check_templates, ensemble, fill

CHUNK = 256
"""Texts encoded at once."""


def build_classifier(
    backbone: Backbone,
    class_names: Sequence[str],
    templates: Iterable[str],
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    negative_templates: Iterable[str] | None = None,
    store=None,
) -> TextClassifier:
    """The zero-shot classifier of some classes.

    A class's texts are its filled templates followed by its descriptions; each text feature is made unit, their mean
    is `raw`, the mean made unit is the weight. The mean of the features as they are is `unnormalized`.

    Args:
        backbone: encodes the texts.
        class_names: C names; underscores are read as spaces.
        templates: texts with `{}`; may be empty where there are descriptions.
        descriptions: class name -> sentences (`read_descriptions`).
        negative_templates: texts with `{}` that say the class is absent, for sets with several labels an image.
        store: a `FeatureStore`; text features and the logit scale are then taken from it, or added to it.

    Raises:
        ConfigError: no template and no description, or a template without `{}`.
        DataError: no class, or a class without a description where others have one.
    """
    if not class_names:
        raise DataError("there are no class names to make a text classifier of")
    texts = _texts(class_names, check_templates(templates), descriptions)
    negatives = _texts(class_names, check_templates(negative_templates), None) if negative_templates else None
    encoded = _encode_distinct(backbone, [t for group in [*texts, *(negatives or [])] for t in group], store)
    prototypes = tuple(F.normalize(_rows(encoded, group), dim=-1) for group in texts)
    raw = torch.stack([ensemble(p) for p in prototypes])  # (C, D)
    facts = _facts(backbone, store)
    return TextClassifier(
        weights=F.normalize(raw, dim=-1),
        raw=raw,
        prototypes=prototypes,
        texts=tuple(tuple(group) for group in texts),
        class_names=tuple(class_names),
        logit_scale=facts["logit_scale"],
        logit_bias=facts["logit_bias"],
        negative=None if negatives is None else _weights(encoded, negatives),
        unnormalized=torch.stack([_rows(encoded, group).mean(dim=0) for group in texts]),
    )


def _texts(class_names, templates, descriptions) -> list[list[str]]:
    """C lists of texts."""
    if not templates and not descriptions:
        raise ConfigError("option templates=[] leaves nothing to say of a class; give a template or descriptions")
    texts = []
    for name in class_names:
        if descriptions is not None and not descriptions.get(name):
            raise DataError(f"descriptions: class '{name}' has none; add at least one sentence")
        texts.append(fill(templates, name) + list(descriptions[name] if descriptions else ()))
    return texts


def _encode_distinct(backbone: Backbone, texts: Sequence[str], store) -> dict[str, Tensor]:
    """Text -> (D,) feature."""
    distinct = list(dict.fromkeys(texts))
    if store is not None:
        features = store.text_features(backbone, distinct).to(backbone.device)
    else:
        chunks = [distinct[i : i + CHUNK] for i in range(0, len(distinct), CHUNK)]
        with torch.no_grad():
            features = torch.cat([backbone.encode_text(chunk, normalize=False) for chunk in chunks])
    return dict(zip(distinct, features.float()))


def _rows(encoded: dict[str, Tensor], texts: Sequence[str]) -> Tensor:
    return torch.stack([encoded[text] for text in texts])  # (T, D)


def _weights(encoded: dict[str, Tensor], texts: list[list[str]]) -> Tensor:
    return F.normalize(torch.stack([ensemble(_rows(encoded, group)) for group in texts]), dim=-1)  # (C, D)


def _facts(backbone: Backbone, store) -> dict[str, float | None]:
    if store is not None:
        return store.backbone_facts(backbone)
    bias = backbone.logit_bias
    return {"logit_scale": float(backbone.logit_scale), "logit_bias": None if bias is None else float(bias)}
