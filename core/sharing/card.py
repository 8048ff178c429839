"""The card of a published run: README.md, with the metadata that the Hugging Face hub reads at its head."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..backbones.specs import NON_COMMERCIAL, alias_of, bare, find_published
from ..contracts.domain import Domain
from ..contracts.run_info import BeforeAfter, RunInfo
from ..errors import DataError, first_of
from ..runs.redaction import NO_NAME, UNPUBLISHED
from ..runs.run_sections import CAUTION, KINDS, SMALL_TEST_SET
from ..runs.sections import MEASURES, Measure, is_share
from ..tasks.retrieval.report import MEASURES as OF_RETRIEVAL

LIBRARY, UNKNOWN = "vladapt", "unknown"
PIPELINES = {
    "labels": "image-classification",
    "multilabel": "image-classification",
    "clips": "video-classification",
    "boxes": "object-detection",
    "masks": "image-segmentation",
}
"""Kind of annotation -> the hub's word for what such a model does."""
OTHER_PIPELINE = "image-feature-extraction"
HUB_METRICS = {"macro_f1": "f1", "auroc": "roc_auc"}
"""Metrics that the hub has a name of its own for."""
BASELINES = {"zero_shot": "zero-shot", "largest_class": "largest class", "linear_probe": "linear probe"}
SPLIT_WORDS = {"support": "to learn from", "val": "to choose settings on", "test": "to test on"}
REMEMBERS = (
    "As with any model, the weights can reveal what they were learned from; where a method keeps a cache, "
    "adapter.safetensors holds features of the labelled images."
)
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
MOST_CLASSES = 50


@dataclass(frozen=True)
class PublisherWords:
    """What the user says of a published run.

    Args:
        repo: owner/name.
        licence: of the adapter, as the hub writes it ("apache-2.0"); None where it is not said.
        data_licence, dataset: of the data; None for what the run says.
    """

    repo: str
    licence: str | None = None
    data_licence: str | None = None
    dataset: str | None = None


