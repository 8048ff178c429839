"""The judge without labels: fits its coefficients, and tests them on data sets that were left out of the fit.

    python benchmarks/unlabelled_judge.py fits judged.jsonl     # many small fits, a line each; resumes if stopped
    python benchmarks/unlabelled_judge.py table judged.jsonl    # the coefficients, and how often the judge is right

Methods that need no labels are fitted on batches of seven real data sets (one with four real CLIP backbones, six with
the default backbone) and of generated ones. Each fit is a line: the evidence from the images
(`core/confidence/without_labels.py`), and, by the labels, how many images it won and lost against zero-shot. The
coefficients are those of a logistic regression, fitted on all sets except WHU-RS19, that predicts from the evidence
whether more were won or lost; the weight of a fit grows with the significance of its difference, and each data set
counts by the square root of the weights of its fits. The table leaves each real data set out in turn, with all its
backbones. For the fits in which a paired test tells the two models apart (McNemar, p < .05) it shows how often the
better one was kept.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from unlabelled_sets import UnlabelledSet, clip_sets, generated_sets, image_sets
from usage import print_help

from vladapt import build_adapter
from vladapt.core.confidence.without_labels import SURE_ENOUGH, Evidence
from vladapt.core.data.test_batches import few_class_batch

METHODS = {
    "transclip": {"mode": "zero-shot"},
    "stat-a": {},
    "zlap": {},
    "onzeta": {},
    "tda": {},
    "dmn": {},
    "reclip": {"train": False},
}
BATCHES, GENERATED = 12, 32
EVERY = 10**6
DRAWS = {
    **{f"{low} to {high}, 64 images": (low, high, 64, 1) for low, high in ((1, 4), (2, 10), (5, 25))},
    "all, 64 images": (EVERY, EVERY, 64, 1),
    "1 to 4, 200 images": (1, 4, 200, 2),
    "all, 300 images": (EVERY, EVERY, 300, 3),
    "all images": (EVERY, EVERY, EVERY, BATCHES),
}
"""Column -> how many classes, at least and at most, images, and what the number of batches is divided by."""
SIGNALS = ("support", "merged", "changed")
FEWEST = 8
SHOWN = "WHU-RS19"
"""The data set on which pages show the judge at work; the coefficients that are printed do without it."""


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("fits", "table"):
        raise SystemExit("give fits or table, and the file of the fits")
    path = Path(sys.argv[2])
    if sys.argv[1] == "fits":
        write_fits(path)
    else:
        print("\n".join(table([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])))


def write_fits(path: Path) -> None:
    """A line per fit; data sets that the file has already are passed over."""
    done = set()
    if path.exists():
        done = {(row["set"], row["backbone"]) for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    sets = [*clip_sets(), *image_sets(path.parent), *generated_sets(GENERATED)]
    for number, each in enumerate(sets, 1):
        if (each.name, each.backbone) not in done:
            lines = [json.dumps(row) + "\n" for row in fits_of(each, BATCHES if each.backbone != "generated" else 6)]
            with path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        print(f"{number} of {len(sets)}: {each.name}, {each.backbone}", flush=True)


def fits_of(data: UnlabelledSet, batches: int) -> Iterator[dict]:
    """Each method on each batch."""
    labels = data.features.labels.numpy()
    for column, (low, high, images, divided) in DRAWS.items():
        random = np.random.RandomState(7)
        for batch in range(max(1, batches // divided)):
            rows = torch.from_numpy(few_class_batch(labels, low, high, images, random))
            if len(rows) >= FEWEST:
                for method, options in METHODS.items():
                    where = {"set": data.name, "backbone": data.backbone, "column": column, "batch": batch}
                    yield {**where, "method": method, **judged(data, rows, method, options)}


def judged(data: UnlabelledSet, rows: torch.Tensor, method: str, options: dict) -> dict:
    """What the images say of one fit, and what their labels do."""
    batch = data.features.select(rows)
    images, adapter = batch.without_labels(), build_adapter(method, **options)
    adapter.fit(None, data.text, unlabeled=images)
    before, after = data.text.logits(images.unit), adapter.logits(images)
    halves = Evidence.answers_by_halves(adapter, data.text, images, 0)
    found = Evidence.of(images.unit, before, after, halves=halves)
    told = found.with_labels(before, after, batch.labels)
    signals = {name: getattr(found, name) for name in (*SIGNALS, "steadiness")}
    return {**signals, "images": len(rows), "won": told.won, "lost": told.lost}


def table(rows: list[dict]) -> Iterator[str]:
    """Coefficients, then the share of separable fits in which the better was kept, each real set left out in turn."""
    real = [name for name in dict.fromkeys(row["set"] for row in rows) if not name.startswith("generated")]
    rows = [row for row in rows if row["won"] + row["lost"] > 0]
    shown_elsewhere = [row for row in rows if row["set"] != SHOWN]
    for signals in (SIGNALS, (*SIGNALS, "steadiness")):
        constant, coefficients = regression(shown_elsewhere, signals)
        said = ", ".join(f"{name} {value:.2f}" for name, value in zip(signals, coefficients))
        yield f"constant {constant:.2f}, {said}"
    yield ""
    yield "| left out | fits told apart | always zero-shot | always adapted | the judge | with halves of the prompts |"
    yield "|---|---:|---:|---:|---:|---:|"
    counted: dict[str, list[list[bool]]] = defaultdict(list)
    for name in [*real, "generated"]:
        kept = [by_set(rows, name, signals) for signals in (SIGNALS, (*SIGNALS, "steadiness"))]
        counted[name] = [[not better for better, _ in kept[0]], [better for better, _ in kept[0]]]
        counted[name] += [[better == keeps for better, keeps in each] for each in kept]
        yield _line(name, counted[name])
    yield _line("all real sets", [[kept for name in real for kept in counted[name][i]] for i in range(4)])


def by_set(rows: list[dict], left_out: str, signals: tuple[str, ...]) -> list[tuple[bool, bool]]:
    """(adapted is better, adapted is kept) of the fits told apart on a set, by the regression on all others."""
    from scipy.stats import binomtest

    outside = [row for row in rows if not row["set"].startswith(left_out)]
    constant, coefficients = regression(outside, signals)
    found = []
    for row in rows:
        if not row["set"].startswith(left_out) or binomtest(row["won"], row["won"] + row["lost"]).pvalue >= 0.05:
            continue
        odds = constant + float(np.dot(coefficients, [row[name] or 0.0 for name in signals]))
        found.append((row["won"] > row["lost"], 1 / (1 + np.exp(-odds)) >= SURE_ENOUGH))
    return found


def regression(rows: list[dict], signals: tuple[str, ...]) -> tuple[float, np.ndarray]:
    """Constant and coefficients of the log odds that a fit is better than zero-shot."""
    from sklearn.linear_model import LogisticRegression

    x = np.array([[row[name] or 0.0 for name in signals] for row in rows])
    won, lost = (np.array([row[key] for row in rows], float) for key in ("won", "lost"))
    weights, of_set = np.abs(won - lost) / np.sqrt(won + lost), Counter()
    for row, weight in zip(rows, weights):
        of_set[row["set"]] += weight
    weights = weights / np.sqrt([max(of_set[row["set"]], 1e-9) for row in rows])
    scale = x.std(axis=0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=2000).fit(x / scale, won > lost, sample_weight=weights)
    return float(model.intercept_[0]), model.coef_[0] / scale


def _line(name: str, columns: list[list[bool]]) -> str:
    shares = " | ".join(f"{100 * np.mean(column):.0f} %" if column else "–" for column in columns)
    return f"| {name} | {len(columns[0])} | {shares} |"


if __name__ == "__main__":
    print_help(__doc__)
    torch.set_num_threads(1)
    main()
