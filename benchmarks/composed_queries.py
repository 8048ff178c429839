"""Does an image with words find more than either alone? The proof in docs/measurements/retrieval.md.

    python benchmarks/composed_queries.py [--seeds 0,1,2] [--scores FILE]

Drawn pictures of 32 pixels show one of twelve things by day, at night, in fog, or as a sketch. A small CLIP of its own
(a ResNet and a text tower of two layers) learns 2,400 of them with their words, "a star at night". Its index holds 576
others, twelve of each thing in each style. 144 further pictures are asked with the words of each other style: 432
queries. What is counted is what `vladapt search --evaluate` counts, by its protocol for domain conversion. `freedom`
puts pictures into twelve words of things and twelve words of nothing that is drawn.

mAP, R@10, P@10 and, seed by seed, what is gained above the words alone, in per cent: mean over seeds, each with
drawings and a CLIP of its own, plus or minus half of the 95 % interval by Student's t. Then milliseconds of CPU per
query with one thread, on this index and on one of 100,000 drawn rows: the median over rounds, in which all ways are
timed in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from joined_towers import table
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file

from vladapt import load_backbone
from vladapt.core.engine.index import index
from vladapt.core.engine.options import SearchOptions
from vladapt.core.engine.queries import IndexGallery, Query, QueryEncoder, composition_of, search_encoded
from vladapt.core.engine.search_evaluation import MEAN, evaluate_queries
from vladapt.core.recipes.resolve import resolve
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex
from vladapt.core.retrieval.wanted import Wanted

SIDE, LARGE = 32, 128
THINGS: dict[str, Sequence[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "diamond": [(0, -1.2), (0.7, 0), (0, 1.2), (-0.7, 0)],
    "bar": [(-1.2, -0.3), (1.2, -0.3), (1.2, 0.3), (-1.2, 0.3)],
    "pole": [(-0.3, -1.2), (0.3, -1.2), (0.3, 1.2), (-0.3, 1.2)],
    "house": [(0, -1.2), (1, -0.2), (1, 1), (-1, 1), (-1, -0.2)],
    "arrow": [(-1.1, -0.3), (0.2, -0.3), (0.2, -1), (1.2, 0), (0.2, 1), (0.2, 0.3), (-1.1, 0.3)],
    "cross": [
        *((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)),
        *((0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)),
    ],
    "star": [
        ((1.2 - 0.7 * (k % 2)) * math.sin(k * math.pi / 5), -(1.2 - 0.7 * (k % 2)) * math.cos(k * math.pi / 5))
        for k in range(10)
    ],
    "circle": [(math.cos(k * math.pi / 20), math.sin(k * math.pi / 20)) for k in range(40)],
    "moon": [
        *((math.cos(k * math.pi / 20), math.sin(k * math.pi / 20)) for k in range(6, 35)),
        *((0.5 + 0.8 * math.cos(k * math.pi / 20), 0.8 * math.sin(k * math.pi / 20)) for k in range(32, 7, -1)),
    ],
    "stairs": [(-1, 1), (-1, 0.4), (-0.3, 0.4), (-0.3, -0.3), (0.4, -0.3), (0.4, -1), (1, -1), (1, 1)],
}
STYLES = ("by day", "at night", "in fog", "as a sketch")
OTHERS = ("dog", "cat", "bus", "road", "hat", "cup", "tree", "fish", "lamp", "shoe", "door", "hill")
METHODS = ("sum", "slerp", "product", "freedom")
MEASURES, ABOVE = ("mAP", "R@10", "P@10"), "mAP above the words alone"
TAUGHT, SHOWN, ASKED = 50, 12, 3
"""Pictures of each thing in each style."""
STEPS, BATCH, RATE = 250, 64, 1e-3
ROUNDS, ROWS = 9, 100_000
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scores", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = asked.scores.read_text(encoding="utf-8").splitlines() if asked.scores and asked.scores.is_file() else []
    draws = {draw["seed"]: draw for draw in map(json.loads, lines)}
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    for seed in [seed for seed in seeds if seed not in draws]:
        with tempfile.TemporaryDirectory() as folder:
            draws[seed] = {"seed": seed, **measured(Path(folder), seed, timed=seed == seeds[0])}
        print(json.dumps(draws[seed]), flush=True)
        if asked.scores:
            with asked.scores.open("a", encoding="utf-8") as file:
                file.write(json.dumps(draws[seed]) + "\n")
    rows = {
        way: {measure: [draws[seed]["scores"][way][measure] for seed in seeds] for measure in MEASURES}
        for way in draws[seeds[0]]["scores"]
    }
    best = rows["words alone"]["mAP"]
    for of in rows.values():
        of[ABOVE] = [value - other for value, other in zip(of["mAP"], best)]
    print(table("query", rows))
    timings = draws[seeds[0]]["ms"]
    print(f"| ms of CPU per query | {' | '.join(timings)} |\n|---{'|---:' * len(timings)}|")
    for way in next(iter(timings.values())):
        print(f"| {way} | {' | '.join(f'{of[way]:.1f}' for of in timings.values())} |")


def measured(folder: Path, seed: int, timed: bool) -> dict:
    """Scores of each way to ask and, if they are asked for, its milliseconds."""
    random = np.random.default_rng(seed)
    spec = trained_clip(folder, random, seed)
    (folder / "words.txt").write_text("\n".join([*THINGS, *OTHERS]))
    shown, asked = (written(folder / name, random, each) for name, each in (("shown", SHOWN), ("asked", ASKED)))
    index(resolve(flags={"backbone": spec, "device": "cpu"}), folder / "an.index", images=[str(folder / "shown")])
    how = {"gallery": str(shown), "at": "10", "device": "cpu"}
    scores, alone, by_chance = {}, {"image alone": {}, "words alone": {}}, {}
    for method in METHODS:
        words = {"vocabulary": str(folder / "words.txt")} if method == "freedom" else {}
        done = evaluate_queries(folder / "an.index", asked, compose=method, **words, **how)
        means = {score.metric: score for score in done.scores if score.part == MEAN}
        scores[method] = {measure: means[measure].value for measure in MEASURES}
        for measure in MEASURES:
            alone["image alone"][measure] = means[measure].image
            alone["words alone"][measure] = means[measure].text
            by_chance[measure] = means[measure].chance
    scores = {**alone, **scores, "random order": by_chance}
    return {"scores": scores, "ms": dict(timings(folder, spec, random)) if timed else {}}


def written(folder: Path, random: np.random.Generator, each: int) -> Path:
    """So many pictures of each thing in each style as files, and their list "path domain class"."""
    folder.mkdir()
    lines = []
    for thing in THINGS:
        for style in STYLES:
            for _ in range(each):
                file = folder / f"{len(lines):04d}.png"
                picture(thing, style, random).save(file)
                lines.append(f"{folder.name}/{file.name} {style.replace(' ', '_')} {thing}")
    listed = folder.with_suffix(".txt")
    listed.write_text("\n".join(lines))
    return listed


def picture(thing: str, style: str, random: np.random.Generator) -> Image.Image:
    """A thing, somewhere near the middle, turned a little, of any colour where its style has colours."""
    scale, turn, (x, y) = random.uniform(26, 40), random.normal(0, 0.15), random.uniform(-12, 12, 2)
    corners = [
        (
            LARGE / 2 + x + scale * (math.cos(turn) * across - math.sin(turn) * down),
            LARGE / 2 + y + scale * (math.sin(turn) * across + math.cos(turn) * down),
        )
        for across, down in THINGS[thing]
    ]
    colour = random.integers(0, 256, 3)
    ground, fill, line = {
        "by day": ((150, 200, 250), tuple(colour // 2), None),
        "at night": ((15, 15, 40), tuple(60 + colour // 4), None),
        "in fog": ((185, 185, 185), tuple(135 + colour // 8), None),
        "as a sketch": ((250, 250, 250), None, (20, 20, 20)),
    }[style]
    drawn = Image.new("RGB", (LARGE, LARGE), ground)
    ImageDraw.Draw(drawn).polygon(corners, fill=fill, outline=line, width=6)
    if style == "in fog":
        drawn = drawn.filter(ImageFilter.GaussianBlur(3))
    pixels = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BOX)) + random.normal(0, 8, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def trained_clip(folder: Path, random: np.random.Generator, seed: int) -> str:
    """The specification of a small CLIP that has seen pictures with their words."""
    (folder / "small.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(seed)
    model, tokenize = open_clip.CLIP(**CONFIG).train(), open_clip.SimpleTokenizer(context_length=12)
    kinds = [(thing, style) for thing in THINGS for style in STYLES for _ in range(TAUGHT)]
    drawn = np.stack([np.asarray(picture(*kind, random)) for kind in kinds])
    pixels, tokens = normalised(drawn), tokenize([f"a {thing} {style}" for thing, style in kinds])
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    for step in range(STEPS):
        rows = torch.from_numpy(random.integers(len(kinds), size=BATCH))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 25, 0.5 + 0.5 * np.cos(np.pi * step / STEPS))
        image, text, scale = model(pixels[rows], tokens[rows])
        same = (tokens[rows][:, None] == tokens[rows]).all(dim=-1).float()  # the same words are as right as the own
        logits, wanted = scale * image @ text.T, same / same.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


def normalised(images: np.ndarray) -> torch.Tensor:
    """(N, 3, 32, 32) as open_clip's preprocessing gives it."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def timings(folder: Path, spec: str, random: np.random.Generator) -> Iterator[tuple[str, dict[str, float]]]:
    """(index, way -> milliseconds of CPU per query)."""
    yield "576 rows", of_index(folder, spec, folder / "an.index")
    head = RetrievalIndex.open(folder / "an.index").info
    rows = random.standard_normal((ROWS, head["dims"])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with IndexBuilder(folder / "many.index", dims=head["dims"]) as builder:
        builder.add(rows, [Entry(str(number), f"/drawn/{number}.png") for number in range(ROWS)])
        builder.finish({name: head[name] for name in ("holds", "backbone", "reading")})
    yield f"{ROWS:,} rows", of_index(folder, spec, folder / "many.index")


def of_index(folder: Path, spec: str, place: Path) -> dict[str, float]:
    opened = RetrievalIndex.open(place)
    tower, image, text = load_backbone(spec, "cpu"), str(folder / "asked" / "0000.png"), "at night"
    words = (folder / "words.txt").read_text().splitlines()
    ways = {"words alone": Query(text), "image alone": Query(None, image)}
    ways |= {method: Query(text, image) for method in METHODS}
    encoders = {
        way: QueryEncoder(
            opened,
            opened.reader(),
            tower,
            composition_of(SearchOptions(compose=way if way in METHODS else None)),
            IndexGallery(opened, tower, words),
        )
        for way in ways
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS + 1):
        for way, query in ways.items():
            started = time.process_time()
            search_encoded(opened, encoders[way]([query]), [Wanted()], 10, True)
            if number:  # the first builds what is built once
                took[way].append(1000 * (time.process_time() - started))
    return {way: float(np.median(each)) for way, each in took.items()}


if __name__ == "__main__":
    main()