@dataclass
class Card:
    """A card in the making.

    Args:
        info: run.json as it is published.
        metrics: as in metrics.json.
        told: what the user says.
        verdict: the sentence on the result.
        domain: whose images these are, or None.
        tower_weights: whether weights of the backbone are in the adapter's file.
    """

    info: RunInfo
    metrics: BeforeAfter
    told: PublisherWords
    verdict: str = ""
    domain: Domain | None = None
    tower_weights: bool = False

    def __post_init__(self):
        self.data = self.info.data
        self.data_licence = self.told.data_licence or _known(self.data.licence)
        weights, licence = self.info.weights
        self.backbone_licence = _known(licence)
        named = {"the adapter": self.told.licence, "the backbone": self.backbone_licence, "the data": self.data_licence}
        self.unknown = [what for what, licence in named.items() if not licence]
        spec = weights or "features from a file"
        self.spec = spec.removeprefix(UNPUBLISHED)
        self.own_backbone = spec.startswith(UNPUBLISHED)

    # the head --------------------------------------------------------------------------------------------------------

    @property
    def dataset(self) -> str:
        name = self.told.dataset or self.data.name
        return name if name != NO_NAME else ""

    @property
    def pipeline(self) -> str:
        return PIPELINES.get(self.data.kind, OTHER_PIPELINE)

    def metadata(self):
        """`ModelCardData`, which also writes `model-index`."""
        from huggingface_hub import ModelCardData

        info, name = self.info, self.told.repo.rpartition("/")[2]
        tags = [LIBRARY, info.domain, info.task, info.adapter, "few-shot" if info.shots else None]
        base = base_model(self.spec)
        more = {"base_model_relation": "adapter"} if base else {}
        datasets = [self.dataset] if re.fullmatch(r"[\w.-]+/[\w.-]+", self.dataset) else None
        results = list(self._results())
        return ModelCardData(
            model_name=name,
            eval_results=results or None,
            pipeline_tag=self.pipeline,
            library_name=LIBRARY,
            base_model=base,
            license=self.told.licence or UNKNOWN,
            tags=list(dict.fromkeys(str(tag) for tag in tags if tag)),
            datasets=datasets,
            metrics=list(dict.fromkeys(each.metric_type for each in results)) or None,
            **more,
        )

    def _results(self) -> Iterator[Any]:
        from huggingface_hub import EvalResult

        name = self.dataset or "unnamed data set"
        kind = name if "/" in name else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        for key, value, interval in self._scores():
            measure = _measure(key)
            between = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
            yield EvalResult(
                task_type=self.pipeline,
                dataset_type=kind,
                dataset_name=name,
                dataset_split="test",
                metric_type=HUB_METRICS.get(key, key),
                metric_name=f"{measure.name}{between}",
                metric_value=round(value, 4),
            )

    def _scores(self) -> Iterator[tuple[str, float, Sequence[float] | None]]:
        """(metric, value, interval) of the adapted model; AUROCs of single labels are in metrics.json."""
        between = self.metrics.metric_intervals.get("adapted") or {}
        for key, value in self.metrics.adapted.items():
            if _is_number(value) and "/" not in key.removeprefix("image_to_text/").removeprefix("text_to_image/"):
                yield key, float(value), between.get(key)

    # the body --------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """README.md.

        Raises:
            DataError: the hub's own library does not read its metadata back.
        """
        sections = [
            [f"# {self.told.repo.rpartition('/')[2]}", self._lead()],
            ["## How well it does", *self._how_well()],
            ["## Data", *self._data()],
            ["## Licences", *self._licences()],
            ["## Intended use", self._intended()],
            ["## Not to be used for", "\n".join(f"* {sentence}" for sentence in self._not_for())],
            ["## How to use it", *self._use()],
        ]
        body = "\n\n".join("\n\n".join(part for part in section if part) for section in sections)
        content = f"---\n{self.metadata().to_yaml()}\n---\n\n{body}\n"
        check_card(content, f"the card of {self.told.repo}")
        return content

    def _lead(self) -> str:
        info, names = self.info, list(self.info.class_names)
        what = KINDS.get(self.data.kind, "images")
        shots = "all labelled images" if info.shots is None else f"up to {info.shots} labelled images per class"
        domain = f"domain {info.domain}, " if info.domain else ""
        lines = [
            f"`{info.adapter}` on the backbone `{self.spec}`, fitted with vladapt {info.vladapt} on "
            f"{shots} ({domain}task {info.task}: {what}).",
            f"{len(names)} classes: {first_of(names, MOST_CLASSES)}." if names else "",
        ]
        return "\n\n".join(filter(None, lines))

    def _how_well(self) -> list[str]:
        images, others = self.metrics.test_images, self._baselines()
        columns = ["", *others, "this model", "95 % interval"]
        rows = []
        for key, value, interval in self._scores():
            measure = _measure(key)
            cells = [measure.text(of.get(key)) for of in others.values()]
            arrow = f" {measure.arrow}" if key in MEASURES or measure.meaning else ""
            rows.append([f"{measure.name}{arrow}", *cells, measure.text(value), measure.between(interval)])
        size = f"On {images} test images that the fit did not see." if images else ""
        size += " With so few images, read the intervals." if 0 < images < SMALL_TEST_SET else ""
        return [size, markdown_table(columns, rows) if rows else "", self.verdict]

    def _baselines(self) -> dict[str, Mapping[str, Any]]:
        before = self.metrics.zero_shot
        known = {**(self.metrics.get("baselines") or {}), **({"zero_shot": before} if before else {})}
        told = {name: of for name, of in known.items() if isinstance(of, Mapping)}
        return {BASELINES.get(name, name.replace("_", " ")): of for name, of in told.items()}

    def _data(self) -> list[str]:
        counts, drawn = self.data.counts, self.info.published.get("counts") or {}
        name = self.dataset or "a data set that this card does not name"
        lines = [f"Fitted and tested on {name}. This repository holds no images, no file names and no sample ids."]
        if counts and all(isinstance(of, Mapping) for of in counts.values()):
            names = list(dict.fromkeys(each for of in counts.values() for each in of))[:MOST_CLASSES]
            rows = [[each, *(str(of.get(each, 0)) for of in counts.values())] for each in names]
            rows.append(["all", *(str(sum(of.values())) for of in counts.values())])
            lines.append(markdown_table(["images", *counts], rows))
        if drawn:
            words = ", ".join(f"{count} {SPLIT_WORDS.get(split, split)}" for split, count in drawn.items())
            groups = "Images of one group (a patient, for instance) and copies are never in two of these parts."
            lines.append(f"Images: {words} (seed {self.info.seed}). {groups}")
        lines.append(REMEMBERS)
        return lines

    def _licences(self) -> list[str]:
        rows = [
            ["this adapter", self.told.repo, self.told.licence or UNKNOWN],
            ["backbone", f"`{self.spec}`", self.backbone_licence or UNKNOWN],
            ["data", self.dataset or "not named", self.data_licence or UNKNOWN],
            ["software", "vladapt", "Apache-2.0"],
        ]
        lines = [markdown_table(["of", "what", "licence"], rows, numbers=False)]
        whole = "The backbone's weights are named here but are not part of this repository."
        part = "adapter.safetensors holds the backbone weights that the training changed; the others are only named."
        lines.append(part if self.tower_weights else whole)
        if NON_COMMERCIAL.search(self.backbone_licence):
            lines.append("They are for non-commercial use only, and so is any use of this adapter.")
        if self.unknown:
            lines.append(f"The licence of {' and of '.join(self.unknown)} is not known: find out before you use this.")
        return lines

    def _intended(self) -> str:
        what = "Telling apart the classes above" if self.info.class_names else f"Task {self.info.task}"
        domain = f" (domain {self.info.domain})" if self.info.domain else ""
        return (
            f"{what} in images like those of the test set{domain}, with a person who checks uncertain answers. First "
            "score it on images from the place where it will be used."
        )

    def _not_for(self) -> list[str]:
        of_domain = () if self.domain is None else self.domain.not_for
        return [
            *of_domain,
            "Images of another kind or source than those it was tested on, and classes that are not named above.",
            CAUTION.format("images"),
        ]

    def _use(self) -> list[str]:
        place = f"hf:{self.told.repo}"
        own = " --backbone YOUR_COPY" if self.own_backbone else ""
        if not self.info.backbone:
            commands, python = f"vladapt eval {place} --features FILE", ""
        else:
            commands, python = f"vladapt eval {place} --data ./my_images{own}", ""
            if self.info.class_names:
                commands = f"vladapt predict {place} image.png{own}\n{commands}"
                given = ', backbone="YOUR_COPY"' if self.own_backbone else ""
                python = f'```python\nimport vladapt\n\npredictor = vladapt.load_run("{place}"{given})\n```'
        file = f"The backbone `{self.spec}` is not published; give your own copy of it." if self.own_backbone else ""
        return [f"With vladapt installed, as its README says:\n\n```\n{commands}\n```", python, file]


def check_card(content: str, what: str) -> None:
    """Raise the DataError of a card whose metadata the hub's library does not read."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(content).data
    except Exception as error:  # YAML's errors and the library's own
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{what}: its metadata cannot be read ({reason}); correct what is between the two ---"
        ) from error
    if data.get("library_name") != LIBRARY:
        raise DataError(f"{what}: its metadata lack 'library_name: {LIBRARY}'; put it back")


