"""The table of docs/measurements/adapters.md: a row per adapter, from its docstring, class and measured rows."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Sequence

from vladapt.core.registry import adapter_class, catalogue

BEGIN, END = "<!-- table: written by benchmarks/adapters.py page -->", "<!-- end of the table -->"
GROUPS = {
    "selection": "a choice among fast methods",
    "cache": "a memory of the shots beside zero-shot",
    "head": "a head on the image features",
    "prompt": "words or tokens that are learned",
    "weights": "weights of the towers",
    "transductive": "the test images together",
    "selftraining": "labels that it makes itself",
    "testtime": "the test images one by one, or in views of each",
    "crops": "parts of the image",
    "video": "frames of a clip",
}
IN_WORDS = {
    "views": "augmented views",
    "parts": "parts of samples",
    "pre_projection": "features before the projection",
    "text_encoder": "text tower",
    "pixels": "images for training",
    "images": "images",
    "unlabeled": "all test images at once",
    "descriptions": "sentences about classes",
    "captions": "captions",
    "boxes": "boxes",
    "support_folder": "a folder of images by class name",
    "synonyms": "synonyms",
    "further_backbones": "further backbones",
    "ctx": "a learned context",
    "keys": "image features of another backbone",
    "base": "a fitted run to start from",
    "attributes": "sentences about classes",
    "pair_attributes": "sentences that tell two classes apart",
    "vocabulary": "a list of words",
    "realign_prompts": "sentences that tell words apart",
}


def with_table(text: str, rows: Sequence[dict]) -> str:
    """The page with the table between its two marks written anew."""
    return between(text, BEGIN, END, table(rows))


def between(text: str, begin: str, end: str, body: str) -> str:
    """A page with what stands between two marks replaced.

    Raises:
        ValueError: the page lacks one of them.
    """
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the page has no line {begin if not begun else end}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def table(rows: Sequence[dict]) -> str:
    """Markdown, one row per adapter of this package that was measured."""
    measured = {row["adapter"] for row in rows}
    entries = {name: entry for name, entry in catalogue.adapters().items() if name in measured}
    groups = {name: list(GROUPS).index(entry.group or entry.domain) for name, entry in entries.items()}
    order = sorted(entries, key=lambda name: (groups[name], name))
    return "\n".join([HEADER, RULER, *(_row(name, rows) for name in order)])


def _row(name: str, rows: Sequence[dict]) -> str:
    measured = [row for row in rows if row["adapter"] == name]
    cells = [f"`{name}`{_mark(measured)}", _summary(name), _needs(name), *_measured(measured), _paper(name)]
    return f"| {' | '.join(cells)} |"


def _mark(measured: Sequence[dict]) -> str:
    if not measured:
        return ""
    options = f" ({measured[0]['options'].replace('=', ' ')})" if measured[0]["options"] else ""
    marks = ["²"] * (measured[0]["backbone"] != "embedded")
    marks += ["³"] * bool(catalogue.adapters()[measured[0]["adapter"]].domain)
    return options + "".join(f" {mark}" for mark in marks)


def _summary(name: str) -> str:
    """The first sentence of the method's module, without its name."""
    module = inspect.getmodule(adapter_class(name))
    first = " ".join(module.__doc__.split("\n\n")[0].split())
    said = (first.partition(": ")[2] or first).rstrip(".")
    return said[0].lower() + said[1:]


def _needs(name: str) -> str:
    cls = adapter_class(name)
    needed = [IN_WORDS[need] for need in IN_WORDS if need in cls.needs | (cls.at_predict - {"text_encoder"})]
    if not cls.transductive:
        needed = ["images without labels" if words == IN_WORDS["unlabeled"] else words for words in needed]
    needed += [f"({IN_WORDS[need]})" for need in IN_WORDS if need in cls.optional]
    return ", ".join(needed) or "–"


def _measured(measured: Sequence[dict]) -> list[str]:
    """Parameters, seconds, MiB, then the gain at each number of shots."""
    if not measured:
        return ["–"] * 6
    most = max(row["shots"] for row in measured)
    at_most = [row for row in measured if row["shots"] == most]
    seconds = statistics.fmean(row["seconds"] for row in at_most)
    trained = max(row["trained_parameters"] for row in at_most)
    memory = max(row["mebibytes"] for row in at_most)
    return [f"{trained:,}", _short(seconds), f"{memory:,}", *(_gain(measured, shots) for shots in (1, 4, 16))]


def _gain(measured: Sequence[dict], shots: int) -> str:
    """Points of accuracy over zero-shot, mean ± population standard deviation over seeds."""
    gains = [100 * (row["accuracy"] - row["zero_shot"]) for row in measured if row["shots"] in (shots, 0)]
    if not gains:
        return "–"
    spread = f" ± {statistics.pstdev(gains):.1f}" if len(gains) > 1 else ""
    return f"{statistics.fmean(gains):+.1f}{spread}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _paper(name: str) -> str:
    cls = adapter_class(name)
    text = f"{cls.__doc__} {inspect.getmodule(cls).__doc__}"
    found = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", text)
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else "–"


HEADER = (
    "| adapter | what it is | needs besides features | trained parameters | seconds | MiB | gain, 1 shot | 4 shots "
    "| 16 shots | paper |"
)
RULER = "|---|---|---|---:|---:|---:|---:|---:|---:|---|"
