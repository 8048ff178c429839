"""`pretrain`: (continued) contrastive training of a backbone on a domain's image-text pairs, on one process or many."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...backbones.finders import searched
from ...backbones.inheritance import inherit
from ...backbones.load import FILE, announced, load_backbone, save_fine_tuned
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.images import CropTransform, ImageSize
from ...contracts.run_info import RunInfo
from ...contracts.shown import in_short
from ...contracts.sources import NamedSource, SourceOptions
from ...data.pairs.captions import CaptionSampler, check_columns, columns_of_captions
from ...data.pairs.code_switch import CodeSwitch, read_dictionary
from ...data.pairs.reading import options_of_sources
from ...data.pairs.shard_set import ShardPairs
from ...data.pairs.source_list import check_sources, holds_text_pairs
from ...data.pairs.text_pairs import TextPairs
from ...errors import ConfigError, DataError
from ...forgetting.probe import GenericProbe, probe_of
from ...forgetting.score import Forgotten
from ...registry import load_domain, loss_class
from ...registry.catalogue import DEFAULT_DOMAIN
from ...runs.folder import now, versions, without_place
from ...runs.run_sections import write_report
from ...runtime.distributed import all_gather_json, is_main, run_on_all, together
from ...runtime.files import write_whole
from ...runtime.progress import Reporter
from ...runtime.reading import json_text, sha256_in
from ...training.hooks import built_hooks
from ...training.loading import check_mixture
from ...training.log import FILE as FILE_OF_LOG
from ...training.log import SCORE, read_log
from ...training.objective import loss_columns, need_classes, need_images_alone, need_sentences_alone
from ...training.parts import TrainingResult, TrainingTask, check_training_task
from ...training.settings import TrainingSettings
from ...training.source_losses import PREFIX as SOURCE
from ...training.sources import TrainingSource
from ...training.stored_teachers import StoredTeacher, check_stored, stored_teachers
from ...training.teachers import load_teachers, own_texts
from ..retrieval.comparison import RetrievalComparison
from ..retrieval.report import training_report
from ..retrieval.scoring import RetrievalScores, before_and_after, evaluate_retrieval, scores_of_sources
from ..retrieval.source_scores import KEY as SOURCES
from ..retrieval.source_scores import source_rows, source_section
from .distilled_card import distilled_card, taught_by
from .examples import RetrievalExamples
from .pairs import (
    ImageSet,
    PairSplits,
    has_images_alone,
    read_class_images,
    read_domain_splits,
    read_image_set,
    read_pair_splits,
    train_in_stages,
)
from .several import SeveralSplits, TextSplits, read_several
from .translations import WORDS, evaluate_translations, read_sentence_splits, recall_by_language

MOST_VALIDATED = 2000
"""Pairs of val that each epoch is scored on."""
LOOKED_UP = 1000
"""Pairs of a source whose words are looked up in a dictionary before a training."""
STAGES = "stage-*"
CARD = "README.md"
CAPTIONED = "retrieval"
"""The task of a domain whose data are pairs."""


@dataclass(frozen=True)
class PretrainPlan:
    """What to train, and on which data.

    Args:
        data: a file, folder or URL of pairs, or "sample".
        out: folder for the model, its report and its checkpoints.
        losses: name -> weight.
        loss_options: name -> keyword arguments.
        backbone: spec of where to start.
        teacher: spec of a frozen teacher, for losses that distil, or several.
        teacher_features: folders of shards that hold features of the teachers.
        inherit: whether the towers start from weights of the first teacher.
        generic: folder of class folders with generic images, for the measure of forgetting; None: drawings.
        device: "auto", "cpu", "cuda", ...
        image_size: where it is to differ from the backbone's.
        data_options: for the reader of the pairs.
        settings: of the training.
        custom_hooks: further hooks of mmengine's Runner, as its configs name them.
        sources: several data sets with their weights, in place of `data`; or one, where `mixing` says something.
        mixing: how their samples are mixed.
        domain: that reads the pairs, as its task `CAPTIONED` does; None: whatever `read_pairs` reads.
    """

    __repr__ = in_short

    data: str
    out: str
    losses: Mapping[str, float] = field(default_factory=lambda: {"clip": 1.0})
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backbone: str = "embedded"
    teacher: str | Sequence[str] | None = None
    teacher_features: Sequence[str] = ()
    inherit: bool = False
    generic: str | None = None
    device: str = "auto"
    image_size: ImageSize | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    custom_hooks: Sequence[Mapping[str, Any]] = ()
    sources: Sequence[NamedSource] = ()
    mixing: SourceOptions = field(default_factory=SourceOptions)
    domain: Domain | None = None

    @property
    def words(self) -> Mapping[str, str]:
        """What the terminal and the report call images and patients."""
        if need_sentences_alone(self.losses):
            return WORDS
        return {} if self.domain is None else self.domain.words

    @property
    def teachers(self) -> list[str]:
        """Specs of the frozen teachers."""
        return self.teacher.split(",") if isinstance(self.teacher, str) else list(self.teacher or ())


@dataclass
class PretrainResult:
    """What a pre-training made.

    Attributes:
        model: path of model.safetensors, a `--backbone`.
        metrics: of `before_and_after`, with "generic".
        summary: the object `vladapt pretrain --json` prints.
        notes: sentences for the user.
        skipped: (sample, reason) of what could not be read.
        finished_before: the folder held the finished training already; nothing was done.
    """

    model: Path
    metrics: dict[str, Any]
    summary: dict[str, Any]
    notes: list[str]
    skipped: list[tuple[str, str]]
    finished_before: bool = False


def pretrain(plan: PretrainPlan, *, resume: bool = False, reporter: Reporter | None = None) -> PretrainResult | None:
    """Train and write the model with its report.

    Args:
        resume: go on where an earlier call with the same plan was stopped.

    Returns:
        The result; None on every rank but the first under torchrun.

    Raises:
        DataError, ConfigError, CapabilityError: one line each.
    """
    return together(lambda: run_plan(plan, resume, reporter or Reporter(quiet=True)))


def run_plan(
    plan: PretrainPlan, resume: bool, reporter: Reporter, parts: Mapping[str, PairSplits | TextSplits] | None = None
) -> PretrainResult | None:
    """The same on ranks that run together already.

    Args:
        parts: path -> what was read there, of sources that are not to be read again.
    """
    started = time.monotonic()
    folder = PretrainFolder(Path(plan.out))
    done = run_on_all(lambda: folder.open(resume) if is_main() else None)
    if all_gather_json(done is not None)[0]:
        return None if done is None else _result(folder.model, *done, True)
    probe = run_on_all(lambda: probe_of(plan.generic) if is_main() else None)
    backbone = load_backbone(plan.backbone, device=plan.device, image_size=plan.image_size)
    backbone.answers = {}  # what another training left there
    announced(backbone, reporter.info)
    if plan.generic and not backbone.has_text:
        raise ConfigError(
            f"--generic {plan.generic}: backbone '{plan.backbone}' has no words to name images by; omit it"
        )
    # Teachers that cannot be are refused before anything is computed.
    teachers = load_teachers(plan.teachers, backbone) or own_texts(backbone, plan.losses)
    inherited = ""
    if plan.inherit:
        inherited = inherit(backbone, _first_of(teachers, "inherit", "there is no teacher to start from", "inherit=no"))
    if inherited:
        reporter.info(inherited)
    for teacher in teachers:
        announced(teacher, reporter.info)
    splits = _read(plan, reporter, parts or {})
    if splits.order:
        reporter.info(splits.order)
    measures = _Measures(plan, backbone, splits, reporter, probe, teachers)
    task = _task(plan, backbone, teachers, splits, measures)
    check_training_task(backbone, task)
    check_mixture(task.source, plan.settings, backbone.device)
    built_hooks(plan.custom_hooks)
    before = measures.take("before")
    trained = _train(plan, backbone, task, folder, resume, reporter)
    after = measures.take("after")
    if not is_main():
        return None
    metrics = measures.compared(before, after)
    model = save_fine_tuned(backbone, folder.path)
    of_start = [*filter(None, [inherited]), *map(taught_by, teachers)]
    info = _info(plan, backbone, splits, of_start, trained, model, measures, metrics, time.monotonic() - started)
    log = read_log(folder.path / FILE_OF_LOG)
    rows = source_rows(info.data.get("sources", ()), log, metrics.get(SOURCES, {}))
    if rows:
        metrics[SOURCES] = rows
    abilities = [*measures.abilities, source_section(rows)]
    shown = (measures.examples, before.examples, after.examples, abilities)
    curves, compared = (trained.history, log), RetrievalComparison.from_json(metrics)
    write_report(folder.path, training_report(folder.path, info, compared, *curves, *shown))
    card = distilled_card(info, backbone, teachers, plan.words) if teachers else ""
    folder.finish(info, metrics, trained.history, _log(info, metrics), card)
    return _result(model, info, metrics)


def _first_of(teachers: list[Backbone], option: str, why: str, cure: str) -> Backbone:
    if not teachers:
        raise ConfigError(f"option {option}: {why}; give --teacher SPEC, or {cure}")
    return teachers[0]


def _read(
    plan: PretrainPlan, reporter: Reporter, parts: Mapping[str, PairSplits | TextSplits]
) -> PairSplits | SeveralSplits:
    if not plan.sources:
        part = parts.get(plan.data)
        return part if isinstance(part, PairSplits) else read_splits(plan, plan.data, reporter)
    if need_classes(plan.losses):
        raise ConfigError(
            f"loss {' + '.join(plan.losses)}: learns from one set of labelled images; give --data once, and omit "
            "--samples, --stages and sources.*"
        )
    return read_several(
        plan.sources, plan.mixing, parts.__getitem__ if parts else reader_of(plan, plan.sources, reporter)
    )


def reader_of(
    plan: PretrainPlan, sources: Sequence[NamedSource], reporter: Reporter
) -> Callable[[str], PairSplits | TextSplits]:
    """What reads each of some sources, with those options of the reader that apply to what lies there.

    Raises:
        DataError: a source is missing. ConfigError: an option applies to none.
    """
    check_sources(sources)
    paths = [source.path for source in sources]
    plans = dict.fromkeys(paths, plan)
    if len(paths) > 1 and plan.domain is None and not need_sentences_alone(plan.losses):
        options = options_of_sources(paths, plan.data_options)
        plans = {path: replace(plan, data_options=of) for path, of in zip(paths, options)}

    def read(path: str) -> PairSplits | TextSplits:
        of = plans[path]
        beside = not need_sentences_alone(of.losses)  # pairs of texts, beside those of images
        plain = beside and of.domain is None and not of.data_options.get("image_column")
        return TextSplits.read(path) if plain and holds_text_pairs(path) else read_splits(of, path, reporter)

    return read


def read_splits(plan: PretrainPlan, path: str, reporter: Reporter) -> PairSplits:
    """The pairs of one source of a plan, in their splits.

    Raises:
        DataError, ConfigError: as of the readers in `pairs.py`.
    """
    seed, tolerate = plan.settings.seed, plan.settings.tolerate
    if need_sentences_alone(plan.losses):
        return read_sentence_splits(path, seed, plan.data_options)
    if need_classes(plan.losses):
        return read_class_images(plan.domain or load_domain(DEFAULT_DOMAIN), path, plan.data_options, tolerate)
    if need_images_alone(plan.losses) and has_images_alone(plan.domain, path):
        return read_image_set(plan.domain, path, plan.data_options, tolerate)
    if plan.domain is not None:
        return read_domain_splits(plan.domain, CAPTIONED, path, seed, plan.data_options, tolerate)
    columns = loss_columns(plan.losses) | columns_of_captions(plan.settings.captions)
    return read_pair_splits(path, seed, plan.data_options, columns, reporter.info, tolerate)


def _task(
    plan, backbone: Backbone, teachers: list[Backbone], splits: PairSplits | SeveralSplits, measures: _Measures
) -> TrainingTask:
    source = splits.source(_captions(plan.settings, splits))
    stored, view = _stored(plan, teachers, splits, source), splits.view(backbone, True)
    return TrainingTask(
        source=source,
        losses=plan.losses,
        loss_options=named_options(plan, splits.number_names),
        class_prompts=splits.class_prompts,
        teachers=teachers,
        stored=stored,
        view=view if plan.settings.flip or view is None else CropTransform.unflipped(view),
        validate=measures.validate if splits.val is not None and measures.compares else None,
        identity={"backbone": backbone.fingerprint, **_start(plan, teachers, stored), **splits.identity},
    )


def _start(plan: PretrainPlan, teachers: list[Backbone], stored: list[StoredTeacher]) -> dict[str, Any]:
    start = {"inherits": teachers[0].fingerprint} if plan.inherit else {}
    folders = [view.folder.name for teacher in stored for view in teacher.views]
    return start | ({"teacher_features": folders} if stored else {})


def _stored(
    plan: PretrainPlan, teachers: list[Backbone], splits: PairSplits | SeveralSplits, source: TrainingSource
) -> list[StoredTeacher]:
    """What is stored of the teachers' features, checked against what is trained on."""
    if not plan.teacher_features:
        return []

    def transform(teacher: Backbone, augmented: bool):
        own = splits.view(teacher, augmented)
        if own is None:
            own = teacher.preprocess(train=augmented)
            own = own.with_crop(plan.settings.crop_scale) if augmented else own
        return own if plan.settings.flip or not augmented else CropTransform.unflipped(own)

    _first_of(teachers, "teacher_features", "there is no teacher whose features they are", "omit it")
    stored = stored_teachers(plan.teacher_features, teachers, transform)
    check_stored(stored, source)
    return stored


