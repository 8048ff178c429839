"""A backbone trained on one set of pairs after the other, without forgetting the earlier ones.

Each set is a training of its own, in a folder of its own; all sets are measured before the first and after each. So a
chain that was killed goes on with the training that was under way, and what was measured is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ...backbones.load import announced, load_backbone, save_fine_tuned
from ...contracts.backbone import Backbone
from ...contracts.options import option, require, settle
from ...contracts.recipe import SAMPLE
from ...contracts.run_info import RunInfo
from ...contracts.shown import in_short
from ...contracts.sources import NamedSource, SourceOptions
from ...data.pairs.text_pairs import TextPairs
from ...errors import ConfigError, DataError
from ...forgetting.probe import GenericProbe, probe_of
from ...losses.stored_replay import read_replay_file
from ...runs.folder import now, versions
from ...runs.run_sections import write_report
from ...runtime.distributed import all_gather_json, is_main, run_on_all, together
from ...runtime.files import write_whole
from ...runtime.progress import Reporter
from ...runtime.reading import json_text
from ...runtime.remote import is_url, printed_name
from ...training.mixing import names_of
from ...training.objective import need_sentences_alone
from ...training.settings import TrainingSettings
from ...training.tower_weights import all_weights, follow
from ..retrieval.scoring import RetrievalScores, evaluate_retrieval
from .continuing_report import continuing_report
from .pairs import PairSplits
from .pretrain import PretrainFolder, PretrainPlan, PretrainResult, reader_of, run_plan
from .remembered import BEFORE, SetsRemembered, StageScores
from .replay import STORED, store_pairs, with_earlier, with_stored
from .several import SeveralSplits, TextSplits, apart, read_several

METHODS = ("none", "replay", "ctp", "lwf", "self-distill")
WITH_TEACHER = ("lwf", "self-distill")
"""Methods whose loss goes beside the losses of the training."""
OF_REPLAY = ("share", "memory", "stored")
"""Options of `replay` alone."""
AFTER = "after-"
WISE_FT = "wise-ft"
OF_PLAN = ("loss_options", "backbone", "teacher", "inherit", "generic", "image_size", "data_options")
"""What else of a plan a chain that is resumed must share with the one that was stopped."""
COST = ("workers", "log_every", "log_to", "keep", "save_every", "micro_batch_size", "tolerate")
"""Settings that may differ when a chain is resumed."""


@dataclass(frozen=True, kw_only=True)
class ContinualOptions:
    """How earlier sets are kept in mind.

    Raises:
        ConfigError: a value is not usable.
    """

    method: str = option("none", "what keeps a training on a further set from forgetting", choices=METHODS)
    share: float = option(0.25, "share of earlier sets in the batches of a later one, of replay", above=0, below=1)
    memory: int = option(
        10_000, "pairs of each set whose features are stored for replay, 0 for none", low=0, high=10**9
    )
    stored: tuple[str, ...] = option(
        (), "files of stored features of still earlier sets, replay.safetensors in the folders of their trainings"
    )
    preserve: bool = option(False, "the first set, too, is not to change what the backbone knows")
    wise_ft: float | None = option(
        None, "share of the trained weights in the model at the end, the rest those of the start", low=0, high=1
    )

    def __post_init__(self):
        settle(self, "--continual")
        for each in fields(self):
            value = getattr(self, each.name)
            usable = self.method == "replay" or each.name not in OF_REPLAY or value == each.default
            require(usable, each.name, value, f"--continual {self.method} replays nothing; give replay")
        preserves = not self.preserve or self.method in ("ctp", *WITH_TEACHER)
        cure = f"--continual {self.method} keeps nothing of the backbone itself; give ctp, lwf or self-distill"
        require(preserves, "preserve", "yes", cure)


@dataclass(frozen=True)
class ContinualPlan:
    """Which sets follow, and how.

    Args:
        first: the plan of the first set, which may be several sources mixed; the others share all but the data.
        then: further sets, in their order.
        options: of the method.
    """

    __repr__ = in_short

    first: PretrainPlan
    then: Sequence[str] = ()
    options: ContinualOptions = field(default_factory=ContinualOptions)

    def __post_init__(self):
        paths = [source.path for of in self.sets for source in of]
        places = [path if is_url(path) else os.path.abspath(path) for path in paths]
        twice = next((path for n, path in enumerate(paths) if places[n] in places[:n]), None)
        if twice is not None:
            raise ConfigError(f"--then {twice}: named twice; give each set once")
        if need_sentences_alone([name for name in self.first.losses if name != self.options.method]):
            raise ConfigError(
                f"--loss {', '.join(self.first.losses)}: learns from sentences, and --then, --continual and --wise-ft "
                "are for pairs with images; train on one set, then on the next with the model as --backbone"
            )
        if not (self.then or self.options.method == "none" or self.options.preserve or self.options.stored):
            raise ConfigError(
                f"--continual {self.options.method}: there is no further set; give --then, or --set "
                "continual.preserve=yes to keep what the backbone knows"
            )

    @property
    def sets(self) -> list[list[NamedSource]]:
        """The sources of each set: one, or of the first several."""
        first = list(self.first.sources) or [NamedSource(self.first.data)]
        return [first, *([NamedSource(path)] for path in self.then)]

    @property
    def identity(self) -> dict[str, Any]:
        """What a chain that is resumed must share with the one that was stopped."""
        settings = {name: value for name, value in self.first.settings.to_dict().items() if name not in COST}
        sets = [" + ".join(source.text for source in of) for of in self.sets]
        identity = {"sets": sets, **asdict(self.options), "losses": dict(self.first.losses), "settings": settings}
        identity |= {name: getattr(self.first, name) for name in OF_PLAN}
        identity |= {"mixing": asdict(self.first.mixing)} if self.first.sources else {}
        identity["domain"] = None if self.first.domain is None else self.first.domain.name
        return json.loads(json_text(identity, default=str))

    def stage(self, number: int, backbone: str, out: Path, sizes: Mapping[str, int] | None = None) -> PretrainPlan:
        """The training on one set.

        Args:
            number: of the set, from 0.
            backbone: where it starts.
            out: its folder.
            sizes: path -> pairs to train on, of the sources of this set and of those before it, for replay; without
                those of a set that is gone.
        """
        first, method = self.first, self.options.method
        losses, options = dict(first.losses), {name: dict(of) for name, of in first.loss_options.items()}
        inherits = first.inherit and number == 0
        plan = replace(first, out=str(out), backbone=backbone, inherit=inherits)
        if number > 0:
            plan = replace(plan, data=self.then[number - 1], sources=(), mixing=SourceOptions())
        preserves = number > 0 or self.options.preserve
        if method == "ctp":
            options["ctp"] = {**options.get("ctp", {}), "first": not preserves}
        elif method in WITH_TEACHER:
            if preserves:
                plan = replace(plan, teacher=backbone)
            else:
                del losses[method]
                options.pop(method, None)
        settings = _stage_settings(first.settings, number, len(self.sets))
        plan = replace(plan, losses=losses, loss_options=options, settings=settings)
        return plan if method != "replay" else self._with_replay(plan, number, out, sizes or {})

    def _with_replay(self, plan: PretrainPlan, number: int, out: Path, sizes: Mapping[str, int]) -> PretrainPlan:
        """Earlier sets, each as often as its size says; those that are gone by what was stored of them."""
        share, before = self.options.share, self.sets[:number]
        there = [(source.path, sizes[source.path]) for of in before for source in of if source.path in sizes]
        is_gone = [not any(source.path in sizes for source in of) for of in before]
        gone = [str(out.parent / f"{AFTER}{n}" / STORED) for n, of in enumerate(is_gone, 1) if of]
        plan = with_stored(plan, [*self.options.stored, *gone], share)
        return with_earlier(plan, there, share, sizes[plan.data]) if there else plan


def continue_pretraining(
    plan: ContinualPlan, *, resume: bool = False, reporter: Reporter | None = None
) -> PretrainResult | None:
    """Train on all sets, measure all of them after each, and write the model with its report.

    Args:
        resume: go on where an earlier call with the same plan was stopped.

    Returns:
        The result; None on every rank but the first under torchrun.

    Raises:
        DataError, ConfigError, CapabilityError: one line each.
    """
    return together(lambda: _Chain(plan, resume, reporter or Reporter(quiet=True)).run())


@dataclass(frozen=True)
class ContinualFolder(PretrainFolder):
    """The same, with a folder per set and what was measured after it; `plan.json` while it is under way."""

    PLAN: ClassVar[str] = "plan.json"

    def begin(self, plan: ContinualPlan, resume: bool) -> tuple[RunInfo, dict[str, Any]] | None:
        """As `open`; also refuses another plan than the one that was begun."""
        done, place = self.open(resume), self.path / self.PLAN
        if done is None and resume and place.is_file():
            begun, asked = self._read(place.name), plan.identity
            if other := sorted(name for name in asked if begun.get(name) != asked[name]):
                raise ConfigError(
                    f"--out {self.path}: was begun with other {', '.join(other)}; give the same, or another folder"
                )
        elif done is None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(place, json_text(plan.identity, indent=1))
        return done

    @property
    def stages(self) -> list[Path]:
        return sorted(self.path.glob(self.PLAN))

    def of_set(self, number: int, further: str = "") -> Path:
        """The folder of the training on a set, counted from 1."""
        return self.path / f"{AFTER}{number}{further}"

    def scores(self, stage: str) -> Path:
        """Where what was measured at a stage is kept."""
        return self.path / f"scores-{stage}.safetensors"


class _Chain:
    """One call, step by step."""

    def __init__(self, plan: ContinualPlan, resume: bool, reporter: Reporter):
        self.plan, self.resume, self.reporter = plan, resume, reporter
        self.folder = ContinualFolder(Path(plan.first.out))
        self.started = time.monotonic()
        self.stages: dict[str, StageScores] = {}
        self.names: list[str] = []
        self.parts: dict[str, PairSplits | TextSplits] = {}
        self.notes: list[str] = []
        self.skipped: list[tuple[str, str]] = []

    def run(self) -> PretrainResult | None:
        plan = self.plan
        for file in plan.options.stored:
            read_replay_file(Path(file))
        splits = self._read()  # all sets, before anything is computed; None of one that is gone
        done = run_on_all(lambda: self.folder.begin(plan, self.resume) if is_main() else None)
        if all_gather_json(done is not None)[0]:
            return None if done is None else _result(self.folder.model, *done, True)
        self.probe: GenericProbe | None = run_on_all(lambda: probe_of(plan.first.generic) if is_main() else None)
        self._measure(BEFORE, splits, lambda: self._load(plan.first.backbone))
        spec, results = plan.first.backbone, []
        for number, of in enumerate(plan.sets, start=1):
            self.reporter.info(f"Set {number} of {len(plan.sets)}: {_printed(of)}")
            results.append(self._train(number, spec))
            spec = str(self.folder.of_set(number) / self.folder.model.name)
            self._measure(self.names[number - 1], splits, partial(self._load, spec), f"{AFTER}{number}")
            self._store(number, spec, splits[number - 1])
        backbone = self._load(spec)
        if (share := plan.options.wise_ft) is not None:
            start = self._load(plan.first.backbone)
            check_between(backbone, start)
            follow(all_weights(backbone.model), all_weights(start.model), share)
            self._measure(f"{WISE_FT} {share:g}", splits, lambda: backbone, WISE_FT)
        return self._write(backbone, splits, results) if is_main() else None

    def _read(self) -> list[PairSplits | SeveralSplits | None]:
        """All sets, each with a name of its own, and without what another one holds out."""
        plan, sets = self.plan, self.plan.sets
        is_gone = [self._is_gone(number, of) for number, of in enumerate(sets, start=1)]
        there = [source for gone, of in zip(is_gone, sets) if not gone for source in of]
        read, paths = reader_of(plan.first, there, self.reporter), [source.path for source in there]
        self.parts = dict(zip(paths, apart(names_of(there), [read(path) for path in paths])))
        splits: list[PairSplits | SeveralSplits | None] = []
        for number, (gone, of) in enumerate(zip(is_gone, sets)):
            if gone:
                self.notes.append(
                    f"{_printed(of)}: is gone; what was stored of it is replayed, and it is not measured."
                )
                splits.append(None)
                self.names.append(" + ".join(Path(source.path).stem for source in of))
                continue
            several = len(of) > 1
            one = read_several(of, plan.first.mixing, self.parts.__getitem__) if several else self.parts[of[0].path]
            if isinstance(one, TextSplits):
                raise DataError(
                    f"{'--then' if number else '--data'} {_printed(of)}: holds texts without images; give it as a "
                    "further --data, beside pairs of images, with --set sources.batch=one"
                )
            name = one.name if not any(one.name in other.split(" + ") for other in self.names) else _printed(of)
            self.names.append(name)
            splits.append(one)
            self.notes += [note if several or len(sets) == 1 else f"{name}: {note}" for note in one.notes]
            if one.test is None:
                self.notes.append(f"{name}: has no test pairs, so what is forgotten of it is not known.")
        if not any(one is not None and one.test is not None for one in splits):
            raise DataError(
                f"--data {_printed(sets[0])}: no set has test pairs, so nothing says what is forgotten; mark rows as "
                "test"
            )
        return splits

    def _is_gone(self, number: int, of: Sequence[NamedSource]) -> bool:
        """Whether a set that was trained on is no longer there, and has been stored."""
        folder = self.folder.of_set(number)
        done = self.resume and (folder / "run.json").is_file() and (folder / STORED).is_file()
        places = [source.path for source in of if source.path != SAMPLE and not is_url(source.path)]
        return done and not all(Path(path).exists() for path in places)

    def _load(self, spec: str) -> Backbone:
        backbone = load_backbone(spec, device=self.plan.first.device, image_size=self.plan.first.image_size)
        announced(backbone, self.reporter.info)
        return backbone

    def _train(self, number: int, spec: str) -> PretrainResult | None:
        """On one set, in two passes where the method learns from a model of its own."""
        sizes = {path: len(part.train) for path, part in self.parts.items() if isinstance(part, PairSplits)}
        plan = self.plan.stage(number - 1, spec, self.folder.of_set(number), sizes)
        if self.plan.options.method == "self-distill" and "self-distill" in plan.losses:
            losses = {name: weight for name, weight in plan.losses.items() if name != "self-distill"}
            options = {name: of for name, of in plan.loss_options.items() if name in losses}
            further = self.folder.of_set(number, "-teacher")
            first = replace(plan, losses=losses, loss_options=options, teacher=None, out=str(further))
            self.reporter.info("The model that is learned from")
            run_plan(first, self.resume, self.reporter, self.parts)
            plan = replace(plan, teacher=str(further / self.folder.model.name))
        return run_plan(plan, self.resume, self.reporter, self.parts)

    def _store(self, number: int, spec: str, read: PairSplits | SeveralSplits | None) -> None:
        """For replay in a later training, when the set may be gone."""
        path, options = self.folder.of_set(number) / STORED, self.plan.options
        stores = options.method == "replay" and options.memory > 0
        if read is None or not stores or all_gather_json(is_main() and path.is_file())[0]:
            return
        note = store_pairs(self._load(spec), read, options.memory, self.plan.first, path, self.reporter)
        self.notes += filter(None, [note])

    def _measure(
        self,
        name: str,
        splits: Sequence[PairSplits | SeveralSplits | None],
        towers: Callable[[], Backbone],
        stage: str = BEFORE,
    ) -> None:
        """All sets at one stage, or what was measured before a stop."""
        path = self.folder.scores(stage)
        if not all_gather_json(is_main() and path.is_file())[0]:
            self.reporter.info(f"Measuring all sets {BEFORE if stage == BEFORE else f'after {name}'}")
            backbone = towers()
            held_out = [None if read is None or read.test is None else read for read in splits]
            scores = [None if read is None else self._retrieval(backbone, read) for read in held_out]
            self.skipped += [pair for of in scores if of is not None for pair in of.skipped]
            generic = run_on_all(lambda: self._generic(backbone))
            if is_main():
                StageScores.of(scores, generic).save(path)
        if is_main():
            self.stages[name] = StageScores.load(path)
            self.stages[name].check_same_pairs(self.stages[BEFORE], path)

    def _retrieval(self, backbone: Backbone, read: PairSplits | SeveralSplits) -> RetrievalScores:
        settings, pairs = self.plan.first.settings, read.test
        assert pairs is not None and not isinstance(pairs, TextPairs)
        return evaluate_retrieval(
            backbone,
            pairs,
            split=None,
            workers=settings.workers or None,
            amp=settings.amp,
            reporter=self.reporter,
            transform=read.view(backbone, False),
            tolerate=settings.tolerate,
        )

    def _generic(self, backbone: Backbone) -> Mapping[str, Any]:
        if self.probe is None or not backbone.has_text:
            return {}
        return self.probe.accuracy(backbone, amp=self.plan.first.settings.amp).shares

    def _write(
        self, backbone: Backbone, splits: Sequence[PairSplits | SeveralSplits | None], results: Sequence[Any]
    ) -> PretrainResult:
        plan, seconds = self.plan, time.monotonic() - self.started
        remembered = SetsRemembered.of_stages(
            self.names, list(self.stages), list(self.stages.values()), plan.first.settings.seed
        )
        model = save_fine_tuned(backbone, self.folder.path)
        facts_of = [None if read is None else read.facts(of[0].path) for read, of in zip(splits, plan.sets)]
        sizes = [{} if of is None else of["splits"] for of in facts_of]
        skipped = [pair for result in results for pair in result.skipped] + self.skipped
        facts = {
            "created": now(),
            "data": {
                "name": " then ".join(self.names),
                "path": " ".join(map(_printed, plan.sets)),
                "licence": " · ".join(dict.fromkeys(of["licence"] for of in facts_of if of and of["licence"])),
                "splits": {f"{name}, {part}": n for name, of in zip(self.names, sizes) for part, n in of.items()},
            },
            "backbone": _backbone_facts(self._load(plan.first.backbone), plan.first.backbone),
            "model": str(model),
            "losses": dict(plan.first.losses),
            "loss_options": {name: dict(options) for name, options in plan.first.loss_options.items()},
            "teacher": ", ".join(plan.first.teachers) or None,
            "settings": plan.first.settings.to_dict(),
            "continual": asdict(plan.options),
            "stages": [{"set": _printed(of), "folder": f"{AFTER}{n}"} for n, of in enumerate(plan.sets, 1)],
            "seed": plan.first.settings.seed,
            "steps": sum(result.summary["steps"] for result in results),
            "seconds": round(seconds, 3),
            "verdict": "\n".join(remembered.sentences),
            "notes": self.notes,
            "skipped": [list(pair) for pair in dict.fromkeys(map(tuple, skipped))],
            "versions": versions(),
        }
        info, metrics = RunInfo.from_json(facts), {"remembered": dict(remembered)}
        write_report(self.folder.path, continuing_report(self.folder.path, info, remembered))
        history = [{**row, "set": n} for n in range(1, len(plan.sets) + 1) for row in self._history(n)]
        lines = [f"{key}: {info[key]}" for key in ("created", "data", "backbone", "losses", "continual", "steps")]
        (self.folder.path / self.folder.PLAN).unlink(missing_ok=True)
        self.folder.finish(info, metrics, history, "\n".join([*lines, *self.notes, info.verdict]))
        return _result(model, info, metrics)

    def _history(self, number: int) -> list[dict[str, float]]:
        return json.loads((self.folder.of_set(number) / "history.json").read_text(encoding="utf-8"))


def check_between(trained: Backbone, start: Backbone) -> None:
    """Raise the ConfigError of weights that cannot be mixed with those of the start."""
    before = all_weights(start.model)
    for name, value in all_weights(trained.model).items():
        if name not in before or before[name].shape != value.shape:
            raise ConfigError(f"--wise-ft: the training changed the shape of {name}, which cannot be mixed; omit it")


def _stage_settings(settings: TrainingSettings, number: int, count: int) -> TrainingSettings:
    """An infinite schedule rises and falls with the first set, stays constant, and ends with the last; all others are
    the same curve again, which warms up and decays anew."""
    if settings.schedule != "infinite":
        return settings
    warmup, cooldown = (settings.warmup, settings.cooldown) if number == 0 else (0.0, 0.0)
    return replace(settings, warmup=warmup, cooldown=cooldown, anneal=settings.anneal if number == count - 1 else 0.0)


def _printed(of: Sequence[NamedSource]) -> str:
    return " + ".join(printed_name(source.path) for source in of)


def _backbone_facts(backbone: Backbone, spec: str) -> dict[str, Any]:
    return {"spec": spec, "fingerprint": backbone.fingerprint, "licence": backbone.licence}


def _result(model: Path, info: RunInfo, metrics: dict[str, Any], finished_before: bool = False) -> PretrainResult:
    summary = {"model": str(model), "data": info.data.name, "backbone": info.backbone.spec}
    summary |= {key: info[key] for key in ("continual", "losses", "seed", "steps", "seconds")}
    skipped = [(name, reason) for name, reason in info.skipped]
    notes = [*info.notes, *info.verdict.splitlines()]
    return PretrainResult(model, metrics, {**summary, **metrics}, notes, skipped, finished_before)
