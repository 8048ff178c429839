"""How papers draw shots, choose settings and test: by name, so that a number of ours is comparable with theirs; and the
numbers that they published.

Without a protocol shots are drawn alike, and settings are chosen, as docs/judging.md says; with one, all is as
published, the shared options of methods (`class_weight`, `ties`, augmented views) included. docs/protocols.md is the
page.

Published accuracies are in `published_results.json`, one row per line: the method, the backbone (its alias in
`core/backbones/published.json`), the protocol, the set, the accuracy in percent per number of shots ("any" where no
shot is looked at) and where the number was read. The set "eleven" is the mean over the sets of the few-shot protocol.
Under "means" stand those of methods without labels over sets of which we know not all, with zero-shot's: there gains
alone can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from ...backbones.specs import alias_of
from ...contracts.domain import Domain
from ...contracts.recipe import ALL, check_protocol
from ...data.sampling import SCENARIOS
from ...data.test_batches import TASKS, Tasks
from ...errors import ConfigError
from ...registry import catalogue
from ...registry.catalogue import find_entry, is_place
from .scoring import LARGEST_CLASS, PROBE
from .transfer import NewClasses, SharedClasses, Transfer

SHOTS = (1, 2, 4, 8, 16)
BASELINES = (LARGEST_CLASS, PROBE)
PER_SHOT = "k"
ZERO_SHOT = "zero-shot"
MOST = "min(k, 4)"
PUBLISHED = Path(__file__).with_name("published_results.json")
ELEVEN = "eleven"


@dataclass(frozen=True)
class Protocol:
    """One of them.

    Args:
        name: as `--protocol` takes it.
        what: how it draws and chooses, in a sentence.
        used_by: whose evaluation it is, with the paper.
        val: validation images per class that choose settings: "min(k, 4)", "k", "all", or 0 for none, not even held
            out of the shots; None for as many as the user says.
        seeds: of a comparison.
        shots: of a comparison.
        scenario: how unequal the shots are (`core/data/sampling.py`), or None for K of each class.
        deciding: the metric of its tables; "" where the test images say which.
        baselines: methods of a comparison besides zero-shot that nobody need name.
        transfer: how a fit is tested on further data sets; None where it is tested on images of its own.
        afterwards: what follows a fit, for the user.
        one_prompt: whether a published set with several prompts (ImageNet's seven) has the one that others take.
        tasks: kinds of tasks whose test images, without labels, are classified together; none where there are shots.
        labelled: whether images are labelled.
    """

    name: str
    what: str
    used_by: str
    val: str | int | None
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[int, ...] = SHOTS
    scenario: str | None = None
    deciding: str = "accuracy"
    baselines: tuple[str, ...] = BASELINES
    transfer: Transfer | None = None
    afterwards: str = ""
    one_prompt: bool = False
    tasks: tuple[Tasks, ...] = ()
    labelled: bool = True

    def drawing(self, shots: int | None, val_shots: int | str | None) -> dict[str, Any]:
        """How shots and validation images are drawn, as `draw` takes it.

        Args:
            shots: per class; None for all there are.
            val_shots: what the user asks for, which no paper's protocol lets him.
        """
        if self.val is None:
            return {"val_shots": val_shots}
        val = self.val
        if val in (MOST, PER_SHOT):
            val = ALL if shots is None else min(shots, 4) if val == MOST else shots
        return {"val_shots": val, "scenario": self.scenario, "searches": val != 0}

    def notes(self, *, of_fit: bool = False) -> list[str]:
        """What is said of it; nothing of `OWN`.

        Args:
            of_fit: of a run, which something may follow.
        """
        notes = [f"Protocol {self.name}: {self.what}; methods with their published settings"] if self.name else []
        return [*notes, self.afterwards] if of_fit and self.afterwards else notes

    def prompts(self, prompts: Any, domain: Domain, task: str) -> tuple[Any, list[str]]:
        """The prompts given, or the one that the protocol takes, and a sentence of it; None for the domain's."""
        if prompts is not None or not self.one_prompt or (one := domain.one_template(task)) is None:
            return prompts, []
        return one, [f"One prompt, as papers use under {self.name}: {one}"]

    def methods(self, asked: Sequence[str] | None) -> list[str]:
        """The methods of a comparison, after those that they are compared with.

        Raises:
            ConfigError: none is asked for. UnknownNameError: there is no such method.
        """
        if not [name for name in asked or () if name != ZERO_SHOT]:
            raise ConfigError("--adapters: none given; give methods, comma-separated, for instance tip-adapter,ape")
        for name in [name for name in asked if not is_place(name)]:
            find_entry(name, catalogue.adapters(), "adapter")
        return list(dict.fromkeys([ZERO_SHOT, *self.baselines, *asked]))

    def entries(
        self, names: Sequence[str], shots: Sequence[int | None], seeds: Sequence[int], label_free: Collection[str]
    ) -> list[dict[str, Any]]:
        """What a comparison scores, one after the other.

        Args:
            label_free: names of adapters that need no labelled image.
        """
        if self.tasks:
            of = [{"adapter": name, "shots": 0, "seed": seed} for seed in seeds for name in names]
            return [{**each, "tasks": kind.name} for kind in self.tasks for each in of]
        without = {LARGEST_CLASS, *label_free}
        return [
            {"adapter": name, "shots": count, "seed": seed}
            for seed, count, name in product(seeds, shots, names)
            if count or name in without
        ]

    @property
    def tasks_of_fit(self) -> str:
        """The kind of tasks that a fit is of, where the protocol has kinds: all test images at once; else ""."""
        return self.tasks[0].name if self.tasks else ""


_SS_TEXT = "SS-Text (arXiv 2506.17500)"
_ALL = (
    Protocol(
        "coop",
        "K shots per class, min(K, 4) validation images per class, test on all test images",
        "CoOp (arXiv 2109.01134) and the prompt methods after it, CLIP-Adapter, TaskRes, KgCoOp, MaPLe",
        MOST,
        one_prompt=True,
    ),
    Protocol(
        "full-val",
        "K shots per class, settings chosen on the whole validation split",
        "Tip-Adapter (2207.09519), APE (2304.01195), GDA (2402.04087), TIP-X (2211.16198), ProKeR (2501.11175)",
        ALL,
    ),
    Protocol("k-val", "K shots and K validation images per class", "LP++ (2404.02285)", PER_SHOT),
    Protocol(
        "fixed",
        "K shots per class and no validation, so the same settings everywhere",
        "CLAP (2312.12730), 2SFS (2503.11609), CLIP-LoRA (2405.18541)",
        0,
        one_prompt=True,
    ),
    *(
        Protocol(
            scenario,
            f"{shares}, and no validation",
            _SS_TEXT,
            0,
            seeds=tuple(range(20)),
            scenario=scenario,
            deciding="balanced_accuracy",
        )
        for scenario, shares in zip(
            SCENARIOS,
            (
                "K shots per class",
                "K shots per class on average, in proportion to the training images, at least one",
                "K shots per class on average, in proportion to the training images, so a class may have none",
            ),
        )
    ),
    *(
        Protocol(
            name,
            "fitted on one set (the first of a comparison; in papers ImageNet, 16 shots per class), drawn as in coop, "
            f"and tested on {others}",
            f"{coop}CoCoOp (2203.05557), MaPLe (2210.03117), PromptSRC (2307.06948)",
            MOST,
            shots=(16,),
            baselines=(),
            transfer=transfer,
            afterwards="To test this fit on another set: vladapt eval RUN --data DIR",
            one_prompt=True,
        )
        for name, others, coop, transfer in (
            ("cross-dataset", "other sets and their classes", "", NewClasses()),
            (
                "domain-generalization",
                "its variants, among the classes of each",
                "CoOp (2109.01134), ",
                SharedClasses(),
            ),
        )
    ),
    Protocol(
        "transductive",
        "no labelled images; the test images of a task are classified together: all of them, batches of a few classes, "
        "batches of a stream; the mean of the accuracies of batches",
        "StatA (2501.03729); TransCLIP (2406.01837) and GTA-CLIP all images at once",
        0,
        seeds=(1,),
        shots=(0,),
        baselines=(),
        afterwards="All test images were classified at once; vladapt compare --protocol transductive also tests "
        "batches and streams",
        one_prompt=True,
        tasks=TASKS,
        labelled=False,
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


OWN = Protocol("", "shots and settings as docs/judging.md says", "", None, deciding="")
"""Where none is asked for."""


def protocol_named(name: str | None) -> Protocol:
    """The protocol of that name; `OWN` for None.

    Raises:
        UnknownNameError: no protocol of that name.
    """
    check_protocol(name)
    return OWN if name is None else PROTOCOLS[name]


def adapters_among(methods: Sequence[str]) -> list[str]:
    """The methods of a comparison that are adapters."""
    return [name for name in methods if name != LARGEST_CLASS]


@dataclass(frozen=True)
class PublishedResult:
    """One number.

    Args:
        accuracy: a share.
        source: where it was read.
    """

    accuracy: float
    source: str

    @property
    def columns(self) -> dict[str, Any]:
        """As a row of a comparison has it."""
        return {"published": self.accuracy, "published_in": self.source}


@dataclass(frozen=True)
class Setting:
    """What a published number is of; only where all is the same are two numbers comparable.

    Args:
        backbone: the spec of a run.
        protocol: its name.
        set: the name of the published set, or `ELEVEN`.
        tasks: the kind of tasks, of protocols that have several; else "".
    """

    backbone: str
    protocol: str
    set: str
    tasks: str = ""

    def result(self, method: str, shots: int | None) -> PublishedResult | None:
        """The published number of a method; None where none is known."""
        alias = alias_of(self.backbone)
        row = _rows().get((method, alias, self.protocol, self.set, self.tasks))
        if row is None:
            return None
        accuracy = row["accuracy"].get("any", row["accuracy"].get(str(shots)))
        return None if accuracy is None else PublishedResult(accuracy / 100, row["source"])


def rows_of_backbone(backbone: str, part: str = "results") -> list[dict[str, Any]]:
    """All rows of a backbone, named by its alias or spec.

    Args:
        part: "results", or "means": means over sets of which we know not all.
    """
    alias = alias_of(backbone)
    return [row for row in _table()[part] if row["backbone"] == alias]


def note_on_published(setting: Setting | None, method: str, shots: int | None, accuracy: float | None) -> list[str]:
    """What a run says of the published number beside its own."""
    result = None if setting is None or accuracy is None else setting.result(method, shots)
    if result is None:
        return []
    points = f"{100 * (accuracy - result.accuracy):+.1f}".replace("-", "−")
    return [
        f"published for {method} under {setting.protocol} on {setting.set}, mean over seeds: {result.accuracy:.1%} "
        f"({result.source}); this run differs by {points} points"
    ]


def means_of_eleven(settings: Sequence[Setting | None], of: Iterable[tuple[str, int | None]]) -> list[dict[str, Any]]:
    """Published means over the sets of the few-shot protocol, where the settings are of these sets.

    Args:
        of: (method, shots per class), each maybe several times.
    """
    if not settings or None in settings or not are_eleven(each.set for each in settings):
        return []
    of_mean, means = replace(settings[0], set=ELEVEN), []
    for name, shots in dict.fromkeys(of):
        if (result := of_mean.result(name, shots)) is not None:
            means.append({"adapter": name, "shots": shots, **result.columns})
    return means


def are_eleven(sets: Iterable[str | None]) -> bool:
    """Whether these are the sets of the few-shot protocol, each once."""
    sets = list(sets)
    return len(sets) == len(set(sets)) and set(sets) == set(_table()["eleven"])


@lru_cache(maxsize=1)
def _rows() -> dict[tuple[str, ...], dict[str, Any]]:
    keys = ("method", "backbone", "protocol", "set")
    return {(*(row[key] for key in keys), row.get("tasks", "")): row for row in _table()["results"]}


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))