def _captions(settings: TrainingSettings, splits: PairSplits | SeveralSplits) -> CaptionSampler:
    """Which texts a step sees; columns and words that are asked for and not there are refused."""
    parts = splits.parts if isinstance(splits, SeveralSplits) else [splits]
    paired = [part.train for part in parts if not isinstance(part.train, (ImageSet, TextPairs))]
    for pairs in paired:
        check_columns(settings.captions, pairs)
    chosen = CaptionSampler(settings.captions, settings.seed)
    if settings.code_switch is not None:
        dictionary = read_dictionary(settings.code_switch, settings.code_switch_language)
        switch = CodeSwitch(dictionary, settings.code_switch_sentences, settings.code_switch_words)
        indexed = [pairs for pairs in paired if not isinstance(pairs, ShardPairs)]
        if len(indexed) == len(paired):
            looked_up = ((pairs, row) for pairs in indexed for row in range(min(LOOKED_UP, len(pairs))))
            switch.check_known((chosen.choose(pairs[row], 0, row) for pairs, row in looked_up), settings.code_switch)
        chosen = replace(chosen, switch=switch)
    return chosen


def _train(
    plan, backbone: Backbone, task: TrainingTask, folder: PretrainFolder, resume: bool, reporter: Reporter
) -> TrainingResult:
    with reporter.task("Training", unit="steps") as progress:
        lines = _EpochLines(reporter, progress, plan.settings)
        callbacks = {"on_step": lines.step, "on_message": reporter.info, "hooks": plan.custom_hooks}
        return train_in_stages(backbone, task, plan.settings, folder.path, resume=resume, **callbacks)


