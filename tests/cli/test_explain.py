"""Why a run says what it says: `predict --explain`, and what a run keeps for it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt.core.engine.fit import task_of_run
from vladapt.core.explanation.nearest import LabelledImages
from vladapt.core.runs.folder import Run
from vladapt.core.tasks.classification.labelled_examples import LabelledPictures


@pytest.fixture
def pictures(run):
    """The labelled images of the run of `run`, and what loads them."""
    opened = Run.open(run)
    labelled = LabelledImages.load(run)
    task = task_of_run(opened)
    return labelled, LabelledPictures(opened, task.domain, task.name, labelled)


def test_a_run_finds_the_pictures_of_its_labelled_images_again(pictures, run):
    labelled, found = pictures
    assert len(labelled) == labelled.total == 6 and set(labelled.ids) == set(Run.open(run).info["splits"]["support"])
    nearest = labelled.nearest(labelled.features[:1])[0]
    assert nearest[0].id == labelled.ids[0] and nearest[0].similarity == pytest.approx(1, abs=1e-3)
    assert found.load(nearest[0]).shape == (24, 24, 3)


def test_a_picture_that_is_gone_or_another_is_not_shown(pictures):
    labelled, found = pictures
    first, second = labelled.nearest(labelled.features[:1])[0][:2]
    paths = [found.path_of(labelled.places[labelled.position(each.row)]["source"]) for each in (first, second)]
    paths[0].unlink()
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(paths[1])
    assert found.load(first) is None and found.load(second) is None
