"""Person search on public sets, our numbers beside the published ones, and zero-shot on a small public set.

    python benchmarks/person.py [--backbone SPEC] [--recipes irra clip ...] [--seeds 1] [--set KEY=VALUE ...]

VLADAPT_DATA names the folder of the data sets. Each recipe is trained on `person/cuhk_pedes`, `person/icfg_pedes` and
`person/rstpreid` in it, best on a GPU, and has a row beside the published numbers; a set that is missing is skipped.
`person/intel_oneperson_reid` is searched by sentences without any training, with all its pictures as the gallery: six
people in few outfits are easily told apart, so this says little. Runs are kept in runs/.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import vladapt
from vladapt.core.backbones.load import load_backbone
from vladapt.core.metrics.retrieval import TEXT_TO_IMAGE
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.retrieval.scoring import DomainPairs, evaluate_retrieval
from vladapt.domains.person import Person
from vladapt.domains.person.tasks.person_search import PeoplePairs

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SETS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
PUBLISHED = (
    ("CLIP fine-tuned", "ViT-B/16", ((68.19, None), (56.74, None), (54.05, None)), "IRRA's README"),
    ("IRRA", "ViT-B/16", ((73.38, 66.13), (63.46, 38.05), (60.20, 47.17)), "its README"),
    ("UniPT", "ViT-B/16 and BERT", ((68.50, None), (60.09, None), (51.85, None)), "its abstract"),
    ("PLIP, CMPM and CMPC", "ResNet-50", ((69.23, None), (64.25, None), (None, None)), "its README"),
    ("RaSa", "ALBEF", ((76.51, 69.38), (65.28, 41.29), (66.90, 52.31)), "its README"),
)
"""Method, tower, (Rank-1, mAP) of text to image on each of the sets, where it was read."""
EASY = "intel_oneperson_reid"
SHOWN = {"r1": "Rank-1", "r5": "Rank-5", "r10": "Rank-10", "map": "mAP", "minp": "mINP"}
TASK = "person-search"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", help="spec; by default that of the recipe, else embedded")
    parser.add_argument("--recipes", nargs="+", default=["irra", "tbps-clip", "cmpm-cmpc", "clip"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as for vladapt fit, for each recipe")
    arguments = parser.parse_args(words)
    print(f"| | tower | {' | '.join(SETS.values())} | where it was read |\n| --- | --- |{' ---: |' * len(SETS)} --- |")
    for method, tower, numbers, source in PUBLISHED:
        print(f"| {method} | {tower} | {' | '.join(map(_pair, numbers))} | {source} |")
    there = [name for name in SETS if (DATA / "person" / name).exists()]
    if not there:
        print(f"\n{', '.join(SETS)}: none of them is in {DATA / 'person'}, so nothing is trained.")
    for recipe in arguments.recipes if there else ():
        cells = [_pair(trained(recipe, name, arguments)) if name in there else "–" for name in SETS]
        print(f"| ours: {recipe} | {arguments.backbone or 'embedded'} | {' | '.join(cells)} | this run |", flush=True)
    if (DATA / "person" / EASY).exists():
        searched(arguments.backbone or "embedded")


def trained(recipe: str, name: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Rank-1 and mAP of text to image on test, in percent, the mean over seeds."""
    found = []
    for seed in arguments.seeds:
        flags = {"data": {"path": str(DATA / "person" / name)}, "backbone": arguments.backbone, "seed": seed}
        done = vladapt.fit(resolve(recipe=f"person/{recipe}", sets=arguments.sets, flags=flags))
        found.append([100 * done.metrics["adapted"][f"{TEXT_TO_IMAGE}/{key}"] for key in ("r1", "map")])
    return tuple(sum(column) / len(column) for column in zip(*found))


def searched(spec: str) -> None:
    """The small set, zero-shot, in a table."""
    data, backbone, domain = Person().read(DATA / "person" / EASY, TASK), load_backbone(spec), Person()
    people, transform = PeoplePairs.of(DomainPairs.of(data)), domain.transforms(backbone, False, TASK)
    scores = evaluate_retrieval(backbone, people, split=None, transform=transform, by_label=True).metrics
    numbers, between = scores[TEXT_TO_IMAGE], scores["metric_intervals"][TEXT_TO_IMAGE]
    print(
        f"\n{EASY}, zero-shot by {spec}, text to image: {scores['images']} pictures of {scores['groups']} people, "
        f"{scores['texts']} sentences\n\n| {' | '.join(SHOWN.values())} |\n|{' ---: |' * len(SHOWN)}"
    )
    cells = [f"{100 * numbers[key]:.1f} ({100 * between[key][0]:.0f}–{100 * between[key][1]:.0f})" for key in SHOWN]
    print(f"| {' | '.join(cells)} |")


def _pair(numbers: tuple[float | None, float | None]) -> str:
    rank, precision = numbers
    if rank is None:
        return "–"
    return f"{rank:.2f}" if precision is None else f"{rank:.2f} ({precision:.2f})"


if __name__ == "__main__":
    main()