def named_options(plan: PretrainPlan, names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Loss -> its options, once the data say what their numbers are of."""
    return {name: loss_class(name).named(plan.loss_options.get(name, {}), names) for name in plan.losses}


class _EpochLines:
    """Progress by step, and a line at the end of each epoch."""

    def __init__(self, reporter: Reporter, progress, settings: TrainingSettings):
        self.reporter, self.progress, self.epochs = reporter, progress, settings.epochs
        self.total, self.count = 0.0, 0

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        self.progress(done, total)
        self.total, self.count = self.total + values["loss"], self.count + 1
        an_epoch = max(1, total // self.epochs)
        if done % an_epoch == 0:
            epoch = done // an_epoch
            mean = self.total / self.count
            self.reporter.info(f"Epoch {epoch}/{self.epochs}: loss {mean:.4f}, learning rate {values['lr']:.2e}")
            self.total, self.count = 0.0, 0


@dataclass
class _Measured:
    retrieval: RetrievalScores | None
    generic: Any
    examples: Any
    sources: Mapping[str, RetrievalScores] = field(default_factory=dict)


class _Measures:
    """What is measured before and after, on the same images."""

    def __init__(
        self,
        plan: PretrainPlan,
        backbone: Backbone,
        splits: PairSplits | SeveralSplits,
        reporter: Reporter,
        probe: GenericProbe | None,
        teachers: Sequence[Backbone] = (),
    ):
        self.plan, self.backbone, self.splits, self.reporter, self.probe = plan, backbone, splits, reporter, probe
        self.teachers, self.by_language = teachers, ""
        self.compares = any(loss.compares and not loss.answers for loss in map(loss_class, plan.losses))
        self.test = splits.test if self.compares else None
        shown = self.test is not None and not isinstance(self.test, TextPairs)
        self.examples = RetrievalExamples(self.test, seed=plan.settings.seed) if shown else None
        self.skipped: list[tuple[str, str]] = []
        self.forgotten: Forgotten | None = None

    def take(self, when: str) -> _Measured:
        """Retrieval on the test pairs, the generic vocabulary and a few queries with what they find."""
        self.reporter.info(f"Measuring {when} the training")
        retrieval = None
        if self.test is not None:
            retrieval = self._retrieval(self.test)
            self.skipped = retrieval.skipped
            if isinstance(self.test, TextPairs):
                self.by_language = recall_by_language(retrieval, self.test)
        generic, examples = run_on_all(self._generic_and_examples)
        return _Measured(retrieval, generic, examples, self._of_sources(retrieval, "test"))

    def validate(self) -> float | dict[str, float]:
        """Mean R@1 of both directions on val; of several sources within each, and the mean over them."""
        scores = self._retrieval(self.splits.val_part(MOST_VALIDATED))
        of_sources = {name: _mean_r1(each) for name, each in self._of_sources(scores, "val").items()}
        score = sum(of_sources.values()) / len(of_sources) if of_sources else _mean_r1(scores)
        words = "".join(f", {name} {value:.1%}" for name, value in of_sources.items())
        self.reporter.info(f"Mean R@1 of both directions on val: {score:.1%}{words}")
        return {SCORE: score, **{f"{SOURCE}{name}.{SCORE}": value for name, value in of_sources.items()}}

    def compared(self, before: _Measured, after: _Measured) -> dict[str, Any]:
        """The shape of metrics.json."""
        metrics: dict[str, Any] = {"zero_shot": None, "adapted": None, "mcnemar": None}
        if after.retrieval is not None:
            metrics = before_and_after(before.retrieval, after.retrieval)
        if after.sources:
            metrics[SOURCES] = {
                name: before_and_after(before.sources.get(name), scores) for name, scores in after.sources.items()
            }
        if before.generic is None:
            return metrics
        self.forgotten = Forgotten.of_scores(before.generic, after.generic)
        return metrics | self.forgotten.to_json()

    @property
    def abilities(self) -> list[Any]:
        """Sections on what else the towers can do."""
        return [] if self.forgotten is None else self.forgotten.section()

    def _of_sources(self, scores: RetrievalScores | None, split: str) -> dict[str, RetrievalScores]:
        """Within each of several sources; nothing of one."""
        if scores is None or not isinstance(self.splits, SeveralSplits):
            return {}
        if isinstance(self.splits.val, TextPairs):
            return {name: self._retrieval(part) for name, part in self.splits.of_split(split).items()}
        return scores_of_sources(scores, self.backbone, self.splits.names)

    def _retrieval(self, pairs) -> RetrievalScores:
        settings = self.plan.settings
        if isinstance(pairs, TextPairs):
            return evaluate_translations(self.backbone, self.teachers[0], pairs, settings.amp)
        return evaluate_retrieval(
            self.backbone,
            pairs,
            split=None,
            amp=settings.amp,
            workers=settings.workers or None,
            reporter=self.reporter,
            transform=self.splits.view(self.backbone, False),
            tolerate=settings.tolerate,
        )

    def _generic_and_examples(self):
        if self.probe is None:  # not the main process
            return None, None
        if not self.backbone.has_text:
            return None, None
        amp = self.plan.settings.amp
        view = self.splits.view(self.backbone, False)
        examples = self.examples and self.examples.top(searched(self.backbone), amp=amp, transform=view)
        with self.reporter.watching("Generic vocabulary"):
            return self.probe.accuracy(self.backbone, amp=amp), examples


def _mean_r1(scores: RetrievalScores) -> float:
    return (scores.metrics.image_to_text["r1"] + scores.metrics.text_to_image["r1"]) / 2


def _info(
    plan,
    backbone,
    splits: PairSplits | SeveralSplits,
    of_start: list[str],
    trained: TrainingResult,
    model,
    measures,
    metrics,
    seconds,
) -> RunInfo:
    skipped = list(dict.fromkeys([*splits.skipped, *trained.broken, *measures.skipped]))
    notes = [*splits.notes, *of_start, *trained.notes, *filter(None, [measures.by_language])]
    if not measures.compares:
        names = " or ".join(plan.losses)
        use = f"ask the model for findings with `vladapt fit --adapter {names} --backbone {FILE}`"
        if backbone.finder is not None:
            use = f"embed images by what it learned with `vladapt embed --backbone projected:{FILE}`"
        notes.append(f"No retrieval is measured, since loss {names} compares no images with texts; {use}.")
    facts = {
        "created": now(),
        "data": splits.facts(plan.data),
        "backbone": {"spec": plan.backbone, "fingerprint": backbone.fingerprint, "licence": backbone.licence},
        "model": str(model),
        "losses": dict(plan.losses),
        "loss_options": {name: dict(options) for name, options in plan.loss_options.items()},
        "teacher": ", ".join(plan.teachers) or None,
        "settings": plan.settings.to_dict(),
        "seed": plan.settings.seed,
        "steps": trained.steps,
        "best_epoch": trained.best_epoch,
        "trained_parameters": trained.trained_parameters,
        "samples_per_second": round(trained.samples_per_second, 2),
        "seconds": round(seconds, 3),
        "verdict": RetrievalComparison.from_json(metrics).sentence,
        "generic": "" if measures.forgotten is None else measures.forgotten.note(),
        "notes": notes,
        "skipped": [list(pair) for pair in skipped],
        "versions": versions(),
    }
    own = {"words": dict(WORDS)} if need_sentences_alone(plan.losses) else {}
    return RunInfo.from_json({**facts, **own})


def _log(info: RunInfo, metrics: dict[str, Any]) -> str:
    lines = [f"{key}: {info[key]}" for key in ("created", "data", "backbone", "losses", "settings", "steps")]
    lines += [f"note: {note}" for note in info.notes]
    lines += [f"skipped: {name}: {reason}" for name, reason in info.skipped]
    lines += [f"{side}: {metrics[side]}" for side in ("zero_shot", "adapted") if metrics.get(side)]
    return "\n".join([*lines, info.verdict, info["generic"]])


def _result(model: Path, info: RunInfo, metrics: dict[str, Any], finished_before: bool = False):
    summary = {
        "model": str(model),
        "data": info.data.name,
        "backbone": info.backbone.spec,
        **{key: info[key] for key in ("losses", "seed", "steps", "best_epoch", "samples_per_second", "seconds")},
        **metrics,
    }
    skipped = [(name, reason) for name, reason in info.skipped]
    notes = [*info.notes, *filter(None, [info.verdict, info["generic"]])]
    return PretrainResult(model, metrics, summary, notes, skipped, finished_before)


@dataclass(frozen=True)
class PretrainFolder:
    """`model.safetensors`, `run.json`, `metrics.json`, `history.json`, `training.jsonl`, `log.txt`, `report.html`."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / FILE

    def open(self, resume: bool) -> tuple[RunInfo, dict[str, Any]] | None:
        """What is there: (info, metrics) of a finished training that is resumed, else None.

        Raises:
            ConfigError: something is there and it is not to be resumed.
            DataError: it is not a folder, or its files are damaged.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out {self.path}: a file, not a folder; give the folder that is to hold the model")
        finished = self.model.is_file() and (self.path / "run.json").is_file()
        if not resume:
            if finished or self.model.is_file():
                raise ConfigError(f"--out {self.path}: holds a model already; give another folder")
            if self.stages:
                raise ConfigError(
                    f"--out {self.path}: holds a training that was stopped; add --resume to continue it, or give "
                    "another folder"
                )
            return None
        return (RunInfo.from_json(self._read("run.json")), self._read("metrics.json")) if finished else None

    def finish(self, info: RunInfo, metrics: dict[str, Any], history: list[dict], log: str, card: str = "") -> None:
        """Write what belongs beside the model, run.json last; checkpoints are removed.

        Args:
            card: text of its README; "" for none.
        """
        for name, text in {"log.txt": f"{log}\n", **({CARD: card} if card else {})}.items():
            write_whole(self.path / name, without_place(text))
        for name, value in (("metrics.json", metrics), ("history.json", history), ("run.json", dict(info))):
            portable = without_place(json.loads(json_text(value, default=str)))
            if name == "run.json":
                portable["sha256"] = sha256_in(self.path)
            write_whole(self.path / name, json_text(portable, indent=1))
        for stage in self.stages:
            shutil.rmtree(stage)

    @property
    def stages(self) -> list[Path]:
        """Folders of checkpoints of a training that was begun and is not finished."""
        return sorted(self.path.glob(STAGES))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / name}: damaged ({error}); train again in another --out") from error
