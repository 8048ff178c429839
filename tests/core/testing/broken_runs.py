"""Tasks that break one rule each in what they do with a run, or when they compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from broken_tasks import breaks, with_
from vladapt_toy import pointing
from vladapt_toy.pointing import Pointing, PointingContest, Points

from vladapt import DataError
from vladapt.core.data.unlabelled import images_of
from vladapt.core.runs.folder import Run


@breaks("evaluate() gives ... for distance, its fit ...")
class ScoresOtherwise(Pointing):
    def evaluate(self, use, reporter):
        scores = super().evaluate(use, reporter)
        return {**scores, "adapted": {"distance": 2 * scores["adapted"]["distance"]}}


@breaks("evaluate() gives no 'split'")
class NoSplit(Pointing):
    def evaluate(self, use, reporter):
        scores = super().evaluate(use, reporter)
        return {key: value for key, value in scores.items() if key != "split"}


@breaks("evaluate() of split 'all' gives no scores of it")
class TestAlone(Pointing):
    def evaluate(self, use, reporter):
        return super().evaluate(replace(use, split="test"), reporter)


class Says(Pointing):
    """Pointing whose predictions are changed."""

    def said(self, found):
        return found

    def predict(self, use, reporter):
        return self.said(super().predict(use, reporter))


@breaks(
    "predicts 1 rows for 2 images; give one with its own id per image",
    "beside an image that is cut off it predicts ...",
)
class FirstAlone(Says):
    def said(self, found):
        return replace(found, points=found.points[:1])


@breaks("predicts, and names files [] or skipped [('a.png', 'damaged')] where there are none")
class SkipsNothing(Says):
    def said(self, found):
        return replace(found, skipped=[*found.skipped, ("a.png", "damaged")])


@breaks("predicts differently the second time")
class SaysOtherwise(Says):
    def said(self, found):
        chance = float(np.random.default_rng().random())
        return replace(found, points=[{**row, "point": [chance, 0.0]} for row in found.points])


@breaks("its table of predictions is empty")
class EmptyPredictions(Pointing):
    def predictions_table(self, rows):
        return ""


@breaks("unreadable images are named: DataError: ...")
class StopsAtOne(Pointing):
    def predict(self, use, reporter):
        data = images_of(self.domain, use.images, {})
        for item in data.items:
            data.load(item)
        return super().predict(use, reporter)


@breaks("an image that is cut off is not listed in skipped")
class SkipsSilently(Says):
    def said(self, found):
        return Points(found.points, [], found.files)


with_("with --out it does not write .png files; say in writes which", writes=(".json", ".png"))
with_("writes nothing, and given --out it raises nothing; refuse in one line", writes=())


@breaks("evaluate does not take --batch-size, and given it check_use() raises nothing")
class UsesAnything(Pointing):
    def check_use(self, use, command):
        pass


with_("refuses to predict, and asked to it raises nothing", refusals={"predict": "there is nothing to point at"})


@breaks("where the weights of its run are cut off, evaluate raises nothing")
class AnyWeights(Pointing):
    def evaluate(self, use, reporter):
        with no_weights_where_none_are_readable():
            return super().evaluate(use, reporter)


def no_weights_where_none_are_readable():
    from unittest import mock

    import torch

    read = pointing.weights_of

    def weights_of(run: Run):
        try:
            return read(run)
        except DataError:
            return torch.zeros(25, 2)

    return mock.patch.object(pointing, "weights_of", weights_of)


# comparisons ----------------------------------------------------------------------------------------------------------


@breaks("a comparison does not vary adapters, and given it check_axes() raises nothing")
class VariesAnything(Pointing):
    def check_axes(self, axes):
        pass


@breaks("entries() gives rows without model, shots or seed")
class NoSeeds(Pointing):
    def entries(self, recipe, axes):
        return [{"model": "ridge", "shots": None}]

    def contest(self, recipe, axes, reporter):
        return Seeded(self, recipe, self.read(recipe, reporter))


class Seeded(PointingContest):
    def score(self, entry):
        return super().score({**entry, "seed": self.recipe.seed})


class Otherwise(PointingContest):
    def score(self, entry):
        row = super().score(entry)
        return {**row, "distance": row["distance"] + 1}


@breaks("a comparison gives ... for distance, a fit ...")
class ComparesOtherwise(Pointing):
    def contest(self, recipe, axes, reporter):
        return Otherwise(self, recipe, self.read(recipe, reporter))


class Untimed(PointingContest):
    def score(self, entry):
        row = super().score(entry)
        return {key: value for key, value in row.items() if key != "seconds"}


@breaks("a row of its comparison does not say the seconds of the fit")
class ComparesUntimed(Pointing):
    def contest(self, recipe, axes, reporter):
        return Untimed(self, recipe, self.read(recipe, reporter))
