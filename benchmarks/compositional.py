"""What hard negatives teach small towers of drawn scenes: `clip`, `neg-clip` and `triplet-clip` on the same pairs.

    python benchmarks/compositional.py [--seeds 1,2,3] [--rows clip,neg-clip,triplet-clip] [--scores FILE]

The pairs are drawn scenes of two things with a caption each (`vladapt bench --data sample:composition` draws its own,
none of which is among them, nor is a partner of one). A caption's hard negative is the caption of the scene in which
the two things have exchanged a colour, a number, their sides, sizes or parts in an action; the negative image is that
scene. `clip` sees neither; "clip+partners" sees the partner scenes as further pairs, in half as many epochs: the same
images and captions as `triplet-clip`, but rarely both in one batch.

A small CLIP starts from drawn weights, the same for all rows of a seed, and is trained by `vladapt pretrain`. Scores
are those of `vladapt bench`: means over seeds, with the half width of their 95 % interval by Student's t, in percent.
What "mirrored" ends is trained with `--set flip=yes`. `--scores FILE` keeps what was measured, and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import stdtrit

from vladapt.core.contracts.recipe import Recipe
from vladapt.core.data.pairs.compositions import KINDS, draw_composition, drawn_compositions
from vladapt.core.engine.bench import bench
from vladapt.core.tasks.pretraining.options import plan_of
from vladapt.core.tasks.pretraining.pretrain import pretrain
from vladapt.core.testing.towers import drawn_clip

PAIRS, QUESTIONS = 800, 50
"""Questions of each kind."""
SIDE = 32
TOWERS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 8192, "width": 64, "heads": 4, "layers": 2},
}
SETTINGS = {"epochs": 30, "lr": 2e-3, "batch_size": 100, "workers": 0, "save_every": 100_000}
OPTIONS = ("crop_scale=(1.0,1.0)", "weight_decay=0.05")
ROWS = ("clip", "clip+partners", "neg-clip", "triplet-clip")
PARTNERS, MIRRORED = "+partners", "+mirrored"
GUESSING = {"text": 25.0, "image": 25.0, "group": 16.7}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"losses, each may end in {PARTNERS} or {MIRRORED}")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--scores", type=Path, help="a file of what was measured before, which grows")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds, rows = [int(seed) for seed in asked.seeds.split(",")], asked.rows.split(",")
    shares = read_scores(asked.scores)
    for seed in seeds:
        missing = [row for row in rows if (row, seed) not in shares]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if missing:
                write_pairs(folder, asked.pairs, seed)
            for row in missing:
                shares[row, seed] = scored(trained(folder, row, asked.epochs, seed), seed)
                print(f"seed {seed}, {row}: group {100 * shares[row, seed][' group']:.1f} %", flush=True)
                if asked.scores is not None:
                    with asked.scores.open("a") as lines:
                        lines.write(json.dumps({"row": row, "seed": seed, "shares": shares[row, seed]}) + "\n")
    print("\n" + table({row: [shares[row, seed] for seed in seeds] for row in rows}))


def read_scores(file: Path | None) -> dict[tuple[str, int], dict[str, float]]:
    """(row, seed) -> what `scored` gave."""
    lines = file.read_text().splitlines() if file is not None and file.is_file() else []
    return {(each["row"], each["seed"]): each["shares"] for each in map(json.loads, lines)}


def write_pairs(folder: Path, count: int, seed: int) -> None:
    """`pairs.jsonl` with negatives, and `both.jsonl` where partners are pairs of their own."""
    (folder / "images").mkdir()
    pairs, both = [], []
    for kind in KINDS:
        test = drawn_compositions(kind, QUESTIONS, seed)
        for number, shown in enumerate(drawn_compositions(kind, count // len(KINDS), seed + 1000, without=test)):
            names = []
            for side, each in enumerate((shown, shown.partner)):
                name = f"images/{kind}-{number}-{side}.png"
                pixels = Image.fromarray(draw_composition(each, [seed + 1000, number]))
                pixels.resize((SIDE, SIDE), Image.Resampling.BOX).save(folder / name)
                names.append(name)
            captions = [shown.caption, shown.turned_caption]
            negatives = [shown.partner.caption, shown.partner.turned_caption]
            pair = {"image": names[0], "caption": captions, "split": "train"}
            pairs.append({**pair, "negative": negatives, "negative_image": names[1]})
            both += [pair, {"image": names[1], "caption": negatives, "split": "train"}]
    for name, rows in (("pairs", pairs), ("both", both)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def start(folder: Path, seed: int) -> str:
    """Spec of towers with drawn weights."""
    torch.manual_seed(seed)
    (folder / "towers.json").write_text(json.dumps(TOWERS))
    model = drawn_clip(TOWERS)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "towers.safetensors")
    return f"open_clip:{folder / 'towers.json'}@{folder / 'towers.safetensors'}"


def trained(folder: Path, row: str, epochs: int, seed: int) -> str:
    """The model of one training."""
    both = PARTNERS in row
    plan = plan_of(
        data=str(folder / ("both.jsonl" if both else "pairs.jsonl")),
        out=str(folder / row),
        losses=[row.split("+")[0]],
        settings={**SETTINGS, "epochs": epochs // 2 if both else epochs, "seed": seed},
        sets=[*OPTIONS, *(["flip=yes"] if MIRRORED in row else [])],
        backbone=start(folder, seed),
        device="cpu",
    )
    return str(pretrain(plan).model)


def scored(model: str, seed: int) -> dict[str, float]:
    """Part and measure -> share."""
    options = {"composition": {"questions": QUESTIONS}}
    made = bench(Recipe(device="cpu", seed=seed), [model], ["sample:composition"], options=options)
    return {f"{row['part']} {row['measure']}": row["value"] for row in made.rows}


def table(shares: dict[str, list[dict[str, float]]]) -> str:
    columns = [("", "text"), ("", "image"), ("", "group"), *((kind, "group") for kind in KINDS)]
    columns += [("named in turn", "group"), ("", "first_named"), ("", "larger")]
    names = [f"{part or 'all'}: {measure}" if measure in GUESSING else measure for part, measure in columns]
    lines = ["| trained by | " + " | ".join(names) + " |", "|---" * (len(columns) + 1) + "|"]
    lines.append("| guessing | " + " | ".join(f"{GUESSING.get(measure, 50.0)}" for _, measure in columns) + " |")
    for row, runs in shares.items():
        cells = [mean_of([100 * run[" ".join(column)] for run in runs]) for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_of(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
