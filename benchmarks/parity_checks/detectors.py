"""Open-vocabulary detectors: OWL-ViT from its checkpoint, and its matching."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import vladapt.domains.open_vocab  # noqa: F401 (the operators, before modules of mmdet ask for them)
from vladapt.domains.open_vocab.modules.detectors.owlvit.heads import ClassHead, PatchMLP, box_bias
from vladapt.domains.open_vocab.modules.detectors.owlvit.tower import PatchTower, published_heads
from vladapt.domains.open_vocab.modules.losses.matching import BoxTargets, MatchingLoss

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "owlvit": "a query of only padding is never made (its text embedding is left out here; the test of it is in "
    "`tests/domains/open_vocab`); training clips the gradient of a step, where the published code clips that of each "
    "image",
    "detection matching": "the defaults are OWL-ViT's (weights 1, alpha 0.3, each image normalised by itself, L1 of "
    "corners in the loss); the fixture is Deformable DETR's, reproduced with options",
    "reco": "no fixture: checked against the published procedure as explicit loops; an image is looked up in its own "
    "columns of the adjacency, where the released code's window grows (as with `released_windows=True`)",
    "alpha-clip": "no fixture: checked against the features of the tower without an alpha channel, which an untrained "
    "Alpha-CLIP must equal, and by the names and shapes of released weights, which are loaded unchanged",
    "cloc": "no fixture and no public code: checked against the sum of its terms, computed directly, and by what it "
    "learns on drawn regions",
    "glip": "no fixture: GLIP and Grounding DINO are mmdet's own code with its own weights; our part, names as "
    "phrases of the caption, is checked against mmdet's own detectors",
}


@compares("owlvit", "owlvit")
@torch.no_grad()
def owlvit(ref: Reference, f: Fixtures) -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as folder:
        tower = PatchTower(f"hf:{write_checkpoint(ref, Path(folder))}").eval()
        heads = published_heads(tower.backbone)
        norm, boxes = nn.LayerNorm(tower.width), PatchMLP(tower.width, 4)
        classes = ClassHead(tower.width, tower.backbone.embed_dim, masked_logit=None)
        for name, head in (("layer_norm", norm), ("box_head", boxes), ("class_head", classes)):
            head.load_state_dict(heads[name])
        patches, grid = tower(ref["pixel_values"], norm)
        texts = tower.backbone.encode_text(ref["input_ids"]).view_as(ref["text_embeds"])
    asked = ref["input_ids"].view(*texts.shape[:2], -1)[..., 0] > 0  # (B, Q)
    embeddings = classes.embed(patches)
    yield ref.check(patches, "image_embeds")
    yield ref.check(texts, "text_embeds", where=asked[..., None].expand_as(texts))
    yield ref.check(embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-6), "class_embeds")
    yield ref.check(classes(patches, texts, asked), "logits")
    yield ref.check((boxes(patches) + box_bias(grid)).sigmoid(), "pred_boxes")
    yield ref.check(box_bias(grid), "box_bias")


@compares("detection matching", "detection_matching")
def detection_matching(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss = detr_loss(ref)
    out, sizes = ref.leaves({"logits": "logits", "boxes": "boxes"}), ref["targets_per_image"].tolist()
    true = zip(ref["target_boxes"].split(sizes), ref["target_labels"].split(sizes))
    targets = [BoxTargets.of(boxes, labels, out["logits"].shape[-1]) for boxes, labels in true]
    pairs = loss.match(out["logits"], out["boxes"], targets)
    for key, column in (("matched_query", 0), ("matched_target", 1)):
        yield ref.check(torch.cat([pair[column] for pair in pairs]), key)
    only_iou = MatchingLoss(0.0, 0.0, 1.0)
    yield ref.check(-only_iou.cost(out["logits"][0], out["boxes"][0], targets[0]), "giou_matrix_image0")
    parts = loss.parts(out["logits"], out["boxes"], targets)
    for key, part in (("loss_ce", "loss_class"), ("loss_bbox", "loss_bbox"), ("loss_giou", "loss_giou")):
        yield ref.check(parts[part], key)
    total = sum(loss(out["logits"], out["boxes"], targets).values())
    yield ref.check(total, "total")
    total.backward()
    yield from ref.check_gradients(out, {"logits": "logits", "boxes": "boxes"})


def detr_loss(ref: Reference) -> MatchingLoss:
    """Ours, as the fixture weighs it."""
    return MatchingLoss(
        *(ref.setting(f"{part}_cost") for part in ("class", "bbox", "giou")),
        *(ref.setting(f"weights.{part}") for part in ("ce", "bbox", "giou")),
        alpha=ref.setting("focal_alpha"),
        gamma=ref.setting("focal_gamma"),
        normalisation="global",
        l1_format="cxcywh",
    )


def write_checkpoint(ref: Reference, folder: Path) -> Path:
    """The fixture's weights, as `save_pretrained` writes them; without a tokenizer."""
    (folder / "config.json").write_text(json.dumps(ref.setting("config")))
    weights = {name[2:]: value for name, value in ref.tensors.items() if name.startswith("w.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


GROUPS = (owlvit, detection_matching)
