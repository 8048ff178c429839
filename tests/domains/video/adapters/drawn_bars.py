"""Clips of bars that move down or up, a small random CLIP of 32 pixels, and what methods in its tower make of them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vladapt import FeatureSet, Item, Label, build_adapter
from vladapt.core.contracts import TrainingImages
from vladapt.core.training.tower_passes import image_features
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video.adapters.open_vclip import windowed
from vladapt.domains.video.transforms import as_frames

FRAMES, SIDE = 3, 32
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 16, "heads": 2, "layers": 1},
}
IN_TOWER = ("x-clip", "stan", "vifi-clip", "open-vclip")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(item):
    """A bar that moves down (class 0) or up (class 1), on noise; (T, H, W, 3)."""
    index, label = item.decode["index"], item.decode["of"]
    frames = np.random.default_rng(index).integers(0, 60, (item.decode["frames"], 40, 40, 3)).astype(np.uint8)
    for number, frame in enumerate(frames):
        top = 12 * (number if label == 0 else len(frames) - 1 - number)
        frame[top : top + 8] = 220
    return frames


def clip_item(index, frames=FRAMES):
    return Item(f"clip-{index}", Path(__file__), {"index": index, "of": index % 2, "frames": frames}, Label(index % 2))


@dataclass(frozen=True)
class Problem:
    backbone: object
    classifier: object
    images: TrainingImages

    def fit(self, name, **options):
        images = self.images
        adapter = build_adapter(name, **{"epochs": 1, "batch_size": 4, "lr": 1e-3, **options})
        features = torch.stack([image_features(self.backbone, clip[None])[0] for clip in self.clips(images.items)])
        labels = torch.tensor([item.class_label() for item in images.items])
        support = FeatureSet(features, labels, self.classifier.class_names, backbone=self.backbone.fingerprint)
        given = {"backbone": self.backbone, "resources": {"images": images}, "seed": 1}
        adapter.report = adapter.fit(support, self.classifier, **given)
        return adapter

    def clips(self, items):
        return torch.stack([as_frames(self.images.eval_transform(self.images.load(item)), FRAMES) for item in items])


def seeing(backbone, joint):
    """A copy of the backbone with a copy of what sees frames together."""
    towers = copy_of(backbone)
    if joint is not None:
        deepcopy(joint).requires_grad_(False).attach(towers).eval()
    return towers


def seen_of_frames(towers, clips):
    """Unit features of the frames, before they are averaged."""

    def attention(index, block, x):
        return block.out(windowed(block.qkv(x), block.num_heads, FRAMES))

    x = towers.run_blocks("image", towers.embed_image(clips.flatten(0, 1)), attention=attention)
    return towers.pool_image(x)


def logits_of(name, towers, clips, problem):
    """Written out for each method."""
    texts, scale = problem.classifier.texts, towers.model.logit_scale.exp()
    if name == "x-clip":
        raw = torch.stack([towers.encode_text(some, normalize=False).mean(dim=0) for some in texts])
        return scale * towers.joint.cosines(towers, clips, raw.detach())
    if name == "open-vclip":
        unit = F.normalize(torch.stack([towers.encode_text(some).mean(dim=0) for some in texts]), dim=-1).detach()
        return scale * seen_of_frames(towers, clips).unflatten(0, (-1, FRAMES)).mean(dim=1) @ unit.T
    unit = F.normalize(torch.stack([towers.encode_text(some).mean(dim=0) for some in texts]), dim=-1)
    return scale * image_features(towers, clips) @ unit.T