def check_licence(option: str, licence: str | None) -> None:
    """Raise the DataError of a licence that is not written as the hub does."""
    if licence is not None and not LICENCE_ID.fullmatch(licence):
        raise DataError(f"{option} {licence}: write it as the hub does, for instance apache-2.0, cc-by-4.0 or other")


def base_model(spec: str) -> str | None:
    """The hub's id of a backbone, where it is of the hub."""
    spec = bare(spec)
    alias = alias_of(spec)
    if alias is not None:
        return find_published(alias).id or None
    found = re.fullmatch(r"(?:hf:|open_clip:(?:[^@]+@)?hf-hub:)([\w.-]+/[\w.-]+)(?:/.*)?", spec)
    return found.group(1) if found else None


def _known(licence: Any) -> str:
    return str(licence) if licence and licence != UNKNOWN else ""


def _measure(key: str) -> Measure:
    """How a metric is written; of one that nobody has words for, which way is better is not said."""
    side, _, name = key.rpartition("/")
    if name in OF_RETRIEVAL:
        measure = OF_RETRIEVAL[name]
        words = f"{side.replace('_', ' ').capitalize()}: {measure.name}" if side else measure.name
        return replace(measure, name=words)
    name = key.replace("_", " ").replace("/", " ")
    return MEASURES.get(key) or Measure(name[:1].upper() + name[1:], kind="share" if is_share(key) else "number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    ruler = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    whole = [[cell for cell, _ in zip(row, header, strict=True)] for row in (header, ruler, *rows)]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in whole)
