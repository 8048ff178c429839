"""Is a chosen subset better than a random one? Drawn pairs, small towers, as many samples seen.

The figures are in docs/measurements/curation.md.

    python benchmarks/curation.py --store FOLDER [--seeds 5] [--pairs 20000] [METHOD ...]

Each seed draws a pool (`curation_pool.py`: 24 classes with a long tail, two fifths right pairs, the rest wrong pairs of
seven kinds and copies of two; wrong captions are as long-tailed as right ones), and 8,000 other pairs, of which a fifth
have the caption of another class and none has another fault. From these a scorer learns; its features of the pool are
written as `vladapt embed --as parquet` writes them. Each method chooses by `vladapt.curate`, and towers that know
nothing, the same for all methods of a seed, see as many samples of what it keeps as of what others keep. They answer on
right pairs, four of each combination of class, number, place and time: accuracy without labels, mean over classes, and
that of the twelve rarest classes (guessing: 0.042 both); R@1 both ways among 576 texts (guessing: 0.002).

Fixed before anything was measured: three tenths of the pool stay, the published share of `clip-score` and `s-cliploss`,
and as many with all other methods. `s-cliploss` has the temperature of the scorer, and one pass, since one of its
batches holds the pool. `sem-dedup` leaves half, as in its paper, and `density` the rest. `clipcov` and `metaclip` are
told the names of the 24 classes; the limit of `metaclip` is that by which three tenths are expected. All else is the
default. `right pairs` are as many, drawn from those that have no fault and are no copy: nobody has such a list, they
show what there was to gain.

In brackets: the mean over seeds of the difference to `random` of the same seed, and half of its 95 % interval by
Student's t. `precision` is the share of wrong pairs among what a method drops, `recall` the share of the wrong pairs
that it drops; copies are right. The columns behind them are the shares of each kind that are dropped. `rings by night`
is the share of rings in texts that tell of night less that in those of day. Whatever lies in FOLDER is not made again,
so that a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from curation_pool import CLEAN, COPIES, NAMES, SCORERS, WRONG, Pool, drawn_pool, plural, test_pairs
from curation_towers import Towers, answers, class_features, features_of, trained
from scipy.special import stdtrit

from vladapt.core.curation.bias import associations
from vladapt.core.curation.table import decided, open_table, positions_kept
from vladapt.core.engine.curate import Curated, curate
from vladapt.core.runtime.files import write_whole
from vladapt.core.testing.curation import write_features

KEPT, DEDUP = 0.3, 0.5
SCORERS_PAIRS, SCORERS_SEED, TESTS_SEED = 8000, 1000, 2000
SAMPLES, TESTS_EACH = 50_000, 4
"""That each tower sees, the scorer's too."""
RANDOM, ALL, RIGHT = "random", "all", "right pairs"
RING = ("ring", "rings")
ATTRIBUTES = {"night": ("night",), "day": ("day",)}
MEASURES = {"accuracy": "accuracy", "tail": "rare classes", "recall": "R@1"}


