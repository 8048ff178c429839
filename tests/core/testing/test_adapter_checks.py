"""`check_adapter` says nothing of a method that keeps the contract, and of one that breaks a rule just that."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

import broken_adapters
import broken_claims  # noqa: F401 - its classes are in BROKEN
import pytest
from broken_adapters import BROKEN, OF_TOWERS, Whole

from vladapt.core.testing.contract import violations
from vladapt.testing import ContractError, adapter_checks, check_adapter

pytestmark = pytest.mark.usefixtures("forked_workers")


@cache
def lines_of(cls) -> dict[str, list[str]]:
    """Rule -> what it says of a class."""
    return {rule: violations([(rule, check)], raises=False) for rule, check in adapter_checks(cls)}


def test_a_whole_method_passes():
    assert check_adapter(Whole) == []


@pytest.mark.parametrize(
    ("cls", "lines"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1][0][:30]}") for each in BROKEN]
)
def test_a_broken_rule_is_said(cls, lines, says):
    says(list(dict.fromkeys(line for said in lines_of(cls).values() for line in said)), lines, "adapter 'whole'")


@pytest.mark.parametrize(
    ("cls", "lines"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1][0][:30]}") for each in OF_TOWERS]
)
def test_a_broken_rule_of_towers_is_said(cls, lines, says):
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    says(list(dict.fromkeys(line for said in lines_of(cls).values() for line in said)), lines, "adapter 'whole'")


def test_a_package_that_is_imported_unsaid_is_named(tmp_path, monkeypatch):
    text = Path(broken_adapters.__file__).read_text().split("# fits ---")[0] + "\n\ndef slow():\n    import faiss\n"
    (tmp_path / "importing_adapter.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    checks = dict(adapter_checks(importlib.import_module("importing_adapter").Whole))
    with pytest.raises(ContractError, match="imports 'faiss', which only the extra 'retrieval' brings; put it in pack"):
        checks["packages_are_declared"]()


def test_an_option_that_another_test_shows_to_count_is_left_to_it():
    idle = next(cls for cls, _ in BROKEN if cls.__name__ == "Idle")
    dict(adapter_checks(idle, shown={"idle"}))["every_option_counts"]()
    with pytest.raises(ContractError, match="option 'idle' changes no result"):
        dict(adapter_checks(idle))["every_option_counts"]()


def test_an_option_counts_in_the_settings_that_are_given():
    """By itself `idle` counts for nothing; no setting changes that, and settings that differ in more are refused."""
    idle = next(cls for cls, _ in BROKEN if cls.__name__ == "Idle")
    for counts, says in [
        (({"idle": 1}, {"idle": 2}), "option 'idle' changes no result, in the settings of counts either"),
        (({"idle": 1}, {"idle": 2, "text": 0.0}), "the two settings of counts differ in more than it"),
    ]:
        checks = dict(adapter_checks(idle, counts={"idle": counts}))
        with pytest.raises(ContractError, match=says):
            checks["every_option_counts"]()


def test_all_broken_rules_are_raised_together():
    cls = next(cls for cls, _ in BROKEN if cls.__name__ == "Forgets")
    with pytest.raises(ContractError) as raised:
        check_adapter(cls)
    assert len(raised.value.lines) == 2 and str(raised.value) == "\n".join(raised.value.lines)


def test_each_rule_is_broken_by_some_class():
    """So that no rule is kept by everything; those of options have tests of their own."""
    found = [lines_of(cls) for cls, _ in [*BROKEN, *OF_TOWERS]]
    kept = {rule for rules in found for rule, lines in rules.items() if not rule.startswith("options_")}
    assert kept == {rule for rules in found for rule, lines in rules.items() if lines} - {"options_are_described"}
