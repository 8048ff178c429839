"""`check_domain` says nothing of a domain that keeps the contract, and of one that breaks a rule just that."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
import pytest
from broken_domains import BROKEN, Whole
from broken_samples import Clips, Masked, OwnPixels, Renamed
from PIL import Image

from vladapt.core.errors import DataError
from vladapt.core.testing.contract import violations
from vladapt.testing import ContractError, check_domain, domain_checks


@pytest.fixture
def folder(tmp_path):
    """Class folders of drawn images."""
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3)).astype(np.uint8)
        file = tmp_path / "set" / ("a", "b", "c")[number % 3] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path / "set"


@cache
def lines_of(cls) -> dict[str, list[str]]:
    """Rule -> what it says of a class."""
    return {rule: violations([(rule, check)], raises=False) for rule, check in domain_checks(cls)}


def test_a_whole_domain_passes_by_its_sample_and_by_a_set_that_it_reads(folder):
    assert check_domain(Whole) == check_domain(Whole(), data=folder) == []


@pytest.mark.parametrize(("cls", "lines"), [pytest.param(*each, id=each[0].__name__) for each in BROKEN])
def test_a_broken_rule_is_said(cls, lines, says):
    says(list(dict.fromkeys(line for said in lines_of(cls).values() for line in said)), lines, f"domain '{cls.name}'")


@pytest.mark.parametrize("cls", [Masked, OwnPixels, Renamed, Clips])
def test_other_kinds_of_whole_domains_pass(cls):
    assert check_domain(cls) == []


def test_a_class_that_needs_arguments_is_refused():
    class Needy(Whole):
        def __init__(self, path):
            self.path = path

    with pytest.raises(ContractError, match=r"cannot be made without arguments .*; give all of them defaults"):
        check_domain(Needy)
    assert check_domain(Needy("a")) == []


def test_recipes_are_resolved(tmp_path):
    texts = {
        "good": '"""For patches."""\n\ndomain = "whole"\nshots = 4\nadapter = dict(name="ape", alpha=2.0)\n',
        "nameless": 'domain = "whole"\n',
        "foreign": '"""Foreign."""\n\ndomain = "medical"\n',
        "misspelt": '"""Misspelt."""\n\ndomain = "whole"\nadapter = dict(name="ape", alfa=2.0)\n',
        "unread": '"""Unread."""\n\ndomain = "whole"\ndata = dict(windw="lung")\n',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)

    class WithRecipes(Whole):
        recipes: ClassVar = {}

    said = {}
    for name in texts:
        WithRecipes.recipes = {name: tmp_path / f"{name}.py"}
        said[name] = check_domain(WithRecipes, raises=False)
    assert said["good"] == []
    assert said["nameless"] == ["domain 'whole': its recipe 'nameless' has no docstring; say in a line what it is"]
    assert said["foreign"] == ["domain 'whole': its recipe 'foreign' is of domain 'medical'"]
    (misspelt,), (unread,) = said["misspelt"], said["unread"]
    assert "its recipe 'misspelt' does not resolve: adapter 'ape' has no option 'alfa'; did you mean alpha" in misspelt
    assert "its recipe 'unread' does not resolve: domain 'whole' has no option 'windw'" in unread


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Silent", "leaves a damaged file out and does not list it in skipped"),
        ("Trusting", "load() of an image in a damaged file raises ValueError (no); raise the DataError of one line"),
        ("Vague", "does not name a damaged file: something is damaged"),
        ("Knowing", "read_images() gives item '00.png' a target; nothing is known of new images"),
        ("Blind", "read_images() of files of its own set gives no items"),
        ("Alike", "read_images() gives two items of one id"),
    ],
)
def test_what_is_wrong_with_reading_files_is_said(name, says, folder):
    import broken_readers

    assert check_domain(getattr(broken_readers, name), data=folder, raises=False) == [f"domain 'whole': {says}"]


def test_a_sample_is_left_out_where_a_set_alone_is_in_question(folder):
    class WithoutSample(Whole):
        def sample(self, task):
            raise DataError("nothing is drawn")

    assert check_domain(WithoutSample(), data=folder, sample=False) == []
    (line,) = set(check_domain(WithoutSample(), data=folder, raises=False))
    assert "its sample cannot be read" in line


def test_each_rule_is_broken_by_some_class():
    """So that no rule is kept by everything; those of options, recipes and files have tests of their own."""
    found = [lines_of(cls) for cls, _ in BROKEN]
    kept = {rule for rules in found for rule in rules if not rule.startswith("options_")} - {"its_recipes_resolve"}
    assert kept == {rule for rules in found for rule, lines in rules.items() if lines}
