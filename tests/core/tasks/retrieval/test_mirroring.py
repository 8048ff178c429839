"""Training images of retrieval are mirrored where that is asked for: captions name left and right."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.contracts.options import options_from
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.tasks.retrieval.fitting import RetrievalData, train_on_pairs
from vladapt.core.tasks.retrieval.task import Retrieval, RetrievalOptions


def view_of(flip):
    """The view that a training is given."""

    def transform(backbone, train):
        return Preprocess(32, (0.5,) * 3, (0.5,) * 3, train=train)

    given = {}
    training = SimpleNamespace(adapter=SimpleNamespace(adapted=lambda towers: towers), seed=0, amp=None, workers=1)
    training.fit_pairs = lambda *args, **how: given.update(how)
    data = RetrievalData(sample_pairs(10), "drawn", "none", transform, [], [])
    train_on_pairs(training, replace(data, flip=flip), None, None, None)
    return given["view"]


def test_images_are_mirrored_where_it_is_asked_for():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255  # bright on the right
    mirrored = {}
    for flip in (False, True):
        views = [view_of(flip)(image, seed=seed) for seed in range(12)]
        mirrored[flip] = sum(float(each[..., :8].mean()) > float(each[..., -8:].mean()) for each in views)
    assert mirrored[False] == 0 and 2 <= mirrored[True] <= 10
    same = [torch.equal(view_of(False)(image, seed=seed), view_of(True)(image, seed=seed)) for seed in range(12)]
    assert sum(same) == 12 - mirrored[True], "the crops are the same"


@pytest.mark.parametrize(("asked", "flip"), [({}, False), ({"flip": True}, True)])
def test_the_option_says_it(asked, flip):
    options = vars(options_from(RetrievalOptions, asked, "retrieval"))
    recipe = Recipe(data={"path": "sample"}, task="retrieval", task_options=options)
    assert Retrieval(None).read(recipe).flip is flip
