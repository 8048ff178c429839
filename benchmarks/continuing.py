"""What is kept of earlier sets by towers that are trained on one set after the other, with each method and without?

    python benchmarks/continuing.py [--seeds 1,2,3] [--methods none,ctp,...] [--kept FILE]

Three drawn sets in turn. All pictures are of three bands, and in each band a thing of one of five colours lies on one
of five grounds in one of five frames. The captions of a set tell of one band alone, in a language of its own: the
pictures of a later set have what an earlier one taught, but its captions do not ask for it. A set has 375 pairs to
train on and 125 test pairs, one of each combination (guessing: R@1 of 0.8 %, and 20 % of classes, which are the colours
of things).

A small CLIP starts from a short training on other pairs of all three bands, and trains on the sets by `vladapt pretrain
--data A --then B --then C --continual METHOD`, with weights in between at the end (`--wise-ft 0.5`) as a further row.
Sets, epochs and rates were chosen by plain fine-tuning on seed 7 alone, before any method was tried, and are the same
for all methods. Pictures are mirrored at random; they are symmetric. The first table is of the first method, R@1 /
classes named rightly.

R@1 is the mean of both directions and over sets; classes are named by the mean of their captions. Means over seeds are
given with the half width of their 95 % interval by Student's t; beside them the interval over test pairs of the first
seed, and CPU seconds per chain.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import stdtrit

from vladapt.core.tasks.pretraining.continuing import continue_pretraining
from vladapt.core.tasks.pretraining.options import continual_plan_of, plan_of
from vladapt.core.tasks.pretraining.pretrain import pretrain
from vladapt.core.tasks.pretraining.remembered import BEFORE, SetsRemembered, StageScores
from vladapt.core.testing.towers import drawn_clip

COLOURS = {
    (220, 30, 30): ("red", "rot", "rouge"),
    (30, 170, 50): ("green", "grün", "vert"),
    (40, 60, 220): ("blue", "blau", "bleu"),
    (240, 220, 40): ("yellow", "gelb", "jaune"),
    (245, 245, 245): ("white", "weiß", "blanc"),
}
"""Of a thing, in the words of each set: its class."""
GROUNDS = {
    (15, 15, 15): ("night", "nacht", "nuit"),
    (110, 200, 90): ("grass", "gras", "herbe"),
    (20, 80, 130): ("sea", "meer", "mer"),
    (220, 190, 130): ("beach", "strand", "plage"),
    (250, 250, 250): ("snow", "schnee", "neige"),
}
FRAMES = {
    (210, 160, 30): ("brass", "messing", "laiton"),
    (160, 165, 190): ("steel", "stahl", "acier"),
    (30, 30, 30): ("coal", "kohle", "charbon"),
    (250, 120, 100): ("coral", "koralle", "corail"),
    (150, 250, 200): ("mint", "minze", "menthe"),
}
SETS = {"english": "{} on {} in {}", "deutsch": "{} auf {} in {}", "francais": "{} sur {} dans {}"}
"""Name -> caption of the band of the same place, from above."""
THINGS = list(product(COLOURS, GROUNDS, FRAMES))
EACH, BAND, NOISE = 3, 8, 10
SIDE = BAND * len(SETS)
METHODS = ("none", "replay", "ctp", "lwf", "self-distill")
WISE, WISE_FT = 0.5, " + wise-ft 0.5"
TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "head_width": 16, "patch_size": BAND},
    "text_cfg": {"context_length": 16, "vocab_size": 8192, "width": 64, "heads": 4, "layers": 1},
}
COLUMNS = {
    "average": "R@1 at the end",
    "accuracy": "classes named rightly at the end",
    "backward_transfer": "backward transfer",
    "forgetting": "forgetting",
    "forward_transfer": "forward transfer",
}
SCORES = ("r1", "accuracy")
SETTINGS = {"epochs": 16, "lr": 5e-4, "batch_size": 25, "workers": 0, "save_every": 100_000, "flip": True}
BEFORE_ALL = {**SETTINGS, "epochs": 8, "lr": 1e-3}
"""Settings of the training that the towers start from."""
OPTIONS = ("crop_scale=(1.0,1.0)",)
CTP_OPTIONS = (f"loss.ctp.queue_size={len(THINGS) * EACH}",)
"""No more keys than a set has pairs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--kept", type=Path, help="a file of chains that were measured before, which grows")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds, methods = [int(seed) for seed in asked.seeds.split(",")], asked.methods.split(",")
    chains = read_kept(asked.kept)
    for seed in seeds:
        missing = [method for method in methods if (method, seed) not in chains]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            before, *paths = drawn_sets(folder, seed) if missing else [folder]
            backbone = start(folder, before, seed) if missing else ""
            for method in missing:
                chains[method, seed] = measured(folder / method, method, seed, paths, backbone)
                keep(asked.kept, method, seed, chains[method, seed])
    of_method = {method: [chains[method, seed] for seed in seeds] for method in methods}
    print(stages_table(of_method[methods[0]]), table(of_method), sep="\n\n")


