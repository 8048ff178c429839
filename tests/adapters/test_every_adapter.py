"""What every adapter keeps, found by its file name: the checks of `vladapt.testing`, rule by rule."""

from __future__ import annotations

import json

import pytest
from settings import OPTIONS, inherited

from vladapt.core.contracts.options import options_of
from vladapt.core.registry import adapter_class, catalogue, load_adapter
from vladapt.core.testing.adapters import adapter_checks

pytestmark = pytest.mark.usefixtures("forked_workers", "few_published_templates")
ALL = sorted(catalogue.adapters())
OF_OPTIONS = ("every_option_counts", "cost_options_change_no_result")
"""In `test_every_option.py`, with the settings that they need."""


CHECKS = {name: dict(adapter_checks(adapter_class(name), options=OPTIONS.get(name))) for name in ALL}


def repeats(name: str, rule: str) -> bool:
    """A thousand classes are too many for the base of a method or for none of those that have it."""
    return rule == "a_thousand_classes" and bool(inherited(name))


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{rule}", marks=pytest.mark.thorough if repeats(name, rule) else ())
        for name, checks in CHECKS.items()
        for rule, check in checks.items()
        if rule not in OF_OPTIONS and not rule.startswith("options_")
    ],
)
def test_the_contract(check):
    check()


@pytest.fixture(scope="module")
def methods():
    """Each with the fit that its checks share."""
    return {name: checks["fits_and_predicts"].args[1] for name, checks in CHECKS.items()}


def test_who_trains_says_how_much(methods):
    """A cache, a covariance, crops and neighbours train nothing; whoever has a learning rate does."""
    for name, method in methods.items():
        trains = {"lr", "epochs", "C"} & {each.name for each in options_of(method.cls)}
        assert (method.fitted.report.trained_parameters > 0) == bool(trains), name


@pytest.mark.parametrize("name", ALL)
def test_a_file_is_loaded_by_name(methods, name):
    method = methods[name]
    again = load_adapter(method.file, method.backbone)
    assert type(again) is method.cls and json.dumps(again.options) == json.dumps(method.fitted.adapter.options)


def test_transduction_without_shots_needs_no_labels():
    checks = dict(adapter_checks(adapter_class("transclip"), options={"mode": "zero-shot"}))
    assert "no_labels_are_refused" not in checks
    checks["no_labels"]()
