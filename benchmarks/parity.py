"""How far our numbers are from outputs of the public reference code, as the Markdown of docs/parity.md.

    python benchmarks/parity.py --parity FOLDER > docs/parity.md

FOLDER holds the reference outputs (NAME.safetensors with NAME.json) in `dev/`, and the tiny CLIP beside it; the default
is the folder `parity` beside the one that VLADAPT_DATA names. The comparisons are in `parity_checks`, one file per
group. Sizes and settings are read from the fixtures. A fixture that is missing, or cannot be read, has a row that says
so. The exit code is 1 if a number is outside its tolerance, otherwise 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from parity_checks import (
    adversarial_losses,
    attacks,
    bags,
    cache,
    caption_losses,
    chest_xrays,
    composed,
    compositional,
    confidence,
    continual,
    crops,
    deduplication,
    detectors,
    distillation,
    faster_towers,
    filters,
    from_above,
    head,
    joined,
    knowledge_losses,
    languages,
    losses,
    metrics,
    mixing,
    person,
    person_search,
    prompt,
    pseudo_labels,
    query_losses,
    radiographs,
    re_identification,
    robustness,
    sampling,
    segmentors,
    self_supervised,
    selftraining,
    subsets,
    testtime,
    towers,
    transductive,
    unlike_images,
    video,
    video_losses,
    video_patches,
    video_towers,
)
from parity_checks.comparison import NotCompared
from parity_checks.fixtures import Check, Fixtures

from vladapt.core.registry import adapter_class, catalogue, loss_class

METHODS = (
    *(head, cache, prompt, towers, transductive, selftraining, pseudo_labels, testtime, crops, bags, confidence),
    *(video, video_patches, video_towers),
)
LOSSES = (
    *(losses, caption_losses, self_supervised, continual, distillation, person, person_search),
    *(video_losses, query_losses, knowledge_losses, adversarial_losses),
)
ROOMS = {
    "Methods": METHODS,
    "Losses": LOSSES,
    "Metrics, selection and sampling": (metrics, sampling, composed),
    "Open vocabulary": (detectors, segmentors),
    "Remote sensing": (from_above,),
    "People": (re_identification,),
    "Medical images": (radiographs, chest_xrays),
    "Curation": (filters, deduplication, subsets),
    "Towers joined": (joined, mixing, faster_towers),
    "Compositional questions": (compositional,),
    "Languages": (languages,),
    "Robustness": (robustness, attacks, unlike_images),
}
ELSEWHERE = {
    "denseclip": "in the tests of `domains/open_vocab`",
    "mmcv_ops": "in the tests of `domains/open_vocab`",
    "regionclip": "in the tests of `domains/open_vocab`",
    "segclip_group": "in the tests of `domains/open_vocab`",
    "universal_model": "in the tests of `domains/medical`",
}
TOP = """# Agreement with the public reference code

Made by `python benchmarks/parity.py --parity FOLDER > docs/parity.md`. Fixtures hold outputs of the authors' code. A
value agrees if |ours - reference| <= atol + rtol |reference|, with the tolerance that its fixture states, never a wider
one; 100 % of the tolerance is the limit. Integers must be equal. Everything is computed in float32 on the CPU.

The largest error is in the unit of its value (logits of scale 100, percent, a precision matrix). It need not belong to
the value in the last column, which uses the largest share of its tolerance. If a fixture contains the effect of a
defect in the released code, the lists below the tables say so."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(os.environ.get("VLADAPT_DATA", "../shared/data")).parent / "parity"
    parser.add_argument("--parity", type=Path, default=beside)
    folder = parser.parse_args().parity
    if not folder.is_dir():
        parser.error(f"there is no folder {folder}; give that of the reference outputs with --parity")
    fixtures, rows = Fixtures(folder), []
    print(TOP)
    for title, files in ROOMS.items():
        found = [row for file in files for comparison in file.GROUPS for row in comparison.rows(fixtures)]
        rows += found
        print(f"\n## {title}\n\n{table(found)}\n\n### Where ours differs from the released code on purpose\n")
        told = {name: text for file in files for name, text in getattr(file, "DEVIATIONS", {}).items()}
        for name, text in sorted({**told, **differences(title)}.items()):
            print(f"* **{name}**: {text}.")
    print(f"\n## Fixtures without a row\n\n{without_a_row(fixtures, {row.fixture for row in rows})}")
    for row in rows:
        if isinstance(row, NotCompared):
            print(f"not compared: {row.method} {row.fixture}: {row.why}", file=sys.stderr)
    failed = [row for row in rows if isinstance(row, Check) and not row.share <= 1]
    if failed:
        raise SystemExit(
            "\n".join(f"outside its tolerance: {c.method} {c.fixture} {c.what}: {c.error:.3g}" for c in failed)
        )


def differences(title: str) -> dict[str, str]:
    """Name -> where a method or loss differs from its released code, as its own file says."""
    kinds = {"Methods": (catalogue.adapters, adapter_class), "Losses": (catalogue.losses, loss_class)}
    if title not in kinds:
        return {}
    entries, load = kinds[title]
    classes = {name: load(name) for name, entry in entries().items() if entry.entry_point is None}
    return {name: cls.differs for name, cls in classes.items() if cls.differs}


def table(rows: list[Check | NotCompared]) -> str:
    """One row per method and fixture: how many values were compared, and the worst errors; one more where it was cut
    short."""
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for row in rows:
        why = row.why if isinstance(row, NotCompared) else ""
        group = groups.setdefault((row.method, row.fixture, why), [])
        if isinstance(row, Check):
            group.append(row)
    lines = [
        "| method | fixture | comparisons | largest error | share of tolerance | worst value |",
        "|---|---|---:|---:|---:|---|",
    ]
    for (method, fixture, why), checks in groups.items():
        lines.append(f"| {method} | {fixture} | {len(checks)} | {_worst(checks) if checks else f'| | {why}'} |")
    return "\n".join(lines)


def _worst(checks: list[Check]) -> str:
    """The largest error, the largest share of a tolerance, and in what that is; NaN is worse than any number."""
    worst = max(checks, key=lambda check: (check.share != check.share, check.share))
    return f"{max(check.error for check in checks):.1e} | {worst.share:.0%} | {worst.what}"


def without_a_row(fixtures: Fixtures, compared: set[str]) -> str:
    """Where else, or why not."""
    names = set(fixtures.names()) - compared
    lines = [f"* `{name}` is compared {where}." for name, where in ELSEWHERE.items() if name in names]
    if later := ", ".join(sorted(f"`{name}`" for name in names - ELSEWHERE.keys())):
        lines.append(f"* For methods that vladapt does not have: {later}.")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