@dataclass(frozen=True, eq=False)
class Round:
    """A seed.

    Args:
        folder: where all of it lies.
        tests: right pairs.
        temperature: of the scorer.
    """

    seed: int
    folder: Path
    pool: Pool
    tests: Pool
    temperature: float

    @property
    def count(self) -> int:
        """Pairs that are kept."""
        return round(KEPT * len(self.pool.texts))

    @property
    def tail(self) -> np.ndarray:
        """Numbers of the rarer half of the classes."""
        return np.flatnonzero(self.pool.rank >= len(NAMES) // 2)

    def curate(self, curator: str, after: Sequence[Path] = (), **options: object) -> Curated:
        features, texts = self.folder / "features", self.folder / "texts.parquet"
        earlier = tuple(map(str, after)) or None
        return curate(curator, [texts], self.folder / "curated", options=options, features=str(features), after=earlier)

    def share(self, of: int, count: int | None = None) -> float:
        """Of so many pairs, by which `count` are kept."""
        return ((self.count if count is None else count) + 0.5) / of

    @property
    def told(self) -> int:
        """Pairs that have a text."""
        return sum(map(bool, self.pool.texts))


Choose = Callable[[Round], Curated]


def by_copies_and_density(of: Round) -> Curated:
    first = of.curate("sem-dedup", fraction=DEDUP)
    return of.curate("density", [first.folder], fraction=of.share(first.kept))


def by_balance(of: Round) -> Curated:
    entries = [*NAMES, *map(plural, NAMES)]
    file = of.folder / "entries.txt"
    file.write_text("\n".join(entries), encoding="utf-8")
    counts = np.array([sum(f" {entry} " in f" {text} " for text in of.pool.texts) for entry in entries])
    limits = np.arange(1, counts.max() + 1)
    expected = np.minimum(counts, limits[:, None]).sum(axis=1)  # a text has one entry
    return of.curate("metaclip", metadata=str(file), limit=int(limits[abs(expected - of.count).argmin()]))


METHODS: Mapping[str, Choose | None] = {
    RANDOM: lambda of: of.curate("random", fraction=of.share(len(of.pool.texts)), seed=of.seed),
    ALL: None,
    "clip-score": lambda of: of.curate("clip-score", fraction=of.share(of.told, of.count - 1)),
    "s-cliploss": lambda of: of.curate(
        "s-cliploss", keep_first=of.share(of.told), temperature=of.temperature, passes=1
    ),
    "sem-dedup, density": by_copies_and_density,
    "clipcov": lambda of: of.curate("clipcov", classes=str(of.folder / "classes.npy"), fraction=of.share(of.told)),
    "metaclip": by_balance,
    RIGHT: None,
}


def main() -> None:
    asked = parsed(sys.argv[1:])
    torch.set_num_threads(1)
    for seed in range(asked.seeds):
        folder = asked.store / f"seed-{seed}"
        missing = [name for name in asked.methods if not answer_file(folder, name).is_file()]
        if not missing:
            continue
        of = begun(folder, seed, asked.pairs, asked.samples)
        for name in missing:
            measured = measure(of, name, asked.samples)
            write_whole(answer_file(folder, name), json.dumps(measured, indent=1))
            print(f"seed {seed} {name}: {measured}", file=sys.stderr, flush=True)
    print(tables(asked.store, asked.methods, asked.seeds))


def begun(folder: Path, seed: int, pairs: int, samples: int) -> Round:
    """The pool of a seed, its features by a scorer, and the tests."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    pool, tests = drawn_pool(pairs, seed), test_pairs(TESTS_SEED + seed, TESTS_EACH)
    if not (folder / "scorer.json").is_file():
        theirs = drawn_pool(SCORERS_PAIRS, SCORERS_SEED + seed, SCORERS)
        scorer = trained(theirs, np.arange(SCORERS_PAIRS), samples, SCORERS_SEED + seed)
        write_scored(folder, pool, scorer)
        ids = [f"{row:06d}" for row in range(pairs)]
        pq.write_table(pa.table({"id": ids, "text": pool.texts}), folder / "texts.parquet")
        tail = np.flatnonzero(pool.rank >= len(NAMES) // 2)
        facts = {**answers(scorer, tests, tail), "temperature": scorer.temperature}
        write_whole(folder / "scorer.json", json.dumps(facts | {"seconds": time.process_time() - start}))
    facts = json.loads((folder / "scorer.json").read_text())
    return Round(seed, folder, pool, tests, facts["temperature"])


def write_scored(folder: Path, pool: Pool, scorer: Towers) -> None:
    """What `vladapt embed --as parquet` writes: pairs without a text have no features of one."""
    images, texts = features_of(scorer, pool)
    ids = [f"{row:06d}" for row in range(len(images))]
    there = np.array([bool(text) for text in pool.texts])
    write_features(folder / "features", ids, images, texts, "scorer", there, size=10_000)
    np.save(folder / "classes.npy", class_features(scorer))


def measure(of: Round, name: str, samples: int) -> dict[str, object]:
    """What a method keeps, and what towers learn from it."""
    import pyarrow.parquet as pq

    start, choose = time.process_time(), METHODS[name]
    keep, measured = np.ones(len(of.pool.texts), bool), {}
    if choose is not None:
        made = choose(of)
        table = pq.read_table(decided(str(made.folder)), columns=["id", "keep"]).to_pydict()
        keep[:] = False
        keep[[int(id_) for id_, kept in zip(table["id"], table["keep"]) if kept]] = True
        measured = biased(made.folder)
    elif name == RIGHT:
        clean = np.flatnonzero(of.pool.kind == CLEAN)
        keep = np.isin(np.arange(len(keep)), np.random.default_rng(of.seed).permutation(clean)[: of.count])
    chose = time.process_time() - start
    towers = trained(of.pool, np.flatnonzero(keep), samples, of.seed)
    return {
        "kept": int(keep.sum()),
        **recovered(of.pool, ~keep),
        **measured,
        **answers(towers, of.tests, of.tail),
        "choosing_seconds": chose,
        "seconds": time.process_time() - start,
    }


def recovered(pool: Pool, dropped: np.ndarray) -> dict[str, object]:
    """How well (N,) flags of what is dropped tell the wrong pairs, and the share of each kind that is dropped."""
    shares = {kind: float(dropped[pool.kind == kind].mean()) for kind in (*WRONG, *COPIES, CLEAN)}
    both = (dropped & pool.wrong).sum()
    return {
        "precision": float(both / dropped.sum()) if dropped.any() else None,
        "recovered": float(both / pool.wrong.sum()),
        "dropped": shares,
    }


def biased(decisions: Path) -> dict[str, float]:
    """Share of rings in texts of night less that in texts of day, before and after."""
    record = json.loads((decisions / "_state" / "curation.json").read_text())
    table = open_table(Path(record["table"]))
    kept = positions_kept(table, [str(decisions)])
    told = [each for each in associations(table, kept, ATTRIBUTES) if each.word in RING]
    return {
        "bias_before": sum(each.before[0] for each in told if each.before),
        "bias": sum(each.after[0] for each in told if each.after),
    }


def tables(store: Path, names: Sequence[str], seeds: int) -> str:
    """What lies in a store, as Markdown."""
    measured = {
        name: [json.loads(answer_file(store / f"seed-{seed}", name).read_text()) for seed in range(seeds)]
        for name in names
    }
    lines = [f"| choice | pairs | {' | '.join(MEASURES.values())} |", "|---|" + "---:|" * (1 + len(MEASURES))]
    for name, rows in measured.items():
        cells = [_beside(rows, measured.get(RANDOM), key) for key in MEASURES]
        lines.append(f"| {_shown(name)} | {np.mean([row['kept'] for row in rows]):,.0f} | {' | '.join(cells)} |")
    kinds = [*WRONG, *COPIES, CLEAN]
    head = ["dropped by", "precision", "recall", *kinds, "rings by night"]
    lines += ["", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, rows in measured.items():
        if name in (ALL, RIGHT):
            continue
        parts = [_mean(rows, "precision"), _mean(rows, "recovered")]
        parts += [f"{np.mean([row['dropped'][kind] for row in rows]):.2f}" for kind in kinds]
        lines.append(f"| {_shown(name)} | {' | '.join([*parts, _mean(rows, 'bias')])} |")
    before = [row["bias_before"] for rows in measured.values() for row in rows if "bias_before" in row]
    seconds = sum(json.loads(file.read_text())["seconds"] for file in store.glob("seed-*/*.json"))
    lines += ["", f"Rings by night, before: {np.mean(before):.2f}." if before else ""]
    return "\n".join([*lines, f"{seconds / 60:.0f} minutes of CPU."])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences, and half of its 95 % interval by Student's t; not a number of a single pair."""
    differences = np.subtract(ours, theirs)
    count = len(differences)
    spread = differences.std(ddof=1) if count > 1 else np.nan
    return float(differences.mean()), float(stdtrit(count - 1, 0.975) * spread / count**0.5)


def answer_file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=[], metavar="METHOD", choices=[*METHODS, []])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    asked = parser.parse_args(words)
    asked.methods = asked.methods or list(METHODS)
    return asked


def _beside(rows: Sequence[Mapping], others: Sequence[Mapping] | None, key: str) -> str:
    ours = [row[key] for row in rows]
    if others is None or others is rows:
        return f"{np.mean(ours):.3f}"
    mean, half = difference(ours, [row[key] for row in others])
    return f"{np.mean(ours):.3f} ({mean:+.3f} ± {half:.3f})"


def _mean(rows: Sequence[Mapping], key: str) -> str:
    return f"{np.mean([row[key] for row in rows]):.2f}"


def _shown(name: str) -> str:
    return name if name in (ALL, RIGHT) else ", ".join(f"`{each}`" for each in name.split(", "))


if __name__ == "__main__":
    main()
