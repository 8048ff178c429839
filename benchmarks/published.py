"""Reruns published tables on local data sets with real weights, and prints the differences from the published numbers.

    python benchmarks/published.py --sets imagenet=DIR dtd=DIR --backbone openai:RN50
    python benchmarks/published.py --sets eurosat=DIR --backbone openai:ViT-B/16 --methods transclip --device cuda
    python benchmarks/published.py --sets dtd=DIR --backbone open_clip:RN50-quickgelu@RN50.pt --as openai-rn50
    python benchmarks/published.py --sets dtd=DIR eurosat=DIR --backbone openai:ViT-B/32 --unlabelled all --device cuda

Every method is compared under the protocol of its published number, only at the published numbers of shots; with all
eleven sets of the few-shot protocol the published means over them are compared too. Each comparison is a folder in
--out: one that was stopped is resumed, one that is complete is read and not run again. published.csv and published.md
are also written there.

For methods that learn without labels, most published means include sets that are not supported here. With --unlabelled
these methods are fitted on the test images of each set, without labels (protocol "transductive"), and a second table,
unlabelled.md, compares them with zero-shot: our mean gain over the given sets, and the published gain over the
published sets, where one is known. The two means are not over the same sets. Resources that a method has in its paper
(captions, sentences) are not used here; a method that needs one is skipped, and a line says so.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vladapt.core.backbones.specs import find_published
from vladapt.core.engine.compare import STATE, TABLE, compare
from vladapt.core.engine.fit import fit
from vladapt.core.errors import VladaptError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.protocols import ELEVEN, PROTOCOLS, are_eleven, rows_of_backbone

COLUMNS = ("protocol", "set", "method", "shots", "ours", "std", "published", "difference", "source")
ANY = "any"
ZERO_SHOT = "zero-shot"
UNLABELLED = (
    *("reclip", "dpa", "s3a", "gta-clip", "fpl", "ifpl", "grip", "lafter", "repe", "tda", "dmn", "zero", "mta", "tpt"),
    *("onzeta", "zlap", "transclip", "stat-a"),
)
"""Methods that learn without labels, the means of which are asked for by "all"."""
TRANSDUCTIVE = "transductive"
KEPT = "accuracy.json"


@dataclass(frozen=True)
class Rerun:
    """One comparison.

    Args:
        protocol, set, method: of the published numbers.
        shots: at which there are some.
    """

    protocol: str
    set: str
    method: str
    shots: tuple[int, ...]

    def folder(self, out: Path) -> Path:
        return out / self.protocol / self.set / self.method


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parsed(arguments)
    if given.unlabelled:
        print(unlabelled_table(given))
        return
    rows = published_rows(given.alias, given.sets, given.methods, given.shots)
    if not rows:
        raise SystemExit(f"no published number of {given.alias} is known for these sets, methods and shots")
    ours: dict[tuple, list[float]] = {}
    for rerun in reruns(rows, given.sets):
        try:
            for key, values in accuracies(rerun, given).items():
                ours.setdefault(key, values)
        except VladaptError as error:
            print(f"{rerun.protocol}, {rerun.set}, {rerun.method}: {error}", flush=True)
        lines = differences(rows, ours, given.sets)
        write(lines, given.out)
    print(markdown(lines))


def published_rows(
    backbone: str, sets: Mapping[str, str], methods: Sequence[str] | None, shots: Sequence[int] | None
) -> list[dict[str, Any]]:
    """The published rows that these sets can meet, each with the shots that are asked for."""
    means, found = are_eleven(sets), []
    for row in rows_of_backbone(backbone):
        wanted = {k: of for k, of in row["accuracy"].items() if k == ANY or not shots or int(k) in shots}
        here = row["set"] in sets or (means and row["set"] == ELEVEN)
        if here and wanted and (not methods or row["method"] in methods):
            found.append({**row, "accuracy": wanted})
    return found


def reruns(rows: Sequence[Mapping[str, Any]], sets: Mapping[str, str]) -> list[Rerun]:
    """The comparisons that give all of these numbers; zero-shot is part of each."""
    wanted: dict[tuple[str, str, str], set[int]] = {}
    for row in rows:
        numbers = {int(k) for k in row["accuracy"] if k != ANY}
        for name in sets if row["set"] == ELEVEN else (row["set"],):
            if numbers and row["method"] != ZERO_SHOT:
                wanted.setdefault((row["protocol"], name, row["method"]), set()).update(numbers)
    return [Rerun(*key, tuple(sorted(numbers))) for key, numbers in wanted.items()]


def accuracies(rerun: Rerun, given: argparse.Namespace) -> dict[tuple, list[float]]:
    """(protocol, set, method, shots) -> accuracy per seed, run or read; of zero-shot with "any" shots too."""
    folder = rerun.folder(given.out)
    if not (folder / TABLE).is_file() or (folder / STATE).is_file():
        flags = {"data.path": given.sets[rerun.set], "backbone": given.backbone, "device": given.device, "seed": None}
        recipe = resolve(flags={**flags, "domain": "natural", "protocol": rerun.protocol, "preset": rerun.set})
        kinds = PROTOCOLS[rerun.protocol].tasks
        compare(
            recipe,
            [rerun.method],
            None if kinds else rerun.shots,
            given.seeds,
            tasks=1 if kinds else None,
            out=folder,
            resume=(folder / STATE).is_file(),
            reporter=Reporter(),
        )
    values: dict[tuple, list[float]] = {}
    for row in csv.DictReader(io.StringIO((folder / TABLE).read_text(encoding="utf-8"))):
        if row.get("tasks", "all") == "all" and row["accuracy"]:
            place = (rerun.protocol, rerun.set, row["adapter"])
            for shots in (int(row["shots"]), *((ANY,) if row["adapter"] == ZERO_SHOT else ())):
                values.setdefault((*place, shots), []).append(float(row["accuracy"]))
    return values


def differences(
    rows: Sequence[Mapping[str, Any]], ours: Mapping[tuple, Sequence[float]], sets: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One dict of `COLUMNS` per published number that was met, in percent."""
    return [line for row in rows for line in _lines_of(row, ours, sets)]


