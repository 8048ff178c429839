"""`auto` on features of small public image sets, compared with the methods it chooses from and with scikit-learn.

    python benchmarks/methods_on_images.py                      # measures all sets and prints the tables
    python benchmarks/methods_on_images.py grocery clothing     # some of them
    python benchmarks/methods_on_images.py --page               # writes docs/measurements/images.md as well

The public data are in the folder that VLADAPT_DATA names; a set that is missing there is skipped, and a line says so.
The results of a set are kept in --out and not measured again unless its file there is deleted.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from adapter_page import between
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from vladapt import build_adapter
from vladapt.adapters.selection.auto import CANDIDATES
from vladapt.core.contracts.prepared import Shots
from vladapt.core.judgements.baselines import deciding_metric
from vladapt.core.metrics.significance import corrected_interval
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.contest import RepeatedSplits
from vladapt.core.tasks.classification.fitting import fit_adapter
from vladapt.core.tasks.classification.prepared import Prepared

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "images.md"
BEGIN, END = "<!-- written by benchmarks/methods_on_images.py --page -->", "<!-- end of what it writes -->"
SETS = {
    "grocery": ("natural", "general/grocery/images"),
    "clothing": ("natural", "general/clothing/images"),
    "coco boxes": ("natural", "detection_seg/coco_val128/instances_boxes.json"),
    "whu_rs19": ("natural", "remote_sensing/whu_rs19/images"),
    "rsscn7": ("natural", "remote_sensing/rsscn7/images"),
    "wbc": ("medical", "medical/wbc_classification/images"),
    "pneumoniamnist": ("medical", "medical/pneumoniamnist/images"),
    "bccd boxes": ("medical", "medical/bccd_detection/instances.json"),
}
SHOTS, SPLITS = (4, 16), 10
QUIET = Reporter(quiet=True)
AUTO, ZERO_SHOT = "auto", "zero-shot"
OTHERS = ("taskres", "clap", "ss-text", "tip-adapter-f")
METHODS = (ZERO_SHOT, *(name for name in CANDIDATES if name != ZERO_SHOT), *OTHERS, AUTO)
PROBES = PROBE, PROBE_OF_ALL = "scikit-learn", "scikit-learn, val too"


def scikit_learn(x, y, x_val, y_val, x_test, val_too=False):
    """Logistic regression; scaling and penalty are chosen on the validation images.

    Args:
        x, y: features and labels of the support.
        x_val, y_val: of the validation images.
        x_test: features of the test images.
        val_too: learn from the validation images as well, once these are chosen.
    """
    models = [
        make_pipeline(scaler, LogisticRegression(C=c, class_weight="balanced", max_iter=1000))
        for scaler in (StandardScaler(), Normalizer())
        for c in 10.0 ** np.arange(-4, 4)
    ]
    best = max(models, key=lambda model: balanced_accuracy(y_val, model.fit(x, y).predict(x_val)))
    if val_too:
        best.fit(np.concatenate([x, x_val]), np.concatenate([y, y_val]))
    return best.predict(x_test)


def balanced_accuracy(truth, answers) -> float:
    """The mean recall of the classes that occur."""
    return recall_score(truth, answers, labels=np.unique(truth), average="macro")


@dataclass(frozen=True)
class Measured:
    """One set.

    Args:
        metric: the one that decides: "accuracy" or "balanced_accuracy".
        test_images: of a split.
        classes: their number.
        splits: how many; 1 where the data name their test images.
        test_over_train: test images of a split divided by all its others.
        scores: "shots method" -> per split the score.
        taken: shots -> the method that `auto` took, per split.
        seconds: "shots method" -> mean seconds of a fit.
    """

    metric: str
    test_images: int
    classes: int
    splits: int
    test_over_train: float
    scores: Mapping[str, Sequence[float]]
    taken: Mapping[str, Sequence[str]]
    seconds: Mapping[str, float]

    def of(self, shots: int, method: str) -> Sequence[float]:
        return self.scores[f"{shots} {method}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets, of {', '.join(SETS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--out", type=Path, default=Path("runs/methods_on_images"), help="folder of the results")
    parser.add_argument("--splits", type=int, default=SPLITS, help="how often each set is split")
    parser.add_argument("--page", action="store_true", help="write docs/measurements/images.md")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SETS]:
        parser.error(f"there is no set {unknown[0]}; there are {', '.join(SETS)}")
    found = {name: of for name in given.names or SETS if (of := measured(name, given)) is not None}
    if not found:
        raise SystemExit(f"{given.data} has none of these sets; name the folder of the public data in VLADAPT_DATA")
    text = "\n".join(lines(found))
    print(text)
    if given.page:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), BEGIN, END, text), encoding="utf-8")


def measured(name: str, given: argparse.Namespace) -> Measured | None:
    """A set, measured or read; None where it is absent."""
    file = given.out / f"{name.replace(' ', '_')}-{given.splits}.json"
    if file.is_file():
        return Measured(**json.loads(file.read_text(encoding="utf-8")))
    domain, place = SETS[name]
    if not (given.data / place).exists():
        print(f"skipped: there is no {given.data / place}", file=sys.stderr)
        return None
    started = time.process_time()
    found = on_splits(domain, given.data / place, given.splits)
    print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr)
    given.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(vars(found), indent=1), encoding="utf-8")
    return found


def on_splits(domain: str, path: Path, splits: int) -> Measured:
    """All methods on all splits of one set, each on the same shots and the same features, without augmented views."""
    recipe = resolve(flags={"domain": domain, "data.path": str(path)})
    whole = task_of(recipe).prepared(recipe, QUIET)
    repeated = RepeatedSplits.of(whole, recipe.split_seed, splits, None, towers=False)
    metric = deciding_metric(whole.test.labels)
    score = balanced_accuracy if metric == "balanced_accuracy" else accuracy_score
    scores, taken, seconds = defaultdict(list), defaultdict(list), defaultdict(list)
    for number in range(splits):
        prepared, seed = repeated[number if repeated.count > 1 else 0], number + 1
        for count in SHOTS:
            shots = prepared.draw(count, seed)
            for method, answers, spent, took in answered(prepared, shots, seed):
                scores[f"{count} {method}"].append(score(shots.test.labels.numpy(), answers))
                seconds[f"{count} {method}"].append(spent)
                if took:
                    taken[str(count)].append(took)
    means = {key: statistics.fmean(of) for key, of in seconds.items()}
    size = {"test_images": len(whole.test), "classes": len(whole.class_names), "splits": repeated.count}
    return Measured(metric, **size, test_over_train=repeated.test_over_train, scores=scores, taken=taken, seconds=means)


def answered(prepared: Prepared, shots: Shots, seed: int) -> Iterator[tuple[str, np.ndarray, float, str]]:
    """Each method, its (N,) answers on the test images, its seconds, and which method `auto` took."""
    for name in METHODS:
        started, adapter = time.perf_counter(), build_adapter(name)
        fit_adapter(adapter, prepared, shots, seed, QUIET)
        spent = time.perf_counter() - started
        answers = adapter.logits(shots.test).argmax(dim=1).numpy()
        yield name, answers, spent, adapter.method if name == AUTO else ""
    known = [array.numpy() for each in (shots.support, shots.val) for array in (each.features, each.labels)]
    for name, val_too in ((PROBE, False), (PROBE_OF_ALL, True)):
        started = time.perf_counter()
        answers = scikit_learn(*known, shots.test.features.numpy(), val_too)
        yield name, answers, time.perf_counter() - started, ""


def lines(found: Mapping[str, Measured]) -> Iterator[str]:
    """Markdown: the sets, a table per number of shots with what it says in words, and the function of scikit-learn."""
    yield "| set | domain | data | classes | test images | splits | score |"
    yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    for name, each in found.items():
        domain, place = SETS[name]
        score = each.metric.replace("_", " ")
        yield f"| {name} | {domain} | `{place}` | {each.classes} | {each.test_images} | {each.splits} | {score} |"
    for shots in SHOTS:
        yield f"\n### {shots} shots per class\n"
        yield from table(found, shots)
        yield ""
        yield from checks(found, shots)
    yield "\n### The lines of scikit-learn\n"
    for function in (scikit_learn, balanced_accuracy):
        yield f"```python\n{inspect.getsource(function)}```"


def table(found: Mapping[str, Measured], shots: int) -> Iterator[str]:
    """A row per method: the deciding metric of each set, mean ± standard deviation over splits, and the mean."""
    yield f"| method | {' | '.join(found)} | mean | seconds per fit |"
    yield f"| --- |{' ---: |' * (len(found) + 2)}"
    for method in (*METHODS, *PROBES):
        of = [each.of(shots, method) for each in found.values()]
        cells = [f"{100 * statistics.fmean(scores):.1f} ± {100 * statistics.pstdev(scores):.1f}" for scores in of]
        seconds = statistics.fmean(each.seconds[f"{shots} {method}"] for each in found.values())
        yield f"| {method} | {' | '.join(cells)} | {mean(found, shots, method):.1f} | {seconds:.2f} |"


def checks(found: Mapping[str, Measured], shots: int) -> Iterator[str]:
    """Whether `auto` holds what it promises, how it stands to scikit-learn, and what it took."""
    means = {method: mean(found, shots, method) for method in METHODS if method != AUTO}
    best, own = max(means, key=means.get), mean(found, shots, AUTO)
    difference = f"{own - means[best]:+.1f} points"
    yield f"* Mean of `auto`: {own:.1f}. Best single method: `{best}`, {means[best]:.1f}. Difference: {difference}."
    yield f"* {_against_zero_shot(found, shots)}"
    for probe in PROBES:
        intervals = {name: gain(each, shots, AUTO, probe)[1] for name, each in found.items()}
        better = ", ".join(name for name, of in intervals.items() if of and of[0] > 0) or "no set"
        worse = ", ".join(name for name, of in intervals.items() if of and of[1] < 0) or "no set"
        difference = f"{own - mean(found, shots, probe):+.1f} points"
        sets = f"shown to be better on {better}, worse on {worse}"
        yield f"* `auto` compared with {probe}: {difference} on average; {sets}."
    took = Counter(name for each in found.values() for name in each.taken[str(shots)])
    fits = sum(took.values())
    yield f"* In {fits} fits, `auto` chose {', '.join(f'`{name}` in {times}' for name, times in took.most_common())}."


def mean(found: Mapping[str, Measured], shots: int, method: str) -> float:
    """Over sets, in percent."""
    return 100 * statistics.fmean(statistics.fmean(each.of(shots, method)) for each in found.values())


def gain(of: Measured, shots: int, method: str, other: str) -> tuple[float, tuple[float, float] | None]:
    """Points between two methods on one set, and their 95 % interval by the corrected resampled t-test, None of fewer
    than five splits."""
    pairs = zip(of.of(shots, method), of.of(shots, other), strict=True)
    gains = [100 * (one - another) for one, another in pairs]
    return statistics.fmean(gains), corrected_interval(gains, of.test_over_train)


def _against_zero_shot(found: Mapping[str, Measured], shots: int) -> str:
    gains = {name: gain(each, shots, AUTO, ZERO_SHOT) for name, each in found.items()}
    below = [name for name, (_, interval) in gains.items() if interval and interval[1] < 0]
    lowest = min(gains, key=lambda name: gains[name][0])
    points, interval = gains[lowest]
    between = " ({:+.1f} to {:+.1f})".format(*interval) if interval else ""
    least = f"its smallest gain over zero-shot is {points:+.1f}{between}, on {lowest}"
    where = ", ".join(below) or "no set"
    return f"Shown to be below zero-shot: on {where}; {least}."


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
