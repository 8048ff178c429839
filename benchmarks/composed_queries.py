"""Does an image with words find more than either alone? The proof in docs/retrieval.md.

    python benchmarks/composed_queries.py [--seeds 0,1,2] [--scores FILE]

Drawn pictures of 32 pixels show one to three things of a colour and a shape at a border, by night or by day. A small
CLIP of its own learns 4,000 of them with English sentences. Its index holds 1,728 others, all that there is to show
equally often. 576 further pictures are asked for the same thing (a colour and a shape) at another border or time: "red
circle" shown left by night, with the words "right day", and so on for all pairs of the eight. What is counted is what
`vladapt search --evaluate` counts, by its protocol for domain conversion. `freedom` puts pictures into the 24 things,
with 13 words that name no thing among them.

mAP, R@10 and P@10 in per cent: mean over seeds, each with drawings and a CLIP of its own, plus or minus half of the
95 % interval by Student's t. Then milliseconds of CPU per query with one thread, on this index and on one of 100,000
drawn rows: the median over rounds, in which all ways are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from curation_pool import NAMES, NUMBERS, PLACES, TIMES, Pool, drawn_pool, test_pairs
from joined_towers import table
from PIL import Image
from taught_towers import sentence, trained_clip

from vladapt.core.engine.index import index
from vladapt.core.engine.options import SearchOptions
from vladapt.core.engine.queries import IndexGallery, Query, QueryEncoder, composition_of, search_encoded
from vladapt.core.engine.search_evaluation import MEAN, evaluate_queries
from vladapt.core.recipes.resolve import resolve
from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex
from vladapt.core.retrieval.wanted import Wanted

TAUGHT, EACH, ASKED = 4000, 3, 1
OTHERS = (*NUMBERS, *PLACES, *TIMES, "many", "corner", "dusk", "noise")
METHODS = ("sum", "slerp", "product", "freedom")
MEASURES = ("mAP", "R@10", "P@10")
ROUNDS, ROWS = 15, 100_000


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
    print(table("query", rows))
    timings = draws[seeds[0]]["ms"]
    print(f"| ms of CPU per query | {' | '.join(timings)} |\n|---{'|---:' * len(timings)}|")
    for way in next(iter(timings.values())):
        print(f"| {way} | {' | '.join(f'{of[way]:.1f}' for of in timings.values())} |")


def measured(folder: Path, seed: int, timed: bool) -> dict:
    """Scores of each way to ask and, if they are asked for, its milliseconds."""
    taught, random = drawn_pool(TAUGHT, 7000 + seed, {}), np.random.default_rng(seed)
    trained_clip(folder / "clip", taught.images, [sentence("English", row, random) for row in taught.facts], seed)
    (folder / "words.txt").write_text("\n".join([*NAMES, *OTHERS]))
    shown = written(folder / "shown", test_pairs(8000 + seed, EACH))
    asked = written(folder / "asked", test_pairs(9000 + seed, ASKED))
    recipe = resolve(flags={"backbone": f"hf:{folder / 'clip'}", "device": "cpu"})
    index(recipe, folder / "an.index", images=[str(folder / "shown")])
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
    return {"scores": scores, "ms": dict(timings(folder, seed)) if timed else {}}


def written(folder: Path, pool: Pool) -> Path:
    """The pictures as files, and their list "path domain class"."""
    folder.mkdir()
    lines = []
    for number, (image, facts) in enumerate(zip(pool.images, pool.facts)):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
        domain = f"{PLACES[facts[2]]}_{TIMES[facts[3]]}"
        lines.append(f"{folder.name}/{number:04d}.png {domain} {NAMES[facts[0]].replace(' ', '_')}")
    listed = folder.with_suffix(".txt")
    listed.write_text("\n".join(lines))
    return listed


def timings(folder: Path, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """(index, way -> milliseconds of CPU per query)."""
    yield "1,728 rows", of_index(folder, folder / "an.index")
    head = RetrievalIndex.open(folder / "an.index").info
    rows = np.random.default_rng(seed).standard_normal((ROWS, head["dims"])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with IndexBuilder(folder / "many.index", dims=head["dims"]) as builder:
        builder.add(rows, [Entry(str(number), f"/drawn/{number}.png") for number in range(ROWS)])
        builder.finish({name: head[name] for name in ("holds", "backbone", "reading")})
    yield f"{ROWS:,} rows", of_index(folder, folder / "many.index")


def of_index(folder: Path, place: Path) -> dict[str, float]:
    from vladapt import load_backbone

    opened = RetrievalIndex.open(place)
    tower, image, text = load_backbone(f"hf:{folder / 'clip'}", "cpu"), str(folder / "asked" / "0000.png"), "right day"
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
