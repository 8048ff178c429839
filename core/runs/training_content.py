"""What the report of a training on pairs shows, as plain values: its template only lays them out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts.errors import DataError
from ..metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from .pictures import data_uri
from .report_facts import SPLITS, licences
from .training_plots import training_curves
from .training_verdict import verdict_of_generic, verdict_of_retrieval, warnings_of_training

SKIPPED_ROWS = 200
DIRECTIONS = {
    IMAGE_TO_TEXT: "An image finds a text of its own",
    TEXT_TO_IMAGE: "A text finds its image",
}
SCORES = {
    "r1": ("R@1", "the right one comes first", "share"),
    "r5": ("R@5", "it is among the first five", "share"),
    "r10": ("R@10", "it is among the first ten", "share"),
    "median_rank": ("Median rank", "where it comes; 1 is best", "rank"),
    "mean_rank": ("Mean rank", "where it comes; 1 is best", "rank"),
    "map": ("Mean average precision", "all right ones early; 100% is best", "share"),
}
Shown = Sequence[Sequence[Any]]


def training_content(
    folder: str, info: Mapping[str, Any], metrics: Mapping[str, Any], history, examples, before, after
) -> dict[str, Any]:
    """Every value of the template, from the arguments of `write_training_report`."""
    notes, data = list(info.get("notes") or ()), info.get("data") or {}
    skipped, losses = list(info.get("skipped") or ()), dict(info.get("losses") or {})
    generic, curves = metrics.get("generic"), training_curves(history, losses, info.get("best_epoch"))
    return {
        "created": str(info.get("created") or "")[:16].replace("T", " "),
        "data_name": data.get("name") or "image-text pairs",
        "backbone": _short((info.get("backbone") or {}).get("spec") or "a backbone"),
        "objective": " + ".join(_loss(name, weight) for name, weight in losses.items()),
        "epochs": len(history),
        "train_pairs": (data.get("splits") or {}).get("train"),
        "test": _test(metrics),
        "verdict": verdict_of_retrieval(metrics, info.get("verdict") or ""),
        "warnings": warnings_of_training(metrics, history, notes),
        "notes": notes,
        "scores": _scores(metrics),
        "generic": generic,
        "generic_verdict": verdict_of_generic(generic) if generic else None,
        "curves": [curve for curve in curves if curve.main],
        "parts": [curve for curve in curves if not curve.main],
        "examples": _examples(examples, before, after) if examples is not None else None,
        "facts": _facts(info, data, losses),
        "settings": [(name, _value(value)) for name, value in (info.get("settings") or {}).items()],
        "skipped": skipped[:SKIPPED_ROWS],
        "skipped_total": len(skipped),
        "licences": licences({"backbone": {"spec": "not said", **(info.get("backbone") or {})}, "data": data}),
        "use": _use(info.get("model")),
        "versions": info.get("versions") or {},
        "folder": folder,
    }


def _test(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """R@1 of both directions, and what guessing gets; None where nothing was measured."""
    if not metrics.get("adapted"):
        return None
    before, after, intervals = metrics.get("zero_shot"), metrics["adapted"], metrics.get("intervals") or {}
    directions = []
    for side, title in DIRECTIONS.items():
        key = f"{side}/r1"
        rows = [("Guessing", "floor", 1 / metrics["test_images"], None)]
        if before:
            rows.append(("Before", "zero_shot", before[key], (intervals.get("zero_shot") or {}).get(side)))
        rows.append(("After", "adapted", after[key], (intervals.get("adapted") or {}).get(side)))
        keys = ("name", "kind", "value", "interval")
        directions.append(
            {
                "title": title,
                "before": before[key] if before else None,
                "after": after[key],
                "rows": [dict(zip(keys, row)) for row in rows],
            }
        )
    return {"images": metrics["test_images"], "texts": metrics["test_texts"], "directions": directions}


def _scores(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of retrieval, a group a direction."""
    before, after = metrics.get("zero_shot") or {}, metrics.get("adapted") or {}
    intervals = metrics.get("intervals") or {}
    groups = []
    for side, title in DIRECTIONS.items():
        rows = [_score_row(f"{side}/{name}", words, before, after) for name, words in SCORES.items()]
        for when, key in (("before", "zero_shot"), ("after", "adapted")):
            rows[0][f"{when}_interval"] = (intervals.get(key) or {}).get(side)
        groups.append({"title": title, "rows": rows})
    if "accuracy" in after:
        words = ("Accuracy", "its class, named by what is said of images of each", "share")
        row = _score_row("accuracy", words, before, after)
        for when, key in (("before", "zero_shot"), ("after", "adapted")):
            row[f"{when}_interval"] = (intervals.get(key) or {}).get("accuracy")
        groups.append({"title": "The class of an image", "rows": [row]})
    return groups if after else []


