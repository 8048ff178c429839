"""Methods that look at parts of an image: WCA; GC-CLIP has no public code."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt.adapters.crops.wca import weighted_mean

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("wca", "wca")
def wca(ref: Reference, f: Fixtures) -> Iterator[Check]:
    names = F.normalize(ref["label_text_raw"], dim=-1)
    said = F.normalize(ref["description_raw"], dim=-1).split(ref["descriptions_per_class"].tolist())
    for scale, key in ((ref.setting("text_scale"), "class_weights"), (0.0, "class_weights_uniform")):
        text = torch.stack([weighted_mean(rows, name, scale) for rows, name in zip(said, names, strict=True)])
        yield ref.check(text.T, key)
    images = weighted_mean(ref["crop_features"], ref["global_features"], ref.setting("image_scale"))
    yield ref.check(images, "image_embedding")
    yield ref.check(images @ ref["class_weights"], "logits")


GROUPS = (wca,)
