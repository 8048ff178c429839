"""How papers draw shots, choose settings and test: by name, so that a number of ours is comparable with theirs.

Without a protocol shots are drawn alike, and settings are chosen, as docs/judging.md says; with one, all is as
published, the shared options of methods (`class_weight`, `ties`, augmented views) included. docs/protocols.md is the
page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...contracts.choices import AS_PUBLISHED, ZERO_SHOT, FewOrZeroShot, published_options
from ...contracts.domain import Domain
from ...contracts.recipe import ALL, Recipe
from ...data.sampling import SCENARIOS
from ...data.test_batches import TASKS, Tasks
from ...errors import UnknownNameError, did_you_mean
from ...registry import adapter_class
from .baselines import LARGEST_CLASS, PROBE
from .transfer import NewClasses, SharedClasses, Transfer

SHOTS = (1, 2, 4, 8, 16)
BASELINES = (LARGEST_CLASS, PROBE)
PER_SHOT = "k"
MOST = "min(k, 4)"
UNLABELLED = (*AS_PUBLISHED, (FewOrZeroShot, "mode", ZERO_SHOT))
"""`AS_PUBLISHED` where nothing is labelled."""


@dataclass(frozen=True)
class Protocol:
    """One of them.

    Args:
        name: as `--protocol` takes it.
        what: how it draws and chooses, in a sentence.
        used_by: whose evaluation it is, with the paper.
        val: validation images per class that choose settings: "min(k, 4)", "k", "all", or 0 for none, not even held
            out of the shots.
        seeds: of a comparison.
        shots: of a comparison.
        scenario: how unequal the shots are (`core/data/sampling.py`), or None for K of each class.
        deciding: the metric of its tables.
        baselines: methods of a comparison besides zero-shot that nobody need name.
        transfer: how a fit is tested on further data sets; None where it is tested on images of its own.
        afterwards: what follows a fit, for the user.
        one_prompt: whether a published set with several prompts (ImageNet's seven) has the one that others take.
        tasks: kinds of tasks whose test images, without labels, are classified together; none where there are shots.
        shared: base of methods, its option, and the value that papers have.
    """

    name: str
    what: str
    used_by: str
    val: str | int
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[int, ...] = SHOTS
    scenario: str | None = None
    deciding: str = "accuracy"
    baselines: tuple[str, ...] = BASELINES
    transfer: Transfer | None = None
    afterwards: str = ""
    one_prompt: bool = False
    tasks: tuple[Tasks, ...] = ()
    shared: tuple[tuple[type, str, Any], ...] = AS_PUBLISHED

    def val_shots(self, shots: int | None) -> int | str:
        """Validation images per class for K shots."""
        if self.val == MOST:
            return ALL if shots is None else min(shots, 4)
        if self.val == PER_SHOT:
            return ALL if shots is None else shots
        return self.val

    @property
    def note(self) -> str:
        """For the run."""
        return f"Protocol {self.name}: {self.what}; methods with their published settings"


_SS_TEXT = "SS-Text (arXiv 2506.17500)"
_ON_OTHERS = "To test this fit on another set: vladapt eval RUN --data DIR"
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
    Protocol(
        "cross-dataset",
        "fitted on one set (the first of a comparison; in papers ImageNet, 16 shots per class), drawn as in coop, and "
        "tested on other sets and their classes",
        "CoCoOp (2203.05557), MaPLe (2210.03117), PromptSRC (2307.06948)",
        MOST,
        shots=(16,),
        baselines=(),
        transfer=NewClasses(),
        afterwards=_ON_OTHERS,
        one_prompt=True,
    ),
    Protocol(
        "domain-generalization",
        "fitted on one set (the first of a comparison; in papers ImageNet, 16 shots per class), drawn as in coop, and "
        "tested on its variants, among the classes of each",
        "CoOp (2109.01134), CoCoOp (2203.05557), MaPLe (2210.03117), PromptSRC (2307.06948)",
        MOST,
        shots=(16,),
        baselines=(),
        transfer=SharedClasses(),
        afterwards=_ON_OTHERS,
        one_prompt=True,
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
        shared=UNLABELLED,
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


def drawing_of(recipe: Recipe, shots: int | None) -> dict[str, Any]:
    """How the recipe's shots and validation images are drawn, as `draw` takes it."""
    protocol = protocol_of(recipe)
    if protocol is None:
        return {"val_shots": recipe.val_shots}
    val = protocol.val_shots(shots)
    return {"val_shots": val, "scenario": protocol.scenario, "searches": val != 0}


def protocol_of(recipe: Recipe) -> Protocol | None:
    """The recipe's protocol, or None.

    Raises:
        UnknownNameError: no protocol of that name.
    """
    if recipe.protocol is None:
        return None
    if recipe.protocol not in PROTOCOLS:
        raise UnknownNameError(
            f"--protocol {recipe.protocol}: no such protocol; {did_you_mean(recipe.protocol, PROTOCOLS)}"
        )
    return PROTOCOLS[recipe.protocol]


def deciding_by_protocol(recipe: Recipe) -> str:
    """The metric that the recipe's protocol says decides; "" without a protocol."""
    protocol = protocol_of(recipe)
    return "" if protocol is None else protocol.deciding


def templates_of(recipe: Recipe, domain: Domain, task: str) -> tuple[Any, list[str]]:
    """The prompts given, or the one that the recipe's protocol takes, and a sentence of it; None for the domain's."""
    protocol = protocol_of(recipe)
    taken = protocol is not None and protocol.one_prompt and recipe.templates is None
    if not taken or (one := domain.one_template(task)) is None:
        return recipe.templates, []
    return one, [f"One prompt, as papers use under {recipe.protocol}: {one}"]


def baselines_of(recipe: Recipe) -> tuple[str, ...]:
    """Methods of a comparison besides zero-shot that nobody need name."""
    protocol = protocol_of(recipe)
    return BASELINES if protocol is None else protocol.baselines


def transfer_of(recipe: Recipe) -> Transfer | None:
    """How the recipe's protocol tests a fit on other data; None where it does not."""
    protocol = protocol_of(recipe)
    return None if protocol is None else protocol.transfer


def tasks_of_fit(recipe: Recipe) -> str:
    """The kind of tasks that a fit is of, under a protocol that has kinds: all test images at once; else ""."""
    protocol = protocol_of(recipe)
    return protocol.tasks[0].name if protocol is not None and protocol.tasks else ""


def notes_on_protocol(recipe: Recipe, *, of_fit: bool = False) -> list[str]:
    """What is said of its protocol.

    Args:
        of_fit: of a run, which something may follow.
    """
    protocol = protocol_of(recipe)
    if protocol is None:
        return []
    return [protocol.note, *([protocol.afterwards] if of_fit and protocol.afterwards else [])]


def as_published(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """The recipe whose methods have the options of papers, where it has a protocol and nobody gave others."""
    protocol = protocol_of(recipe)
    if protocol is None:
        return recipe
    options: dict[str, Any] = dict(recipe.adapters)
    for name in names:
        shared = published_options(adapter_class(name), protocol.shared)
        given = recipe.with_adapter(name).adapter_options
        taken = {key: value for key, value in shared.items() if key not in given}
        options[name] = {**taken, **(options.get(name) or {})}
    return recipe.with_(adapters=options)
