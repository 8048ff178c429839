"""A check holds one rule: the first line that it gives is said, with what is checked; a rule that fails is said too."""

from __future__ import annotations

import sys

import pytest

from vladapt import CapabilityError, DataError
from vladapt.core.testing.contract import ContractError, Unchecked, checks_of, names_its_origin, refusal, violations


class Thing:
    title = "thing 'x'"


def it_is_kept(thing):
    yield from ()


def it_is_broken(thing):
    yield "is broken"
    yield "is broken twice"


def it_cannot_be_asked(thing):
    raise KeyError("handle")
    yield


def test_each_rule_is_a_check_of_its_name():
    checks = dict(checks_of(Thing(), [it_is_kept, it_is_broken]))
    assert list(checks) == ["it_is_kept", "it_is_broken"]
    checks["it_is_kept"]()
    with pytest.raises(ContractError, match=r"^thing 'x': is broken$"):
        checks["it_is_broken"]()


def test_a_rule_that_fails_is_said_with_its_error():
    ((_, check),) = checks_of(Thing(), [it_cannot_be_asked])
    with pytest.raises(ContractError, match=r"^thing 'x': it cannot be asked: KeyError: 'handle'$") as raised:
        check()
    assert isinstance(raised.value.__cause__, KeyError)


def test_all_lines_come_together_each_once():
    rules = [it_is_broken, it_is_kept, it_is_broken, it_cannot_be_asked]
    lines = violations(checks_of(Thing(), rules), raises=False)
    assert lines == ["thing 'x': is broken", "thing 'x': it cannot be asked: KeyError: 'handle'"]
    with pytest.raises(ContractError) as raised:
        violations(checks_of(Thing(), rules), raises=True)
    assert raised.value.lines == lines
    assert violations(checks_of(Thing(), [it_is_kept]), raises=True) == []


@pytest.mark.parametrize(
    ("error", "did", "message"),
    [
        (DataError("a.png: damaged; remove it"), "", "a.png: damaged; remove it"),
        (DataError("a.png:\ndamaged"), "", "a.png: damaged"),
        (DataError(" "), "raises DataError without a word", ""),
        (CapabilityError("no"), "raises CapabilityError (no)", ""),
        (KeyError("handle"), "raises KeyError ('handle')", ""),
        (None, "raises nothing", ""),
    ],
)
def test_a_refusal_is_one_line_of_the_right_kind(error, did, message):
    def call():
        if error is not None:
            raise error

    assert refusal(call, DataError) == (did, message)


def test_an_origin_is_a_paper_or_a_base_line():
    def told(text):
        return names_its_origin(type("Cls", (), {"__doc__": text}))

    assert told('From "A Title" (Someone et al., 2024, arXiv 2404.02285).')
    assert told("From A Title, 2013,\ndoi 10.1109/x.")
    assert told("The mean of features: a baseline.")
    assert not told("From A Title.") and not told("In 2024.") and not told("arXiv 2404.02285") and not told(None)


def test_checks_say_what_they_lack_themselves_and_hold_nothing_against_the_class(monkeypatch):
    from broken_claims import OF_TOWERS
    from vladapt_toy.domain import Toy

    from vladapt.core.registry import task_class
    from vladapt.core.testing import towers
    from vladapt.testing import check_adapter, check_task

    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr("vladapt.core.testing.method.small_clip", towers.small_clip.__wrapped__)
    monkeypatch.setattr("vladapt.core.testing.task_trial.small_clip", towers.small_clip.__wrapped__)
    task = task_class("classification")
    for check in (lambda: check_adapter(OF_TOWERS[0][0]), lambda: check_task(task, Toy(), adapter="zero-shot")):
        with pytest.raises(Unchecked, match="the small towers of these checks need the package 'open_clip'"):
            check()