def read_kept(file: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, seed) -> what `measured` gave."""
    lines = file.read_text().splitlines() if file is not None and file.is_file() else []
    return {(each["method"], each["seed"]): each["chain"] for each in map(json.loads, lines)}


def keep(file: Path | None, method: str, seed: int, chain: dict[str, Any]) -> None:
    """Add a line."""
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps({"method": method, "seed": seed, "chain": chain}) + "\n")


def measured(out: Path, method: str, seed: int, paths: Sequence[Path], backbone: str) -> dict[str, Any]:
    """Of one chain the summaries of the method, and of the same with weights in between; and the scores of all sets at
    all stages."""
    started = time.process_time()
    plan = continual_plan_of(
        data=str(paths[0]),
        then=[str(path) for path in paths[1:]],
        continual=method,
        wise_ft=WISE,
        losses=None,
        settings={**SETTINGS, "seed": seed},
        sets=[*OPTIONS, *(CTP_OPTIONS if method == "ctp" else ())],
        out=str(out),
        backbone=backbone,
        generic=str(generic(out.parent / "generic")),
        device="cpu",
    )
    done = continue_pretraining(plan)
    seconds = time.process_time() - started
    stages = [BEFORE, *(f"after-{number}" for number in range(1, len(SETS) + 1))]
    scores = [StageScores.load(out / f"scores-{stage}.safetensors") for stage in stages]
    alone = SetsRemembered.of_stages(done.metrics["remembered"]["sets"], stages, scores, seed)
    both = {"": alone, WISE_FT: done.metrics["remembered"]}
    return {**{kind: summaries(of) for kind, of in both.items()}, "seconds": seconds}


def summaries(remembered: Mapping[str, Any]) -> dict[str, Any]:
    """`COLUMNS`, and {"r1", "accuracy"} of each set at each stage."""
    stages = [[{key: of[key] for key in SCORES} for of in stage["sets"]] for stage in remembered["stages"]]
    accuracy = statistics.mean(of["accuracy"] for of in stages[-1])
    of_sets = {key: remembered[key] for key in COLUMNS if key != "accuracy"}
    return {**of_sets, "accuracy": {"value": accuracy}, "stages": stages}


def stages_table(chains: Sequence[Mapping]) -> str:
    """Markdown: each set after each stage of a method, means over seeds of R@1 and of the accuracy by class."""
    lines = [["after", *SETS]]
    for number, name in enumerate([BEFORE, *SETS]):
        cells = [
            " / ".join(over_seeds([chain[""]["stages"][number][n][key] for chain in chains]) for key in SCORES)
            for n in range(len(SETS))
        ]
        lines.append([name, *cells])
    return markdown(lines)


def table(rows: Mapping[str, Sequence[Mapping]]) -> str:
    """Markdown, a row per method, and one with weights in between."""
    head = ["R@1 right after each set", *COLUMNS.values(), "backward transfer, over test pairs", "CPU seconds"]
    lines = [["method", *head]]
    for method, chains in rows.items():
        for kind in ("", WISE_FT):
            stages = [each[kind]["stages"] for each in chains]
            learnt = [statistics.mean(of[n + 1][n]["r1"] for n in range(len(SETS))) for of in stages]
            cells = [over_seeds([each[kind][key]["value"] for each in chains]) for key in COLUMNS]
            low, high = chains[0][kind]["backward_transfer"]["interval"]
            seconds = "" if kind else f"{statistics.mean(each['seconds'] for each in chains):.0f}"
            name = "plain fine-tuning" if method == "none" else f"`{method}`"
            lines.append(
                [f"{name}{kind}", over_seeds(learnt), *cells, f"{100 * low:+.1f} to {100 * high:+.1f}", seconds]
            )
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, its head first."""
    ruler = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:]))


