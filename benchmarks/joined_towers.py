"""How good are joined towers by the number of pairs? The tables of docs/measurements/joined-towers.md.

    python benchmarks/joined_towers.py --features FOLDER [--seeds 5] [--table coco|drawn|classes]

FOLDER holds `coco500_clip` and `whurs19_clip`. Three questions:

1. Features of CLIP ViT-B/16 of 500 photographs of COCO and their captions: images and texts are taken as if they came
   from towers that know nothing of each other. So many pairs are drawn, 100 others are held out; the mean of R@1 both
   ways among these (guessing: 1 %), over draws, plus or minus half of its 95 % interval by Student's t.
2. Drawn pictures and captions (`curation_pool.py`, right pairs only): a small image tower that learned by InfoNCE with
   a text tower of its own, and MiniLM, which never saw a picture. R@1 both ways among 300 held-out pairs; captions
   that say the same count as right (guessing: the mean share of captions that say the same as one of them).
3. Image features of one tower on the class texts of another, of the 19 classes of WHU-RS19 (1,005 images): the map is
   fitted on images of so many per class with the text of their class, and names the classes of the others. It was made
   from labelled images, so this is no zero-shot; the image tower's own texts are. Guessing: 5.3 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from curation_pool import drawn_pool
from curation_towers import features_of, trained
from scipy.special import stdtrit
from torch import Tensor

from vladapt.core.backbones.packaged import PAD, load_minilm, load_tokenizer
from vladapt.core.backbones.tower_maps import KINDS, RIDGE, choose_map, fit_map

OF_COCO, HELD_OUT = (25, 50, 100, 200, 400), 100
OF_DRAWN, DRAWN_HELD_OUT = (100, 300, 1000, 3000, 10_000), 300
SHOTS = (1, 2, 4, 8, 16)
TEACHERS = 8000
SAMPLES = 50_000
TOWERS = {"CLIP ViT-B/32": "whurs19_CLIP_ViTB32", "RemoteCLIP ViT-B/32": "whurs19_RemoteCLIP_ViTB32"}
TOWERS |= {"CLIP RN50": "whurs19_CLIP_RN50", "CLIP ViT-L/14": "whurs19_CLIP_ViTL14"}
MAPS = (*KINDS, "auto")
Rows = dict[str, dict[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", choices=("coco", "drawn", "classes"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.table in (None, "coco"):
        by_pairs = _by_number(OF_COCO, asked.seeds, lambda count, seed: of_coco(asked.features, count, seed))
        print(table("pairs", by_pairs))
    if asked.table in (None, "drawn"):
        print(f"Guessing: {np.mean([100 * _guessed(seed) for seed in range(asked.seeds)]):.1f} %\n")
        print(table("pairs", _by_number(OF_DRAWN, asked.seeds, _drawn())))
    if asked.table in (None, "classes"):
        print(table("images per class", dict(_by_tower(asked.features, asked.seeds))))


def of_coco(folder: Path, count: int, seed: int) -> dict[str, float]:
    with np.load(folder / "coco500_clip" / "coco500_pairs_vitb16_fp16.npz", allow_pickle=False) as file:
        images, texts = (
            torch.from_numpy(file[name].astype(np.float64)) for name in ("image_features", "text_features")
        )
    order = np.random.default_rng(seed).permutation(len(images))
    left, taught = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + count]
    own = np.arange(HELD_OUT)
    scores = _of_maps(images[taught], texts[taught], lambda fitted: _recall(*_both(fitted, images, texts, left), own))
    return {"CLIP's own space": _recall(images[left], texts[left], own), **scores}


def _drawn() -> Callable[[int, int], dict[str, float]]:
    made: dict[int, tuple[Tensor, Tensor, np.ndarray]] = {}

    def measure(count: int, seed: int) -> dict[str, float]:
        if seed not in made:
            made[seed] = _drawn_features(seed)
        images, texts, said = made[seed]
        left, taught = np.arange(DRAWN_HELD_OUT), DRAWN_HELD_OUT + np.arange(count)
        held_out = said[left]

        def scored(fitted) -> float:
            return _recall(*_both(fitted, images, texts, left), held_out)

        return _of_maps(images[taught], texts[taught], scored)

    return measure


def _drawn_features(seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Of pictures, of their captions by MiniLM, and which captions say the same."""
    theirs = drawn_pool(TEACHERS, 1000 + seed, {})
    tower = trained(theirs, np.arange(TEACHERS), SAMPLES, seed)
    pool = drawn_pool(DRAWN_HELD_OUT + max(OF_DRAWN), 3000 + seed, {})
    images = torch.from_numpy(features_of(tower, pool)[0]).double()
    texts, place = np.unique(np.array(pool.texts), return_inverse=True)
    return images, _read(list(texts))[place].double(), place


