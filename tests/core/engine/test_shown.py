"""What `show NAME` opens with: what the method does and when to take it, before its paper and equations."""

from __future__ import annotations

import pytest

from vladapt.core.engine.listing import listing, name_facts

OWN = {row["name"]: row["what"] for row in listing("adapters")}


@pytest.mark.parametrize("name", OWN)
def test_a_method_opens_with_what_it_does_and_when_to_take_it(name):
    first, when, paper = name_facts("adapter", name).text.split("\n\n")[:3]
    assert first == OWN[name]
    assert when.startswith("Take it ") and when.endswith(".") and paper


def test_the_crop_that_a_method_was_published_with_is_a_fact():
    assert dict(name_facts("adapter", "nmtune").facts)["published with random crops of"] == "80% to 100% of the area"
    assert "published with random crops of" not in dict(name_facts("adapter", "zero-shot").facts)


def test_of_a_curator_and_of_a_loss_the_file_speaks_first():
    assert name_facts("curator", "random").text.startswith("A random subset: ")
    assert name_facts("loss", "siglip").text.startswith("The sigmoid loss of SigLIP")
