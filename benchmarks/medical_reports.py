"""What each recipe of learning from reports answers on drawn radiographs, beside InfoNCE: docs/measurements/medical.md.

    python benchmarks/medical_reports.py --store FOLDER [--seeds 3] [--studies 2000] [--epochs 20] [RECIPE ...]

The papers start from text encoders that know the language. So a tiny CLIP (64 pixels, the mean of 8 x 8 patches, three
layers of width 64) first learns words by InfoNCE on drawn studies of its own, once. Each seed draws other studies (80 %
to learn from, 20 % to test; the last epoch stays) and another image tower, which knows nothing, beside that text tower.
Every recipe trains these by `vladapt pretrain`: at a rate of 1e-3 in batches of 64, since the recipes' rates and
batches are for large towers that have learned before; decoders of queries are as wide as the towers; all else is the
recipe's. Then `vladapt fit` asks what it answers on the test studies:

findings   mean AUROC of five findings without labels: by texts that say that one is there, or not; by the queries of
           `medklip` and `medslip`. Guessing: 0.5.
retrieval  mean of R@1, R@5 and R@10 both ways, of whole reports. Guessing: 0.013 of 400 studies.
pointing   share of phrases whose map is highest inside the box, a finding counting alike. Guessing: the share of the
           image that the boxes cover.

In brackets: in how many seeds the lower limit of its 95 % interval is above guessing. Whatever lies in FOLDER is not
made again, so that a command that was stopped goes on; a seed is asked of all recipes before the next begins.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from usage import print_help

from vladapt import cli
from vladapt.core.backbones import load_backbone
from vladapt.core.data import csv_text
from vladapt.domains.medical.drawn_radiographs import FINDINGS, drawn_phrases, drawn_radiographs, render, study
from vladapt.domains.medical.reports.records import ABSENT, PRESENT, UNCERTAIN, ReportFinding, write_findings

BASELINE = "clip"
RECIPES = (BASELINE, "con-virt", "gloria", "medclip", "m-flag", "medklip", "medslip")
OF_QUERIES = ("medklip", "medslip")
OF_FINDER = ("m-flag",)
SHARES = {"train": 0.8, "test": 0.2}
NONE = 1
"""Studies of a split in which nothing is measured: retrieval among one."""
TOWERS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32, "pool_type": "avg"},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
NARROW = {"width": 64, "hidden": 256}
"""Of the decoder of queries, beside towers of width 64."""
WORDS_SEED, WORDS_STUDIES, WORDS_EPOCHS = 1000, 2000, 12
"""Studies from which the text tower learns words; no seed of the proof draws them."""
RATE = 1e-3
SECONDS = "cpu_seconds.txt"
STATES = {"present": PRESENT, "absent": ABSENT, "uncertain": UNCERTAIN}


@dataclass(frozen=True)
class Answer:
    """What a recipe answers on one seed's test studies.

    Attributes:
        value, low: the measure and the lower limit of its 95 % interval.
        guessing: of a model that knows nothing.
    """

    value: float
    low: float
    guessing: float


def set_of(folder: Path, seed: int, counts: Mapping[str, int]) -> Path:
    """The studies as a user has them: `reports`, images with a table of reports and labels; `phrases`, the same images
    with boxes; and a table of findings."""
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_reports(partial, counts, seed)
    _write_phrases(partial, counts, seed)
    return partial.rename(folder)


def _write_reports(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    images = folder / "reports" / "images"
    images.mkdir(parents=True)
    rows, findings = [], []
    for item in drawn_radiographs(counts, seed).items:
        name, shown = _name(item), study(seed, item.decode["number"])
        Image.fromarray(render(item)[..., 0]).save(images / f"{name}.png")
        labels = [int(label) for label in item.target.class_label()]
        rows.append([f"images/{name}.png", name, item.split, item.captions()[0], *labels])
        findings += [
            ReportFinding(name, finding, STATES[state], position=shown.places.get(finding, ""))
            for finding, state in shown.states.items()
            if state in STATES
        ]
    _write(folder / "reports" / "table.csv", ("image", "study_id", "split", "report", *FINDINGS), rows)
    write_findings(folder / "findings.csv", findings)


def _write_phrases(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    shutil.copytree(folder / "reports" / "images", folder / "phrases" / "images")
    rows = []
    for item in drawn_phrases(counts, seed).items:
        for text, label, boxes in zip(item.target.texts, item.target.labels, item.target.boxes, strict=True):
            for left, top, right, bottom in boxes:
                place = left, top, right - left, bottom - top
                rows.append([f"{_name(item)}.png", text, FINDINGS[label], _name(item), item.split, *place])
    _write(folder / "phrases" / "phrases.csv", ("image", "phrase", "finding", "patient", "split", *"xywh"), rows)


def words_of(store: Path) -> Path:
    """A tiny CLIP that has learned words, by InfoNCE on studies of its own."""
    folder = store / "words"
    folder.mkdir(parents=True, exist_ok=True)
    data = set_of(folder / "set", WORDS_SEED, {"train": WORDS_STUDIES, "val": NONE, "test": NONE})
    return pretrained(BASELINE, folder, data, towers_of(folder, WORDS_SEED), WORDS_EPOCHS)


def towers_of(folder: Path, seed: int, words: Path | None = None) -> str:
    """A tiny CLIP that has learned nothing, or has the text tower of `words`."""
    import open_clip

    config, weights = folder / "towers.json", folder / "towers.safetensors"
    if not weights.is_file():
        torch.manual_seed(seed)
        config.write_text(json.dumps(TOWERS))
        state = open_clip.CLIP(**TOWERS).state_dict()
        learned = {} if words is None else load_backbone(str(words), device="cpu").model.state_dict()
        state |= {name: learned[name] for name in state if name in learned and not name.startswith("visual.")}
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
    return f"open_clip:{config}@{weights}"


def pretrained(recipe: str, folder: Path, data: Path, towers: str, epochs: int) -> Path:
    """The model that a recipe trains."""
    out = folder / recipe
    asked = ["--loss", "clip", "--domain", "medical"] if recipe == BASELINE else ["--recipe", f"medical/{recipe}"]
    sets = [f"data.findings={data / 'findings.csv'}"]
    if recipe in OF_QUERIES:
        sets += [f"loss.{recipe}.{name}={value}" for name, value in NARROW.items()]
    if not (out / "run.json").is_file():
        resume = ["--resume"] if out.is_dir() else []
        how = ["--epochs", epochs, "--lr", RATE, "--batch-size", 64, "--generic", "none", "--device", "cpu"]
        where = ["--data", data / "reports", "--backbone", towers, "--out", out]
        run(folder, "pretrain", *asked, *where, *how, *(word for text in sets for word in ("--set", text)), *resume)
    return out / "model.safetensors"


def findings_of(recipe: str, folder: Path, data: Path, model: Path) -> Answer:
    """AUROC of findings without labels."""
    adapter = recipe if recipe in OF_QUERIES else "zero-shot"
    backbone = f"projected:{model}" if recipe in OF_FINDER else model
    told = fitted(
        folder / f"{recipe}-findings.json",
        *("--data", data / "reports", "--modality", "radiology", "--adapter", adapter, "--shots", 0),
        *("--backbone", backbone),
    )
    return Answer(told["adapted"]["auroc"], told["metric_intervals"]["adapted"]["auroc"][0], 0.5)


def retrieval_of(recipe: str, folder: Path, data: Path, model: Path) -> Answer:
    """Mean recall both ways, as the pre-training scored it."""
    metrics = json.loads((model.parent / "metrics.json").read_text())
    count = metrics["test_images"]
    directions = ("image_to_text", "text_to_image")
    keys = [f"{direction}/r{rank}" for direction in directions for rank in (1, 5, 10)]
    intervals = metrics["metric_intervals"]["adapted"]
    low = sum(intervals[key][0] for key in keys) / len(keys)  # of a mean it is narrower
    return Answer(metrics["adapted"]["mean_recall"], low, 16 / 3 / count)


def pointing_of(recipe: str, folder: Path, data: Path, model: Path) -> Answer:
    """Share of phrases whose map is highest inside their box."""
    told = fitted(
        folder / f"{recipe}-pointing.json",
        *("--task", "phrase-grounding", "--data", data / "phrases", "--backbone", model),
    )
    low = told["intervals"]["adapted"]["pointing"][0]
    return Answer(told["adapted"]["pointing"], low, told["guessing"]["pointing"])


Question = Callable[[str, Path, Path, Path], Answer]
QUESTIONS: Mapping[str, Question] = {"findings": findings_of, "retrieval": retrieval_of, "pointing": pointing_of}
ASKED = {
    BASELINE: ("findings", "retrieval", "pointing"),
    "con-virt": ("findings", "retrieval"),
    "gloria": ("findings", "retrieval", "pointing"),
    "medclip": ("findings", "retrieval"),
    "m-flag": ("findings", "retrieval"),
    **dict.fromkeys(OF_QUERIES, ("findings",)),
}
"""Recipe -> the questions that its row in docs/medical.md says it answers."""


def fitted(answer: Path, *flags: object) -> dict:
    """The metrics of a `vladapt fit`, kept in a file."""
    if not answer.is_file():
        runs = answer.with_suffix(".runs")
        shutil.rmtree(runs, ignore_errors=True)
        run(answer.parent, "fit", "--domain", "medical", "--device", "cpu", *flags, "--out", runs)
        [made] = runs.glob("*/metrics.json")
        answer.write_text(made.read_text())
    return json.loads(answer.read_text())


def run(folder: Path, *arguments: object) -> None:
    """A command of vladapt in this process, which need not start again each time; its CPU time goes into a file."""
    words, began = [str(each) for each in arguments], time.process_time()
    with (folder / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            cli.main(words)
        except SystemExit as ended:
            failed = ended.code
    if failed:
        sys.exit(f"vladapt {' '.join(words)}\n{folder / 'log.txt'} says why")
    with (folder / SECONDS).open("a") as seconds:
        seconds.write(f"{time.process_time() - began:.1f} {' '.join(words)}\n")


def cpu_seconds(store: Path) -> float:
    """Of all commands so far."""
    lines = [line for path in store.glob(f"*/{SECONDS}") for line in path.read_text().splitlines()]
    return sum(float(line.split()[0]) for line in lines)


def table(answers: Mapping[str, Mapping[str, list[Answer]]]) -> str:
    lines = [f"| recipe | {' | '.join(QUESTIONS)} |", f"|---|{'---:|' * len(QUESTIONS)}"]
    for recipe, of_recipe in answers.items():
        cells = [_cell(of_recipe.get(question, [])) for question in QUESTIONS]
        lines.append(f"| `{recipe}` | {' | '.join(cells)} |")
    of_question = [[each for of_recipe in answers.values() for each in of_recipe.get(name, [])] for name in QUESTIONS]
    guessed = [f"{sum(each.guessing for each in some) / len(some):.3f}" if some else "" for some in of_question]
    return "\n".join([*lines, f"| guessing | {' | '.join(guessed)} |"])


def main() -> None:
    given = parsed(sys.argv[1:])
    words = words_of(given.store)
    counts = {split: round(given.studies * share) for split, share in SHARES.items()} | {"val": NONE}
    answers: dict[str, dict[str, list[Answer]]] = {recipe: {} for recipe in given.recipes}
    for seed in range(given.seeds):
        folder = given.store / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        data, towers = set_of(folder / "set", seed, counts), towers_of(folder, seed, words)
        for recipe in given.recipes:
            model = pretrained(recipe, folder, data, towers, given.epochs)
            for question in ASKED[recipe]:
                answer = QUESTIONS[question](recipe, folder, data, model)
                answers[recipe].setdefault(question, []).append(answer)
                print(f"seed {seed} {recipe} {question}: {answer.value:.3f}, from {answer.low:.3f}", file=sys.stderr)
    print(table(answers))
    print(f"{cpu_seconds(given.store) / 60:.0f} minutes of CPU", file=sys.stderr)


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipes", nargs="*", default=[], metavar="RECIPE", choices=[*RECIPES, []])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args(words)
    given.recipes = given.recipes or list(RECIPES)
    return given


def _cell(some: list[Answer]) -> str:
    if not some:
        return ""
    above = sum(each.low > each.guessing for each in some)
    return f"{sum(each.value for each in some) / len(some):.3f} ({above} of {len(some)})"


def _name(item) -> str:
    return f"study{item.decode['number']:05d}"


def _write(path: Path, columns: tuple[str, ...], rows: list) -> None:
    path.write_text(csv_text(columns, rows))


if __name__ == "__main__":
    print_help(__doc__)
    main()
