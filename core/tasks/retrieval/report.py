"""What the report of a training on image-text pairs shows, of `pretrain` and of fits of the task retrieval."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...contracts.families import STORED
from ...contracts.items import Item
from ...contracts.run_info import RunInfo
from ...errors import DataError
from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runs import run_sections as shared
from ...runs.run_sections import Report
from ...runs.sections import (
    HeadlineSection,
    Measure,
    Number,
    Search,
    SearchSection,
    TableSection,
    Track,
    data_uri,
    plural,
)
from .comparison import RetrievalComparison
from .multiple_choice import choice_section
from .sentences import sentence_section

DIRECTIONS = {IMAGE_TO_TEXT: "An image finds its own text", TEXT_TO_IMAGE: "A text finds its image"}
R1 = Measure("R@1", "the right one comes first")
MEASURES = {
    "r1": R1,
    "r5": Measure("R@5", "it is among the first five"),
    "r10": Measure("R@10", "it is among the first ten"),
    "median_rank": Measure("Median rank", "its rank; 1 is best", "rank", falls=True),
    "mean_rank": Measure("Mean rank", "its rank; 1 is best", "rank", falls=True),
    "map": Measure("Mean average precision", "whether all right ones come early; 100% is best"),
    "minp": Measure("Mean INP", "whether the last right one comes early; 100% is best"),
}
MEAN_RECALL = Measure("Mean recall", "of R@1, R@5 and R@10 in both directions")
ACCURACY = Measure("Accuracy", "its class, named by the captions of each class")
SHOWN = 4


def training_report(
    folder: str | Path,
    info: RunInfo,
    metrics: RetrievalComparison,
    history: Sequence[Mapping[str, float]],
    log: Sequence[Mapping[str, float]] = (),
    examples: Any = None,
    before: Sequence[Sequence[Any]] | None = None,
    after: Sequence[Sequence[Any]] | None = None,
    abilities: Sequence[Any] = (),
) -> Report:
    """The report of a training in a folder. What is not known is left out of the page.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        metrics: of `before_and_after`.
        history: a row per epoch, see `run_sections.training_curves`.
        log: the lines of the training's log, which the curves are of; empty: of the epochs.
        examples: the `RetrievalExamples` that were looked at.
        before, after: what each of their queries found, from `top`.
        abilities: sections on what else the towers can do.
    """
    spec = info.backbone.spec or "a backbone"
    name = re.sub(r"[^@:\s]*/", "", spec) if re.search(r"\.\w+$", spec) else spec  # without the folders in it
    data = info.data.name or "pairs of images and texts"
    epochs = "" if info.adapter else ", the values of each epoch in history.json"
    others = "gradient and speed" if log else "and the gradient"
    return Report.of_run(
        info,
        kind="Report of one training on pairs of images and texts",
        title=f"{f'{info.adapter} on {name}' if info.adapter else name}, trained on {data}",
        lead=_lead(info, metrics, len(history)),
        sections=[
            _headline(metrics),
            metrics.section(),
            shared.warnings(warnings_of_training(metrics, history, info.notes)),
            shared.notes(info),
            _scores(metrics),
            sentence_section(metrics),
            choice_section(metrics),
            *abilities,
            *shared.training_sections(log or history, info.losses, info.best_epoch, f"Parts of the losses, {others}"),
            _searches(examples, before, after),
            _facts(info),
            shared.skipped(info.skipped, "sample"),
            shared.use(_steps(info, str(folder)), "pairs") if info.model else None,
            shared.licences(info, unknown="not known"),
        ],
        place=f"Folder {folder}. Settings, seed and losses are in its run.json{epochs}.",
    )


def warnings_of_training(
    metrics: RetrievalComparison, history: Sequence[Mapping[str, float]], notes: Sequence[str]
) -> list[str]:
    """What must not be overlooked when reading the scores of retrieval."""
    sentences = []
    if metrics.adapted:
        images = metrics.test_images
        sentences += [*shared.small_test_set(images, notes), *shared.few_groups(metrics.test_groups, images)]
        when = {"before": metrics.intervals.get("zero_shot"), "after": metrics.intervals.get("adapted")}
        if guessed := [name for name, bounds in when.items() if _is_guessing(bounds, images)]:
            sentences.append(
                f"{' and '.join(guessed).capitalize()} the training, finding the right one first cannot be told from "
                f"guessing among {images} images, in either direction."
            )
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    if len(losses) > 1 and not losses[-1] < losses[0]:
        sentences.append(
            f"The loss did not fall: {losses[0]:.4g} in the first epoch, {losses[-1]:.4g} in the last. Try another "
            "learning rate or more epochs."
        )
    return sentences


def _is_guessing(intervals: Mapping[str, Sequence[float]] | None, images: int) -> bool:
    """Whether the intervals of R@1 hold the share that guessing gets, in both directions."""
    return bool(intervals) and all(bounds[0] <= 1 / images for bounds in intervals.values())


def _lead(info: RunInfo, metrics: RetrievalComparison, epochs: int) -> str:
    pairs = info.data.splits.get("train")
    objective = " + ".join(_loss(name, weight) for name, weight in info.losses.items())
    text = f"The method {info.adapter} was trained" if info.adapter else "Trained"
    text += f"{f' with {objective}' if objective else ''}{f' on {pairs:,} pairs of images and texts' if pairs else ''}"
    text += f" for {plural(epochs, 'epoch')}." if epochs else "."
    return f"{text} {found_words(metrics, ' that it never saw')}" if metrics.adapted else text


def found_words(metrics: RetrievalComparison, unseen: str = "") -> str:
    """How many texts find their image first, before and after the training, in a sentence."""
    before, key = metrics.zero_shot, f"{TEXT_TO_IMAGE}/r1"
    was = f", compared with {R1.text(before[key])} before the training" if before else ""
    texts, images = plural(metrics.test_texts, "text"), plural(metrics.test_images, "test image")
    first = R1.text(metrics.adapted[key])
    return f"Of {texts} about {images}{metrics.of_groups}{unseen}, {first} find their image first{was}."


def _headline(metrics: RetrievalComparison) -> HeadlineSection | None:
    """R@1 of both directions, and what guessing gets; None where nothing was measured."""
    if not metrics.adapted:
        return None
    before, after, numbers, tracks = metrics.zero_shot, metrics.adapted, [], {}
    for side, title in DIRECTIONS.items():
        key = f"{side}/r1"
        between = metrics.between(key)
        was = f"before {R1.text(before[key])}" if before else ""
        numbers.append(Number(f"{title}, R@1", R1.text(after[key]), was, main=True))
        rows = [Track("Guessing", 1 / metrics.test_images, role="floor")]
        rows += [Track("Before", before[key], between[0])] if before else []
        tracks[f"{title} first"] = [*rows, Track("After", after[key], between[1], "adapted")]
    images, texts = plural(metrics.test_images, "test image"), plural(metrics.test_texts, "text")
    of, several = f"{images}{metrics.of_groups} with {texts}", metrics.test_texts > metrics.test_images
    footnote = "Texts of one image are not independent trials, so images count." if several else ""
    how = "Clopper and Pearson; for the texts Korn and Graubard, over images" if several else "Clopper and Pearson"
    how = "Korn and Graubard, over groups" if metrics.test_groups else how
    return HeadlineSection(numbers, tracks, R1, f"R@1 with its 95 % interval ({how})", of, footnote)


def _scores(metrics: RetrievalComparison) -> TableSection | None:
    """Retrieval in both directions and, where images have classes, the accuracy of naming them."""
    before, after = metrics.zero_shot, metrics.adapted
    if not after:
        return None
    parts = {title: {f"{side}/{name}": each for name, each in MEASURES.items()} for side, title in DIRECTIONS.items()}
    parts |= {"Both directions": {"mean_recall": MEAN_RECALL}, "The class of an image": {"accuracy": ACCURACY}}
    rows: list[Any] = []
    for title, measures in parts.items():
        scores = shared.score_rows(measures, before, after, {key: metrics.between(key) for key in measures})
        rows += [title, *scores] if scores else []
    note = (
        "Each text searches all test images, and each image all their texts. Of equal scores the wrong ones come "
        "first, so a model that cannot tell them apart finds nothing."
    )
    header = ("Score", "Before", "After", "Change") if before else ("Score", "After")
    return TableSection("Retrieval in numbers", header, rows, note)


def _searches(examples: Any, before, after) -> SearchSection | None:
    """What each query finds, before and after; None where neither was looked at."""
    sides = {when: results for when, results in (("Before", before), ("After", after)) if results}
    if examples is None or not sides:
        return None
    queries = []
    for place, query in enumerate(examples.queries):
        results = {when: rows[place] for when, rows in sides.items()}
        if all(results.values()):
            ranks = [rows[0].right_rank for rows in results.values()]
            tone = "" if ranks[0] == ranks[-1] else "up" if ranks[-1] < ranks[0] else "down"
            searches = [
                _search(examples, when, rows, tone if when == "After" else "") for when, rows in results.items()
            ]
            queries.append((query.caption, _picture(examples, query.row), searches))
    left_out = len(examples.queries) - len(queries)
    return SearchSection("What captions find", queries, len(examples.gallery), left_out)


def _search(examples: Any, when: str, rows: Sequence[Any], tone: str) -> Search:
    results = [
        (_picture(examples, one.row), one.score, "right" if one.right else "same" if one.same_words else "")
        for one in rows[:SHOWN]
    ]
    return Search(when, rows[0].right_rank, tone, results)


def _picture(examples: Any, row: int) -> str | None:
    """None where the image can no longer be read."""
    try:
        return data_uri(examples.load_image(row))
    except DataError:
        return None


def _facts(info: RunInfo) -> TableSection | None:
    best, steps, parameters, splits = info.best_epoch, info.steps, info.trained_parameters, info.data.splits
    names = [name for name in (*Item.SPLITS, *sorted(set(splits) - set(Item.SPLITS))) if name in splits]
    counts = {"image": info.data.images, "text": info.data.texts}
    pairs = [plural(count, noun) for noun, count in counts.items() if count is not None]
    losses = [(_loss(n, weight), shared.options(info.loss_options.get(n))) for n, weight in info.losses.items()]
    of_task = {
        "Method": [info.adapter],
        "Pairs": [" with ".join(pairs)],
        "Splits": [" · ".join(f"{name} {splits[name]:,}" for name in names)],
        "Started from": shared.backbone_lines(info.backbone),
        "Losses": [", ".join(filter(None, words)) for words in losses],
        "Teacher": [info.teacher],
        "Trained": [None if parameters is None else _parameters(parameters)],
        "Steps": [None if steps is None else f"{steps:,}", best and f"the weights of epoch {best} were kept"],
        "Settings": [shared.options({name: value for name, value in info.settings.items() if value is not None})],
        "Model": [info.model],
    }
    return shared.facts("What was trained, and on what", info, of_task)


def _steps(info: RunInfo, folder: str) -> list[tuple[str, str]]:
    """Commands and Python that take the model as a backbone; of a run also how to score it again."""
    path, of_domain = shlex.quote(info.model), f" --domain {info.domain}" if info.domain else ""
    search = f"vladapt index FOLDER{of_domain} --out found.index --backbone {path}"
    search += '\nvladapt search found.index "what you look for"'
    adapt = f"vladapt fit{of_domain or ' --domain NAME'} --data FOLDER --backbone {path}"
    python = f"import vladapt\n\nbackbone = vladapt.load_backbone({info.model!r})"
    steps = [("From Python:", python)]
    if not str(info.backbone.spec).startswith(f"{STORED}:"):  # of stored features nothing new is encoded
        steps.insert(0, ("Search with it:", search))
        steps.insert(0, ("The model is a backbone like any other. Adapt it to labels of your own:", adapt))
    if info.adapter:
        score = f"vladapt eval {shlex.quote(folder)}"
        steps.append(
            ("Score it again, on its own test pairs or on others (--data, or --features of stored ones):", score)
        )
    return steps


def _loss(name: str, weight: float) -> str:
    return name if weight == 1 else f"{weight:g} × {name}"


def _parameters(count: int) -> str:
    return f"{count / 1e6:,.1f} million parameters" if count >= 1e6 else f"{count:,} parameters"
