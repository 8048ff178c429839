"""The card of a curated set: README.md, with the metadata that the Hugging Face hub reads at its head."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ..curation import KeptPairs, StageDone, open_table, stages_of, unchecked
from ..errors import DataError
from ..runtime.reading import read_json, sha256_of
from ..runtime.remote import is_url, printed_name
from ..shards.driver import PLAN
from .card import UNKNOWN, check_licence, markdown_table

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"))
MOST = 50
"""Rules of a stage that are listed."""
FOLDERS = re.compile(r"(?<![\w:/])(?:/|[A-Za-z]:\\)(?:[^\s/\\:]+[/\\])+")
"""Of a path in a sentence."""


@dataclass(frozen=True)
class CuratedSet:
    """What a card is about.

    Args:
        name: of the set.
        decisions: of its last stage.
        kept: of all its stages.
        licence: of the set as the hub writes it; None where it is not known.
        files: what -> file or folder that tells what is kept, for their hashes and the command.
    """

    name: str
    decisions: Path
    kept: KeptPairs
    licence: str | None = None
    files: Mapping[str, Path] | None = None


def dataset_card(made: CuratedSet) -> str:
    """README.md: what ran, resolved, with the hashes of decisions and inputs; no folder of the machine is named.

    Raises:
        DataError: a stage has not ended, or a licence is not written as the hub does.
    """
    from huggingface_hub import DatasetCardData

    check_licence("--licence", made.licence)
    stages = stages_of(made.decisions)
    count = len(made.kept)
    size = next((name for most, name in (*SIZES, *LARGER) if count < most), "n>1B")
    data = DatasetCardData(
        license=made.licence or UNKNOWN,
        pretty_name=made.name,
        size_categories=[size],
        tags=["vladapt", "image-text", "curated"],
    )
    sections = [
        [f"# {made.name}", _lead(stages, count)],
        ["## What each stage kept", _funnel(stages), *(_rules(stage) for stage in stages if stage.rules)],
        ["## How it was chosen", *(_settings(stage) for stage in stages)],
        ["## Weights", _weights(made.kept.weights)],
        ["## Sources", _sources(stages)],
        ["## Licence and consent", _licence(made.licence)],
        ["## What no stage could check", _unchecked(stages)],
        ["## Files", _files(made.files or {})],
    ]
    body = "\n\n".join("\n\n".join(part for part in section if part) for section in sections)
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _lead(stages: Sequence[StageDone], kept: int) -> str:
    total = stages[0].pairs
    return (
        f"{kept:,} of {total:,} pairs of image and text ({kept / max(1, total):.1%}), chosen by `vladapt curate` "
        f"({__version__}): {', '.join(stage.name for stage in stages)}."
    )


def _funnel(stages: Sequence[StageDone]) -> str:
    rows = [
        [
            each.name,
            f"{each.without_features:,}",
            f"{each.pairs:,}",
            f"{each.kept:,}",
            f"{each.kept / max(1, each.pairs):.1%}",
            f"{each.rewritten:,}",
            each.folder.name,
        ]
        for each in stages
    ]
    return markdown_table(
        ["stage", "without features", "pairs", "kept", "share", "with another text", "decisions"], rows
    )


def _rules(stage: StageDone) -> str:
    rows = [[rule, f"{count:,}"] for rule, count in stage.rules[:MOST]]
    return markdown_table([f"dropped by {stage.name}", "pairs"], rows)


def _settings(stage: StageDone) -> str:
    record = stage.record
    lines = [f"### {stage.name}"]
    options = {name: _without_folder(value) for name, value in (record.get("options") or {}).items()}
    lines.append(f"```json\n{json.dumps(options, indent=2)}\n```")
    facts = [f"Decisions `{stage.folder.name}`"]
    if (plan := stage.folder / PLAN).is_file():
        facts.append(f"digest of its inputs `{str(read_json(plan).get('inputs', UNKNOWN))[:16]}`")
    if encoder := _encoder(record):
        facts.append(f"features of the encoder `{encoder}`")
    lines.append(f"{', '.join(facts)}.")
    if stage.rewritten:
        lines.append(f"{stage.rewritten:,} pairs are kept with another text.")
    lines += [FOLDERS.sub("", note) for note in stage.notes]
    return "\n\n".join(lines)


def _encoder(record: Mapping[str, Any]) -> str:
    try:
        return open_table(Path(record["table"])).encoder if record.get("features") else ""
    except (DataError, KeyError):  # a table may be removed when all has been decided
        return ""


def _weights(weights: np.ndarray) -> str:
    weights = weights.astype(np.float64)
    if (weights == 1).all():
        return "All pairs have the weight 1."
    effective = weights.sum() ** 2 / (weights**2).sum()
    return (
        f"A pair should be seen as often as its weight says: {weights.min():.4g} to {weights.max():.4g}, "
        f"{weights.sum():,.0f} in all. They count as much as {effective:,.0f} pairs of equal weight."
    )


def _sources(stages: Sequence[StageDone]) -> str:
    """How many of which kind: names of files may be those of people."""
    named = dict.fromkeys(str(each) for stage in stages for each in stage.record.get("sources") or ())
    if not named:
        return "The pairs were given as features alone."
    kinds = Counter(Path(each.partition("?")[0]).suffix.lower() or "folder" for each in named)
    return "\n".join(f"* {count:,} x {kind}" for kind, count in sorted(kinds.items()))


def _licence(licence: str | None) -> str:
    own = f"The list is given out under {licence}. " if licence else ""
    return (
        f"{own}Images and texts have the licences of their sources, which the stages did not look at. Whoever is in "
        "them may ask for removal: `vladapt curate remove --ids FILE` takes pairs out of decisions and indices."
    )


def _unchecked(stages: Sequence[StageDone]) -> str:
    try:
        table = open_table(Path(stages[-1].record["table"]))
    except (DataError, KeyError):  # removed when all has been decided
        table = None
    return "\n".join(f"* {line}" for line in unchecked(table, stages, faces=True))


def _files(files: Mapping[str, Path]) -> str:
    rows = [
        [f"`{path.name}`", f"`{sha256_of(path)}`" if path.is_file() else "a folder"]
        for path in files.values()
        if path.exists() and path.name != "README.md"
    ]
    lines = [markdown_table(["file", "sha256"], rows)] if rows else []
    if (listed := files.get("list")) is not None:
        lines.append(f"```\nvladapt pretrain --data {listed.name} --out model\n```")
    return "\n\n".join(lines)


def _without_folder(value: Any) -> Any:
    """A path or URL without what belongs to the machine alone: folders, users and passwords."""
    if isinstance(value, (list, tuple)):
        return [_without_folder(each) for each in value]
    if not isinstance(value, str) or not value:
        return value
    if is_url(value):
        return printed_name(value)
    return Path(value).name if Path(value).is_absolute() or Path(value).exists() else value
