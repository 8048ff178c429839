"""How the constants of the embedded backbone were chosen: the map between its towers, phi, logit scale, batch size.

    python benchmarks/embedded_alignment.py --data ../shared/data

The map and the logit scale are judged on names held out of the fit, phi on four small public sets (parts of Clothing
Dataset, Grocery Store, WHU-RS19 and COCO val2017). Results on these sets are not independent of that choice.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import median_seconds
from torch import Tensor

from vladapt.core.backbones import embedded
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.coco import read_coco_crops
from vladapt.core.registry.build import build_adapter

SETS = {
    "clothing": ("general/clothing/images", read_class_folders),
    "grocery": ("general/grocery/images", read_class_folders),
    "whu_rs19": ("remote_sensing/whu_rs19/images", read_class_folders),
    "coco crops": ("detection_seg/coco_val128/instances_boxes.json", lambda path: read_coco_crops(path, min_side=48)),
}
SPOKEN = {"footballfield": "football field", "railwaystation": "railway station", "longsleeve": "long-sleeved shirt"}
PHIS = (0.0, 60.0, 75.0, 85.0, 87.0, 88.0, 89.0)
SCALES = (5, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100)
HELD_OUT = 200
PEAK = 13.0  # length given to a held-out head row, that of an image's features less their mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VLADAPT_DATA", "../shared/data")))
    parser.add_argument("--shots", default="1,4", help="comma-separated")
    parser.add_argument("--adapters", default="tip-adapter,ape,ape-t", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    backbone = load_backbone("embedded", device="cpu")
    print_maps(backbone)
    sets = [read_set(backbone, name, given.data / where, read) for name, (where, read) in SETS.items()]
    shots = [int(k) for k in given.shots.split(",")]
    for adapter in given.adapters.split(","):
        print_phi(backbone, sets, adapter, shots, given.seeds)
    print_speed(backbone)


@torch.no_grad()
def print_maps(backbone) -> None:
    """Top-1 among 200 names held out of the fit, their head rows standing for images; 10 splits."""
    head, names = _head_and_names(backbone)
    print(f"\nheld-out names, top-1 % among {HELD_OUT} (chance {100 / HELD_OUT}): texts as they are, texts centred")
    for method in MAPS:
        scores = [100 * _mean(_held_out_accuracy(method, head, names, seed, on) for seed in range(10)) for on in (0, 1)]
        print(f"  {method:22s} {scores[0]:5.1f} {scores[1]:5.1f}")
    losses = {s: _mean(_held_out_loss(s, head, names, seed) for seed in range(3)) for s in SCALES}
    print("cross-entropy of those by logit scale: " + ", ".join(f"{s}: {loss:.2f}" for s, loss in losses.items()))


def _head_and_names(backbone) -> tuple[torch.nn.Linear, Tensor]:
    names = embedded.embed_names(backbone.model.text, backbone.tokenize, embedded.class_names())
    return backbone.model.image.classifier, names


def _held_out_accuracy(method: str, head, names: Tensor, seed: int, centred: bool) -> float:
    cosines = _held_out_cosines(method, head, names, seed, centred)
    return (cosines.argmax(dim=1) == torch.arange(len(cosines))).float().mean().item()


def _held_out_loss(scale: float, head, names: Tensor, seed: int) -> float:
    cosines = _held_out_cosines("Procrustes + ConSE", head, names, seed, True)
    return F.cross_entropy(scale * cosines, torch.arange(len(cosines))).item()


def _held_out_cosines(method: str, head, names: Tensor, seed: int, centred: bool) -> Tensor:
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    out, known = order[:HELD_OUT], order[HELD_OUT:]
    centre = names[known].mean(dim=0) * centred
    target = F.normalize(names - centre, dim=-1)
    images = PEAK * F.normalize(head.weight[out], dim=-1)
    mapped = MAPS[method](images, head.weight[known], head.bias[known], target[known])
    return F.normalize(mapped, dim=-1) @ target[out].T


def _procrustes(x: Tensor, rows: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(F.normalize(rows, dim=-1).T @ target, full_matrices=False)
    return x @ (u @ v)


def _ridge(x: Tensor, rows: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    gram = rows @ rows.T
    strength = gram.diagonal().mean() * torch.eye(len(rows))
    return x @ (rows.T @ torch.linalg.solve(gram + strength, target))


def _conse(x: Tensor, rows: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    best = (x @ rows.T + bias).topk(embedded.CONSE_NAMES, dim=-1)
    weights = torch.softmax(best.values / embedded.CONSE_TEMPERATURE, dim=-1)
    return (weights[..., None] * target[best.indices]).sum(dim=1)


def _unit_sum(*maps: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: sum(F.normalize(one(*given), dim=-1) for one in maps)


MAPS: dict[str, Callable[..., Tensor]] = {
    "Procrustes": _procrustes,
    "ridge": _ridge,
    "ConSE": _conse,
    "ridge + ConSE": _unit_sum(_ridge, _conse),
    "Procrustes + ConSE": _unit_sum(_procrustes, _conse),
}


@torch.no_grad()
def read_set(backbone, name: str, path: Path, read) -> dict:
    """Image features (N, 1280), labels and the text features of the classes."""
    data, transform = read(path), backbone.preprocess()
    pixels = (transform(data.load(item)) for item in data.items)
    hidden = torch.cat([backbone.hidden(image[None]) for image in pixels])
    texts = [f"a photo of a {SPOKEN.get(c, c.replace('-', ' ').replace('_', ' '))}." for c in data.class_names]
    labels = torch.tensor([item.class_label() for item in data.items])
    return {"name": name, "x": hidden, "y": labels, "text": backbone.encode_text(texts), "classes": data.class_names}


def print_phi(backbone, sets: list[dict], adapter: str, shots: list[int], seeds: int) -> None:
    print(f"\n{adapter}: balanced accuracy %, mean of {seeds} seeds")
    columns = [(k, one) for k in shots for one in sets]
    print(f"  {'':10s} {'mean':>12s} " + " ".join(f"{one['name'] + '/' + str(k):>12s}" for k, one in columns))
    plain = [100 * _score(backbone, one, "zero-shot", 1, 0, embedded.PHI) for _, one in columns]
    print(_row("zero-shot", plain))
    for phi in PHIS:
        row = [100 * _mean(_score(backbone, one, adapter, k, s, phi) for s in range(seeds)) for k, one in columns]
        print(_row(f"phi {phi:g}", row), flush=True)


def _row(head: str, scores: list[float]) -> str:
    return f"  {head:10s} " + " ".join(f"{score:12.1f}" for score in [_mean(scores), *scores])


def _score(backbone, one: dict, adapter: str, shots: int, seed: int, phi: float) -> float:
    """Balanced accuracy on what the shots leave; a class with one image is not tested."""
    aligned = backbone.model.alignment
    shared = embedded.Alignment(aligned.rotation, aligned.names, aligned.centre, phi)
    with torch.no_grad():
        features = shared.image(one["x"], backbone.model.image.classifier(one["x"]))
    scale = embedded.ALIGNED_LOGIT_SCALE / math.cos(math.radians(phi))
    classifier = TextClassifier(one["text"], class_names=one["classes"], logit_scale=scale)
    train, test = _shots(one["y"], shots, seed)
    method = build_adapter(adapter)
    method.fit(FeatureSet(features[train], one["y"][train], class_names=one["classes"]), classifier, seed=seed)
    right = method.predict(features[test]) == one["y"][test]
    return _mean(right[one["y"][test] == c].float().mean().item() for c in one["y"][test].unique())


def _shots(labels: Tensor, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    generator, train = torch.Generator().manual_seed(seed), []
    for c in labels.unique():
        rows = (labels == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        train.append(rows[: min(shots, max(1, len(rows) - 1))])
    held = torch.ones(len(labels), dtype=torch.bool)
    held[torch.cat(train)] = False
    return torch.cat(train), held.nonzero().flatten()


@torch.inference_mode()
def print_speed(backbone) -> None:
    print(f"\nimages/s on {torch.get_num_threads()} CPU threads, by batch size")
    for size in (1, 2, 4, 8, 16, 32):
        pixels = torch.randn(size, 3, backbone.image_size, backbone.image_size)
        seconds = median_seconds(lambda pixels=pixels: backbone.encode_image(pixels), repeats=max(5, 48 // size))
        print(f"  {size:3d}  {size / seconds:6.1f}", flush=True)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
