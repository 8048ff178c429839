"""What a model of a run raises is said of the run; what the machine lacks is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vladapt import ConfigError, DataError
from vladapt.core.tasks import KeptModel


@pytest.mark.parametrize("error", [MemoryError("full"), torch.cuda.OutOfMemoryError("full"), ConfigError("ours")])
def test_a_machine_without_memory_is_no_fault_of_the_run(error):
    with pytest.raises(type(error)), KeptModel(SimpleNamespace(shown="runs/a")).running():
        raise error


def test_a_model_that_does_not_fit_is_one_line():
    said = r"runs/a: its model cannot be run \(TypeError: no\); fit again"
    with pytest.raises(DataError, match=said), KeptModel(SimpleNamespace(shown="runs/a")).running():
        raise TypeError("no")
