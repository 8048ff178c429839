"""What a task that trains towers has to say of itself."""

from __future__ import annotations

import pytest

from vladapt.core.tasks.retrieval.task import Retrieval
from vladapt.core.tasks.tower_training.base import TowerTraining


def test_a_task_that_leaves_something_out_is_told_what():
    class Unscored(Retrieval):
        scores = TowerTraining.scores

    with pytest.raises(TypeError, match="scores"):
        Unscored()
