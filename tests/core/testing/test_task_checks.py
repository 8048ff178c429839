"""`check_task` says nothing of a task that keeps the contract, and of one that breaks a rule just that."""

from __future__ import annotations

from functools import cache

import broken_runs  # noqa: F401 - its classes are in BROKEN
import pytest
from broken_tasks import BROKEN, Pointing
from vladapt_toy.domain import Toy

from vladapt.core.testing.contract import violations
from vladapt.core.training.kernels import restored_determinism
from vladapt.testing import check_task, task_checks


@cache
def lines_of(cls) -> dict[str, list[str]]:
    """Rule -> what it says of a class. One of them leaves torch's settings changed."""
    with restored_determinism():
        return {rule: violations([(rule, check)], raises=False) for rule, check in task_checks(cls, Toy())}


def test_a_whole_task_passes():
    assert check_task(Pointing, Toy()) == []


@pytest.mark.parametrize(("cls", "lines"), [pytest.param(*each, id=each[0].__name__) for each in BROKEN])
def test_a_broken_rule_is_said(cls, lines, says):
    says(list(dict.fromkeys(line for said in lines_of(cls).values() for line in said)), lines, f"task '{cls.name}'")


def test_each_rule_is_broken_by_some_class():
    """So that no rule is kept by everything; those of options have tests of their own."""
    found = [lines_of(cls) for cls, _ in BROKEN]
    kept = {rule for rules in found for rule in rules if not rule.startswith("options_")}
    assert kept == {rule for rules in found for rule, lines in rules.items() if lines} - {"options_are_described"}