def _guessed(seed: int) -> float:
    """Share of the held-out captions that say the same as one of them, in the mean."""
    pool = drawn_pool(DRAWN_HELD_OUT + max(OF_DRAWN), 3000 + seed, {})
    _, counts = np.unique(np.array(pool.texts[:DRAWN_HELD_OUT]), return_counts=True)
    return float((counts**2).sum() / DRAWN_HELD_OUT**2)


@torch.no_grad()
def _read(texts: list[str]) -> Tensor:
    minilm, tokens = load_minilm(), load_tokenizer()(texts)
    longest = int((tokens != PAD).sum(dim=1).max())
    parts = [minilm(part, part != PAD) for part in tokens[:, :longest].split(256)]
    return F.normalize(torch.cat(parts), dim=1)


def _by_tower(folder: Path, seeds: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    files = {name: _whurs(folder / "whurs19_clip" / f"{file}.npz") for name, file in TOWERS.items()}
    for seen, read in (("CLIP ViT-B/32", "RemoteCLIP ViT-B/32"), ("CLIP RN50", "CLIP ViT-L/14")):
        measure = partial(_named, *files[seen], files[read][2])
        for row, scores in _by_number(SHOTS, seeds, measure).items():
            yield f"{seen} on texts of {read}, {row}", scores


def _named(images: Tensor, labels: np.ndarray, own: Tensor, texts: Tensor, shots: int, seed: int) -> dict[str, float]:
    """Share of the other images whose class is named rightly, after so many of each class."""
    taught = _few(labels, shots, seed)
    left = np.setdiff1d(np.arange(len(labels)), taught)

    def right(cosines: Tensor) -> float:
        return float((cosines.argmax(dim=1).numpy() == labels[left]).mean())

    def scored(fitted) -> float:
        return right(F.normalize(fitted(images[left]), dim=1) @ F.normalize(fitted.target(texts), dim=1).T)

    of_maps = _of_maps(images[taught], texts[labels[taught]], scored, groups=labels[taught])
    return {"own texts (zero-shot)": right(images[left] @ own.T), **of_maps}


def _whurs(file: Path) -> tuple[Tensor, np.ndarray, Tensor]:
    with np.load(file, allow_pickle=False) as read:
        images, texts = (torch.from_numpy(read[name]).double() for name in ("image_features", "text_average"))
        return F.normalize(images, dim=1), read["labels"], F.normalize(texts, dim=1)


def _few(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == each))[:shots] for each in np.unique(labels)])


def _of_maps(source: Tensor, target: Tensor, scored: Callable[..., float], groups=None) -> dict[str, float]:
    fitted = {kind: fit_map(source, target, kind) for kind in KINDS}
    fitted["auto"] = choose_map(source, target, groups)[0]
    return {("ridge 1" if name == RIDGE else name): scored(each) for name, each in fitted.items()}


def _both(fitted, images: Tensor, texts: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    return fitted(images[rows]), fitted.target(texts[rows])


def _recall(images: Tensor, texts: Tensor, said: np.ndarray) -> float:
    cosines = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    to_text, to_image = cosines.argmax(dim=1).numpy(), cosines.argmax(dim=0).numpy()
    return float(((said[to_text] == said).mean() + (said[to_image] == said).mean()) / 2)


def _by_number(counts, seeds: int, measure: Callable[[int, int], dict[str, float]]) -> Rows:
    rows: dict[str, dict[str, list[float]]] = {}
    for count in counts:
        for seed in range(seeds):
            for name, value in measure(count, seed).items():
                rows.setdefault(f"{count:,}", {}).setdefault(name, []).append(value)
    return rows


def table(first: str, rows: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Markdown, in per cent."""
    names = list(next(iter(rows.values())))
    lines = [f"| {first} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(_words(scores[name]) for name in names)} |" for row, scores in rows.items()]
    return "\n".join(lines) + "\n"


def _words(values: list[float]) -> str:
    mean, count = 100 * float(np.mean(values)), len(values)
    if count < 2 or np.std(values) == 0:
        return f"{mean:.1f}"
    half = 100 * float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count))
    return f"{mean:.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