def over_seeds(values: Sequence[float]) -> str:
    """In percent, the mean and half of its interval."""
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) < 2:
        return mean
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {100 * half:.1f}"


def drawn_sets(folder: Path, seed: int) -> list[Path]:
    """CSV files of pairs: first of those that the towers start from, then one per set."""
    random, names = np.random.default_rng(seed), list(SETS)
    paths = [write_set(folder, names[n], {"train": [n] * EACH, "test": [n]}, random) for n in range(len(SETS))]
    before = {"train": list(range(len(SETS))) * EACH}
    return [write_set(folder, "before", before, random), *paths]


def write_set(folder: Path, name: str, splits: Mapping[str, Sequence[int]], random: np.random.Generator) -> Path:
    """The CSV file of a set, and its pictures.

    Args:
        splits: name of a split -> which bands its captions tell of; each of them once with all things.
    """
    path, rows = folder / name / f"{name}.csv", []
    path.parent.mkdir(parents=True, exist_ok=True)
    for split, bands in splits.items():
        for row, (band, thing) in enumerate(product(bands, THINGS)):
            things = [thing if n == band else THINGS[random.integers(len(THINGS))] for n in range(len(SETS))]
            file = f"{split}{row}.png"
            pixels = np.concatenate([drawn_band(*each) for each in things]) + random.normal(0, NOISE, (SIDE, SIDE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path.parent / file)
            words = [of[part][band] for of, part in zip((COLOURS, GROUNDS, FRAMES), thing)]
            caption = list(SETS.values())[band].format(*words)
            rows.append([file, caption, words[0], split])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption", "label", "split"], *rows])
    return path


def drawn_band(colour: Sequence[int], ground: Sequence[int], frame: Sequence[int]) -> np.ndarray:
    """(BAND, SIDE, 3): a thing in the middle of its ground, in a frame."""
    half = BAND // 2
    sides = [frame] * half + [ground] * half  # of equal width, left and right of the thing
    return np.array([*sides, *[colour] * BAND, *sides[::-1]], float)[None].repeat(BAND, axis=0)


def start(folder: Path, data: Path, seed: int) -> str:
    """The spec of towers that have seen a little of all sets."""
    settings = {**BEFORE_ALL, "seed": seed}
    places = {"data": str(data), "out": str(folder / "start"), "backbone": towers(folder, seed), "device": "cpu"}
    return str(pretrain(plan_of(losses=None, settings=settings, sets=OPTIONS, **places)).model)


def towers(folder: Path, seed: int) -> str:
    """The spec of a small random CLIP."""
    (folder / "small.json").write_text(json.dumps(TOWERS))
    torch.manual_seed(seed)
    tensors = {name: value.contiguous() for name, value in drawn_clip(TOWERS).state_dict().items()}
    save_file(tensors, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


def generic(folder: Path) -> Path:
    """Two pictures, so that nothing is drawn for a probe that random towers fail."""
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(folder / name / "0.png")
    return folder


if __name__ == "__main__":
    main()
