"""Phrase grounding: the place in an image that a phrase of a report is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import Backbone, Recipe, RunInfo, Use, option, settle
from ....core.errors import DataError
from ....core.features import FeatureStore
from ....core.runs import Report
from ....core.runtime import Reporter
from ....core.tasks import FittedTowers, Grounding, RetrievalData
from ..grounding.locating import Locator, check_patches
from ..grounding.maps import INTERPOLATIONS, NEAREST, SIGMA
from ..grounding.phrases import Sought, sought_about, sought_by
from ..grounding.predictions import (
    PredictedMaps,
    heat_picture,
    maps_table,
    phrase_row,
    phrases_asked,
    picture_folder,
    write_picture,
)
from ..grounding.reading import asked_of, divided_phrases
from ..grounding.report import PhraseComparison, examples, grounding_report
from ..grounding.scoring import AS_IS, POINTING, SCALES, GroundingScores, Judging, evaluate_grounding, flat_scores

NOT_ASKED = "says that there is no finding, so there is nothing to look for"


@dataclass(frozen=True, kw_only=True)
class GroundingOptions:
    """Options of phrase grounding."""

    sigma: float = option(SIGMA, "width of the Gaussian filter over a map, in patches; 0 for none", low=0, high=100)
    interpolation: str = option(NEAREST, "how a map becomes one value per pixel", choices=INTERPOLATIONS)
    clamp: bool = option(True, "take similarities below 0 as 0, as published code does")
    scale: str = option(
        AS_IS, "what the thresholds of mIoU are compared with: none, or unit, each map from 0 to 1", choices=SCALES
    )
    read_denials: bool = option(True, "read from phrases what they deny (extra reports); else take them as they are")

    def __post_init__(self):
        settle(self, "task 'phrase-grounding'")


class PhraseGrounding(Grounding):
    """Patches of an image are compared with a phrase, and the map with the boxes of radiologists.

    `zero-shot`, the default, looks with the towers as they are, or with the words of a model that `gloria` trained. A
    method that learns from pairs trains the towers on the images that train and their phrases first.
    """

    takes: ClassVar = Grounding.takes - {"generic", "amp"}
    comparison: ClassVar = PhraseComparison
    options: ClassVar = GroundingOptions
    deciding: ClassVar = POINTING
    at_prediction: ClassVar = frozenset({"classes", "workers", "batch_size", "out"})
    writes: ClassVar = (".png",)
    unused: ClassVar = {
        **Grounding.unused,
        "shots": "counts images per class; phrase-grounding trains on all training phrases; omit it",
        "generic": "phrase-grounding does not measure what the towers forgot; omit it",
        "amp": "maps are made in full precision; omit it",
        **dict.fromkeys(
            ("classes", "novel", "templates", "descriptions", "language"), "phrases come from the data; omit it"
        ),
    }

    flat: ClassVar = staticmethod(flat_scores)

    def check_towers(self, backbone: Backbone) -> None:
        check_patches(backbone)

    def divided(self, recipe: Recipe, whole: bool) -> RetrievalData:
        return divided_phrases(self.domain_data(recipe), self.domain, recipe.split_seed, whole=whole)

    def read_again(self, recipe: Recipe, use: Use) -> RetrievalData:
        return self.divided(recipe, whole=bool(use.data) or not self.trains(recipe))

    def fitted(self, recipe: Recipe, data: RetrievalData, reporter: Reporter, folder: Path) -> FittedTowers:
        done = super().fitted(recipe, data, reporter, folder)
        if not self.trains(recipe):
            done.notes.append("Nothing was trained: the backbone looked for the phrases as it is.")
        return done

    def facts(self, data: RetrievalData, done: FittedTowers) -> dict[str, Any]:
        return {"data": {"kind": "captions", "images": len(data.pairs)}}

    def report(self, folder: Path, info: RunInfo, shown: tuple, done, data, hidden: Any) -> Report:
        judging = _judging(info.recipe.get("task_options") or {})
        pictures = examples(done.after, data.pairs.data.load, judging)
        metrics, history, log = shown
        return self._completed(grounding_report(folder, info, metrics, history, log, pictures), hidden)

    def report_again(self, folder: Path, info: RunInfo, result: PhraseComparison, after, data, hidden):
        info = info.with_(data={**info.data, "splits": {}}, notes=list(data.notes))
        pictures = examples(after, data.pairs.data.load, _judging(info.recipe.get("task_options") or {}))
        report = grounding_report(folder, info if hidden is None else hidden.info(info), result, shown=pictures)
        return self._completed(report.of_evaluation(folder, result.lead), hidden)

    def predict(self, use: Use, reporter: Reporter) -> PredictedMaps:
        """A map of each phrase over each new image; with `--out FOLDER` pictures of them."""
        phrases, recipe = phrases_asked(use), self.used_again(use)
        folder = picture_folder(use.out)
        data = self.images(use.images, recipe)
        domain = self.domain.of(data)
        options = recipe.task_options
        by_phrase = sought_by(phrases, domain.templates(self.name), options["read_denials"])
        sought = [each for some in by_phrase.values() for each in some]
        made = PredictedMaps([], [*data.skipped, *((text, NOT_ASKED) for text, some in by_phrase.items() if not some)])
        if not sought:
            raise DataError(f"“{phrases[0]}” {NOT_ASKED}; name a finding")
        backbone = self.backbone(recipe)
        towers = self.towers(use.run, backbone)
        locator = self._locator(towers, data, sought, recipe, towers is backbone)
        judging, asked = _judging(options), [(item, sought) for item in data.items]
        for item, found in locator.located(data, asked, reporter, use.batch_size, use.workers):
            if isinstance(found, str):
                made.skipped.append((item.id, found))
                continue
            image = None if folder is None else data.load(item)
            for number, located in enumerate(found, start=1):
                heat, name = judging.heat(located), ""
                if folder is not None:
                    picture = heat_picture(image, heat)
                    made.files.append(path := write_picture(picture, folder, item.id, number))
                    name = path.name
                made.facts.append(phrase_row(item.id, located, heat, name))
        if not made.facts:
            raise DataError(f"none of the files given is a readable image; {': '.join(made.skipped[0])}")
        return made

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return maps_table(rows)

    def _locator(self, backbone: Backbone, data: Any, sought: Sequence[Sought], recipe: Recipe, keep: bool) -> Locator:
        """
        Args:
            keep: whether features of texts are kept: of towers that a fit made they are not.
        """
        domain = self.domain.of(data)
        transform = domain.transforms(backbone, False, self.name)
        templates = domain.templates(self.name), domain.negative_templates(self.name)
        store = FeatureStore(keep=keep)
        return Locator.of(backbone, transform, sought, templates, store, recipe.task_options["sigma"])

    def scored(
        self,
        backbone: Backbone,
        data: RetrievalData,
        split: str,
        recipe: Recipe,
        reporter: Reporter | None = None,
        trained: bool = False,
    ) -> GroundingScores:
        whole, items = data.pairs.data, data.part(split).items
        pairs = [pair for item in items for pair in asked_of(item, whole.class_names)]
        templates = self.domain.of(whole).templates(self.name)
        sought = sought_about(pairs, templates, recipe.task_options["read_denials"])
        return evaluate_grounding(
            self._locator(backbone, whole, list(sought.values()), recipe, not trained),
            whole,
            items,
            sought,
            _judging(recipe.task_options),
            reporter=reporter,
            batch_size=self.encoding_batch(recipe),
            workers=recipe.workers,
        )


def _judging(options: Mapping[str, Any]) -> Judging:
    known = vars(GroundingOptions())
    return Judging(**{name: options.get(name, known[name]) for name in ("interpolation", "clamp", "scale")})
