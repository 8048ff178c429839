from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.items import spoken
from vladapt.core.errors import ConfigError
from vladapt.core.prompts.classifier import ensemble, fill


def test_fill_puts_the_name_with_spaces_for_underscores():
    assert fill(["a photo of a {}."], "annual_crop_land") == ["a photo of a annual crop land."]


def test_a_name_with_braces_is_text_not_a_format():
    assert fill(["{} {1}"], "{0}") == ["{0} {1}"]


@pytest.mark.parametrize("bad", ["a photo", "a photo of a {0}.", 3])
def test_a_template_without_a_place_is_refused_in_one_line(bad):
    with pytest.raises(ConfigError, match="has no place for the class name"):
        fill([bad], "cat")


def test_a_single_text_counts_as_one_template():
    assert fill("a {}", "cat") == ["a cat"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=5))
def test_ensemble_does_not_depend_on_the_norms(norms):
    rows = torch.eye(len(norms)) * torch.tensor(norms)[:, None]
    assert torch.allclose(ensemble(rows), torch.full((len(norms),), 1 / len(norms)), atol=1e-6)


def test_spoken_is_idempotent():
    assert spoken(spoken(" apply__eye_makeup ")) == "apply eye makeup"
