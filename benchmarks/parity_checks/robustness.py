"""Images that are corrupted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from vladapt.core.contracts.corruption import SEVERITIES
from vladapt.core.robustness.imagenet_c import corruptions

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

SPREAD = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "speckle_noise"), 0.005),
    "glass_blur": 0.011,
    "elastic_transform": 0.015,
    "motion_blur": 0.041,
    "impulse_noise": 0.045,
    "snow": 0.059,
    "fog": 0.087,
}
"""Of the mean of as many draws as the fixture has, as its notes give it; frost and spatter have none to compare by."""
ALLOWED = 3
"""Such spreads."""


@compares("corruptions", "corruptions")
def corrupted_images(ref: Reference, f: Fixtures) -> Iterator[Check]:
    kinds = {kind.name.replace(" ", "_"): kind.change for kind in corruptions(further=True)}
    image = ref["image"].numpy()
    for name in ref.setting("deterministic"):
        for severity in ref.setting("severities"):
            made = kinds[name](image, int(severity), 0)
            yield ref.check(np.array(made), f"{name}.{severity}", f"{name.replace('_', ' ')}, severity {severity}")
    image, changes = ref["image_random"].numpy(), ref["random.change"]
    for number, name in enumerate(ref.setting("random")):
        if name not in SPREAD:
            continue
        draws = [
            [
                kinds[name](image, severity, seed) - image.astype(float)
                for seed in range(int(ref.setting("random_seeds")))
            ]
            for severity in SEVERITIES
        ]
        ours = torch.from_numpy(np.array(draws)).abs().mean(dim=(1, 2, 3, 4))  # (5,)
        errors = (ours - changes[number, :, 0]).abs()
        share = (errors / (ALLOWED * SPREAD[name] * changes[number, :, 0])).max()
        yield Check(ref.method, ref.name, f"{name.replace('_', ' ')}, mean change", float(errors.max()), float(share))


GROUPS = (corrupted_images,)
DEVIATIONS = {
    "corruptions": "what is random is compared by the mean change of as many draws as the fixture has, within three of "
    "the spreads that it gives, not draw by draw; the published set was saved as JPEG, images that are corrupted here "
    "are not"
}