def _score_row(key: str, words: tuple[str, str, str], before, after) -> dict[str, Any]:
    name, meaning, kind = words
    old, new = before.get(key), after.get(key)
    row = {"name": name, "meaning": meaning, "before": _score(old, kind), "after": _score(new, kind)}
    if old is None or new is None:
        return {**row, "change": "–", "tone": ""}
    change = round(new - old, 3 if kind == "share" else 1)
    text = f"{100 * change:+.1f}" if kind == "share" else f"{change:+,.1f}"
    good = change > 0 if kind == "share" else change < 0
    return {**row, "change": text.replace("-", "−"), "tone": "" if not change else "up" if good else "down"}


def _score(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if kind == "share" else f"{value:,.1f}"


def _examples(examples, before: Shown | None, after: Shown | None) -> dict[str, Any] | None:
    """What each query finds, before and after; None where neither was looked at."""
    sides = [(name, found) for name, found in (("Before", before), ("After", after)) if found]
    shown, unreadable = [], 0
    for place, query in enumerate(examples.queries if sides else ()):
        found = [(name, each[place]) for name, each in sides]
        if all(row for _, row in found):
            ranks = [row[0].right_rank for _, row in found]
            rows = [
                {"name": name, "rank": rank, "images": [_found(examples, one) for one in row]}
                for (name, row), rank in zip(found, ranks)
            ]
            rows[-1]["tone"] = _tone(ranks)
            shown.append({"caption": query.caption, "own": _picture(examples, query.row), "rows": rows})
        else:
            unreadable += 1
    if not sides:
        return None
    return {"queries": shown, "among": len(examples.gallery), "unreadable": unreadable, "compared": len(sides) > 1}


def _tone(ranks: Sequence[int]) -> str:
    if len(ranks) < 2 or ranks[0] == ranks[1]:
        return ""
    return "up" if ranks[1] < ranks[0] else "down"


def _found(examples, one) -> dict[str, Any]:
    kind = "right" if one.right else "same" if getattr(one, "same_words", False) else ""
    return {"image": _picture(examples, one.row), "score": one.score, "kind": kind}


def _picture(examples, row: int) -> str | None:
    """None where the image can no longer be read."""
    try:
        return data_uri(examples.load_image(row))
    except DataError:
        return None


def _facts(info: Mapping[str, Any], data: Mapping[str, Any], losses: Mapping[str, float]) -> list:
    """(term, lines); terms of which nothing is known are left out."""
    backbone, options = info.get("backbone") or {}, info.get("loss_options") or {}
    splits = data.get("splits") or {}
    names = [name for name in (*SPLITS, *(set(splits) - set(SPLITS))) if name in splits]
    parameters, speed = info.get("trained_parameters"), info.get("samples_per_second")
    fingerprint, best, steps = backbone.get("fingerprint"), info.get("best_epoch"), info.get("steps")
    rows = [
        ("Started from", [backbone.get("spec"), fingerprint and f"fingerprint {str(fingerprint)[:16]}"]),
        ("Losses", [_loss(name, weight) + _options(options.get(name)) for name, weight in losses.items()]),
        ("Teacher", [info.get("teacher")]),
        ("Data set", [data.get("name"), data.get("path") if data.get("path") != data.get("name") else None]),
        ("Pairs", [_count(data.get("images"), "image") + _count(data.get("texts"), "text", before=" with ")]),
        ("Splits", [" · ".join(f"{name} {splits[name]:,}" for name in names)]),
        ("Trained", [_millions(parameters) if parameters is not None else None]),
        ("Steps", [f"{steps:,}" if steps is not None else None, best and f"the weights of epoch {best} were kept"]),
        ("Seed", [info.get("seed")]),
        ("Time taken", [_duration(info.get("seconds")), speed and f"{speed:,.1f} images a second in training"]),
        ("Model", [info.get("model")]),
    ]
    there = [(term, [str(line) for line in lines if line not in (None, "")]) for term, lines in rows]
    return [(term, lines) for term, lines in there if lines]


def _use(model: str | None) -> dict[str, str] | None:
    """Commands and Python that take the model as a backbone."""
    if not model:
        return None
    path = shlex.quote(str(model))
    return {
        "adapt": f"vladapt fit --domain NAME --data FOLDER --backbone {path}",
        "index": f'vladapt index FOLDER --out photos.index --backbone {path}\nvladapt search photos.index "what you '
        'look for"',
        "python": f"import vladapt\n\nbackbone = vladapt.load_backbone({str(model)!r})",
    }


def _loss(name: str, weight: float) -> str:
    return name if weight == 1 else f"{weight:g} × {name}"


def _options(options: Mapping[str, Any] | None) -> str:
    return "".join(f", {name} = {_value(value)}" for name, value in (options or {}).items())


def _value(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(count: int | None, unit: str, before: str = "") -> str:
    return "" if count is None else f"{before}{count:,} {unit}{'' if count == 1 else 's'}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} million parameters" if count >= 1e6 else f"{count:,} parameters"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _short(spec: str) -> str:
    """A backbone's spec without the folders in it."""
    return re.sub(r"[^@:\s]*/", "", spec) if re.search(r"\.\w+$", spec) else spec