def _lines_of(row: Mapping[str, Any], ours: Mapping[tuple, Sequence[float]], sets) -> Iterator[dict[str, Any]]:
    of_mean = row["set"] == ELEVEN
    for shots, published in row["accuracy"].items():
        at = ANY if shots == ANY else int(shots)
        keys = [(row["protocol"], name, row["method"], at) for name in (sets if of_mean else (row["set"],))]
        if not all(key in ours for key in keys):
            continue
        means = [statistics.fmean(ours[key]) for key in keys]
        mean, std = 100 * statistics.fmean(means), None if of_mean else 100 * statistics.pstdev(ours[keys[0]])
        place = {key: row[key] for key in ("protocol", "set", "method")}
        numbers = {"ours": mean, "std": std, "published": published, "difference": mean - published}
        yield {**place, "shots": shots, **numbers, "source": row["source"]}


def write(lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Both files, anew after each comparison."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    (out / "published.csv").write_text(text.getvalue(), encoding="utf-8")
    (out / "published.md").write_text(markdown(lines) + "\n", encoding="utf-8")


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table, numbers in percent and differences in points."""
    header = ("protocol", "set", "method", "shots", "ours", "published", "difference", "source")
    rows = [
        (
            *(str(line[key]) for key in header[:4]),
            f"{line['ours']:.2f}" + ("" if line["std"] is None else f" ± {line['std']:.2f}"),
            f"{line['published']:.2f}",
            _signed(line["difference"]),
            line["source"],
        )
        for line in lines
    ]
    ruler = ("---", "---", "---", "---:", "---:", "---:", "---:", "---")
    return _rows_of((header, ruler, *rows))


def unlabelled_table(given: argparse.Namespace) -> str:
    """Each method's mean over the sets beside its published one; written after each method."""
    header = ("method", "sets", "zero-shot", "ours", "gain", "published on", "zero-shot", "published", "gain", "source")
    lines = [header, ("---", "---", *("---:",) * 3, "---", *("---:",) * 3, "---")]
    known = {row["method"]: row for row in rows_of_backbone(given.alias, "means")}
    for method in given.unlabelled:
        try:
            pairs = [unlabelled_accuracy(method, name, given) for name in given.sets]
        except VladaptError as error:
            print(f"{method}: {error}", flush=True)
            continue
        zero_shot, ours = (100 * statistics.fmean(of) for of in zip(*pairs, strict=True))
        line = (method, ", ".join(given.sets), f"{zero_shot:.2f}", f"{ours:.2f}", _signed(ours - zero_shot))
        if row := known.get(method):
            gain = _signed(row["accuracy"] - row["zero_shot"])
            numbers = (f"{row['zero_shot']:.2f}", f"{row['accuracy']:.2f}", gain)
            lines.append((*line, row["sets"], *numbers, row["source"]))
        else:
            lines.append((*line, *("–",) * 5))
        (given.out / "unlabelled.md").write_text(_rows_of(lines) + "\n", encoding="utf-8")
    return _rows_of(lines)


def unlabelled_accuracy(method: str, name: str, given: argparse.Namespace) -> tuple[float, float]:
    """Zero-shot's and the method's accuracy on the test images of a set, which it learns from; run or read."""
    folder = given.out / TRANSDUCTIVE / name / method
    if not (folder / KEPT).is_file():
        flags = {"data.path": given.sets[name], "backbone": given.backbone, "device": given.device, "out": str(folder)}
        flags |= {"domain": "natural", "protocol": TRANSDUCTIVE, "preset": name, "adapter": {"name": method}}
        found = fit(resolve(flags=flags), reporter=Reporter()).metrics
        scores = [found[row]["accuracy"] for row in ("zero_shot", "adapted")]
        (folder / KEPT).write_text(json.dumps(scores), encoding="utf-8")
    return tuple(json.loads((folder / KEPT).read_text(encoding="utf-8")))


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _rows_of(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def alias(backbone: str) -> str:
    """ "openai:ViT-B/16" -> "openai-vit-b-16"; an alias stays as it is."""
    return backbone.lower().replace(":", "-").replace("/", "-").replace("@", "-")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", nargs="+", required=True, metavar="NAME=DIR", help="published sets, and their folders"
    )
    parser.add_argument(
        "--backbone", required=True, help="openai:RN50, an alias, or the spec of a local file with --as"
    )
    parser.add_argument("--as", dest="alias", metavar="ALIAS", help="which published model the backbone is")
    parser.add_argument("--methods", help="comma-separated; by default all with a published number")
    parser.add_argument("--unlabelled", help=f"methods without labels, comma-separated; all: {', '.join(UNLABELLED)}")
    parser.add_argument("--shots", help="comma-separated; by default all that were published")
    parser.add_argument("--seeds", help="comma-separated; by default those of the protocol")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    given = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in given.sets]
    if bad := [name for name, equals, path in pairs if not equals or not Path(path).exists()]:
        parser.error(f"--sets {bad[0]}: write NAME=DIR, with a folder that is there")
    given.sets = {name: path for name, _, path in pairs}
    given.backbone = (
        given.backbone if given.alias or not find_published(alias(given.backbone)) else alias(given.backbone)
    )
    given.alias = given.alias or given.backbone
    given.methods = given.methods and given.methods.split(",")
    given.unlabelled = UNLABELLED if given.unlabelled == "all" else (given.unlabelled or "").split(",")
    given.unlabelled = [name for name in given.unlabelled if name]
    for key in ("shots", "seeds"):
        text = getattr(given, key)
        setattr(given, key, text and [int(each) for each in text.split(",")])
    given.out.mkdir(parents=True, exist_ok=True)
    return given


if __name__ == "__main__":
    main()
