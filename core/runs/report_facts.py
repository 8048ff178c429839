"""The plain facts of a run for its report: what, on what, under which licence, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

KINDS = {
    "labels": "one label an image",
    "multilabel": "several labels an image",
    "clips": "one label a clip",
    "boxes": "boxes",
    "masks": "masks",
    "captions": "captions",
}
SPLITS = ("train", "val", "test")
MANY_ROWS = 40
SHOWN_PROMPTS = 4


def facts(info: dict[str, Any], classes: int) -> list[tuple[str, list[str]]]:
    """(term, lines) of what was adapted, on what; terms of which nothing is known are left out."""
    data, backbone, fit = info.get("data", {}), info.get("backbone"), info.get("fit", {})
    splits = info.get("splits", {})
    rows = [
        ("Domain and task", _joined(" · ", info.get("domain"), info.get("task"))),
        ("Data set", [*_joined("", data.get("name")), *_joined("", KINDS.get(data.get("kind", "")), data.get("path"))]),
        ("Classes", [str(classes)]),
        ("Labelled images", _shots(info, splits)),
        ("Backbone", _backbone(backbone)),
        ("Method", [*_joined("", info.get("adapter")), *_settings(info.get("adapter_options", {}))]),
        ("Chosen settings", [*_settings(fit.get("chosen", {})), *_chosen_on(fit)]),
        ("Prompts", _prompts(info.get("templates", ()))),
        ("Seed", _joined("", info.get("seed"))),
        ("Time taken", [f"{info['seconds']:.1f} s"] if "seconds" in info else []),
    ]
    return [(term, lines) for term, lines in rows if lines]


def share_of_counts(info: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any] | None:
    """Images per class and split: rows of few classes, the range of many; None where the run does not say."""
    counts = info.get("data", {}).get("counts")
    if not counts:
        return None
    splits = [split for split in SPLITS if split in counts]
    rows = [(name, [counts[split].get(name, 0) for split in splits]) for name in class_names]
    columns = list(zip(*(numbers for _, numbers in rows)))
    found = {"splits": splits, "rows": rows, "total": [sum(column) for column in columns], "range": None}
    if len(rows) > MANY_ROWS:
        found |= {"rows": [], "range": [f"{min(column)} to {max(column)}" for column in columns]}
    return found


def licences(info: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(part, name, licence); one that is not known says so."""
    backbone, data = info.get("backbone") or {}, info.get("data", {})
    known = [
        ("Weights", backbone.get("spec", "features from a file"), backbone.get("licence")),
        ("Data", data.get("name", "data set"), data.get("licence")),
        ("Software", "vladapt", "Apache-2.0"),
    ]
    return [(part, name, _licence(licence)) for part, name, licence in known]


def snippets(info: dict[str, Any], run_name: str, multilabel: bool) -> dict[str, str | None]:
    """Commands and Python that use the run; `predict` and `python` are None where there is no backbone."""
    commands = {"evaluate": f"vladapt eval {_shell(run_name)}"}
    backbone = info.get("backbone")
    if not backbone:
        return {**commands, "predict": None, "python": None}
    answer = "dict(zip(adapter.class_names_, adapter.predict(features)[0].tolist()))"
    size = (info.get("recipe") or {}).get("image_size")
    changed = (info.get("backbone") or {}).get("adapted_fingerprint")
    moved = "\nbackbone = adapter.adapted(backbone)  # its towers were trained" if changed else ""
    python = f"""\
import numpy as np
import vladapt
from PIL import Image

run = {_text(run_name)}
backbone = vladapt.load_backbone({_text(backbone["spec"])}{f", image_size={size}" if size else ""})
adapter = vladapt.load_adapter(f"{{run}}/adapter.safetensors", backbone).to(backbone.device){moved}
domain = vladapt.load_domain({_text(info.get("domain", ""))})
transform = domain.transforms(backbone, False, {_text(info.get("task", ""))})

image = np.asarray(Image.open("image.png").convert("RGB"))
pixels = transform(image)[None].to(backbone.device)
features = backbone.encode_image(pixels, normalize=False)
print({answer if multilabel else "adapter.class_names_[int(adapter.predict(features))]"})"""
    return {**commands, "predict": f"vladapt predict {_shell(run_name)} image.png", "python": python}


def _joined(separator: str, *values: Any) -> list[str]:
    """The values that are there: in one line, or, without a separator, a line each."""
    there = [str(value) for value in values if value not in (None, "")]
    return [separator.join(there)] if separator and there else there


def _shots(info: dict[str, Any], splits: dict[str, Any]) -> list[str]:
    lines = []
    if info.get("shots") is not None:
        lines.append(f"up to {info['shots']} a class")
    if splits.get("support"):
        lines.append(f"{len(splits['support'])} in all, drawn from the training images")
    if splits.get("val"):
        lines.append(f"{len(splits['val'])} more for choosing settings")
    return lines


def _backbone(backbone: dict[str, Any] | None) -> list[str]:
    if not backbone:
        return ["features from a file"]
    lines = [str(backbone.get("spec", ""))]
    if backbone.get("image_size"):
        lines.append(f"images at {backbone['image_size']} × {backbone['image_size']} pixels")
    if backbone.get("fingerprint"):
        lines.append(f"fingerprint {str(backbone['fingerprint'])[:16]}")
    return lines


def _settings(options: dict[str, Any]) -> list[str]:
    given = [f"{name} = {_value(value)}" for name, value in options.items() if value is not None]
    return [", ".join(given)] if given else []


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def _chosen_on(fit: dict[str, Any]) -> list[str]:
    if not fit.get("chosen_on"):
        return []
    score = fit.get("val_score")
    reached = "" if score is None else f"; score there {score:.3f}"
    return [f"on: {fit['chosen_on']}{reached}"]


def _prompts(templates: Sequence[str]) -> list[str]:
    shown = [f"“{template}”" for template in list(templates)[:SHOWN_PROMPTS]]
    more = len(templates) - len(shown)
    return shown + ([f"and {more} more (run.json has all)"] if more > 0 else [])


def _licence(licence: str | None) -> str:
    return licence if licence and licence != "unknown" else "not known; find out before you share or deploy"


def _shell(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _text(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)
