"""How often does a search warn of its best answer? The table of docs/measurements/retrieval.md.

    python benchmarks/search_warnings.py [--seeds 0,1,2] [--steps 600] [--features FOLDER] [--index FOLDER]

A small CLIP learns by InfoNCE from drawn pictures and captions (`curation_pool.py`, right pairs only). The gallery
holds 300 held-out pictures; each is asked for by a true sentence that leaves out what captions leave out. A warning is
then false. The same of random weights, to which no sentence means anything: a warning is then right. Shares in per
cent, means over seeds, plus or minus half of a 95 % interval by Student's t. What the folder of features holds of an
earlier call is not encoded again.

An index of pictures with captions is asked with these, too. How far an answer rises was chosen on the first two
captions of each picture of COCO (docs/measurements/retrieval.md), so these are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from curation_pool import caption, test_pairs
from distillation import DEPTH, STEPS, WIDTH, built, learned
from joined_towers import _words as interval
from safetensors.torch import load_file, save_file
from torch import Tensor

from vladapt import Backbone, load_backbone
from vladapt.core.retrieval import RetrievalIndex
from vladapt.core.retrieval.above_chance import among_drawn, drawn_queries

PICTURES, RIGHT = 300, 10
"""Pictures of the gallery; answers that are looked at for the right one."""
CHOSEN_ON = 2
MODELS = {"trained": True, "random weights": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--index", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    print("| gallery | weights | right picture among ten | warnings |\n|---|---|---:|---:|")
    if asked.index:
        right, warned = shares(*of_index(asked.index))
        print(f"| {asked.index.name} | default | {100 * right:.1f} | {100 * warned:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as made:
        for model, trained in MODELS.items():
            rows = [shares(*encoded(asked.features or Path(made), seed, trained, asked.steps)) for seed in seeds]
            print(
                f"| drawn scenes | {model} | " + " | ".join(interval(list(each)) for each in zip(*rows)) + " |",
                flush=True,
            )


def encoded(folder: Path, seed: int, trained: bool, steps: int) -> tuple[Tensor, dict[str, Tensor], list[str], Tensor]:
    """Unit features (300, D) of the gallery, those of all texts, the sentences, and which picture each is of."""
    random = np.random.default_rng(seed)
    pool = test_pairs(5000 + seed, 1)
    rows = random.permutation(len(pool.texts))[:PICTURES]
    sentences = [caption(facts, random) for facts in pool.facts[rows]]
    texts = list(dict.fromkeys([*sentences, *(drawn for each in sentences for drawn in drawn_queries(each))]))
    file = folder / f"warnings-{seed}-{steps if trained else 0}.safetensors"
    if not file.is_file():
        backbone = built(folder, (WIDTH // 2, DEPTH // 2), (WIDTH // 2, DEPTH // 2), seed)
        if trained:
            learned(backbone, 1000 + seed, {"clip": 1.0}, steps, seed)
        save_file(features(backbone, pool.images[rows], texts), file)
    stored = load_file(file)
    return stored["images"], dict(zip(texts, stored["texts"], strict=True)), sentences, torch.arange(PICTURES)


def of_index(folder: Path) -> tuple[Tensor, dict[str, Tensor], list[str], Tensor]:
    """The same of an index, and captions that it shows."""
    opened = RetrievalIndex.open(folder)
    backbone = load_backbone(opened.info["backbone"]["spec"], device="cpu")
    pairs = [(text, place) for place, entry in enumerate(opened.entries) for text in entry.captions[CHOSEN_ON:]]
    sentences = [text for text, _ in pairs]
    texts = list(dict.fromkeys([*sentences, *(drawn for each in sentences for drawn in drawn_queries(each))]))
    images = torch.from_numpy(opened.rows(np.arange(len(opened))))
    return images, dict(zip(texts, of_texts(backbone, texts))), sentences, torch.tensor([place for _, place in pairs])


@torch.no_grad()
def features(backbone: Backbone, images: np.ndarray, texts: Sequence[str]) -> dict[str, Tensor]:
    look = backbone.preprocess(train=False)
    of_images = backbone.encode_image(torch.stack([look(each) for each in images]))
    return {"images": of_images.contiguous(), "texts": of_texts(backbone, texts)}


@torch.no_grad()
def of_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    return torch.cat([backbone.encode_text(texts[start : start + 256]) for start in range(0, len(texts), 256)])


def shares(images: Tensor, of_text: dict[str, Tensor], sentences: Sequence[str], own: Tensor) -> tuple[float, float]:
    """Of the sentences, those that find their picture among the first answers, and those with a warning."""
    cosines = torch.stack([of_text[each] for each in sentences]) @ images.T  # (Q, N)
    right = (cosines > cosines.gather(1, own[:, None])).sum(dim=1) < RIGHT

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.stack([of_text[each] for each in texts])

    def best(queries: Tensor) -> Tensor:
        return (queries @ images.T).max(dim=1).values

    mean = images.mean(dim=0)
    warned = [not among_drawn(of_text[each], encode(drawn_queries(each)), best, mean).stands_out for each in sentences]
    return float(right.float().mean()), float(np.mean(warned))


if __name__ == "__main__":
    main()
