"""What holds for all judgements, and how a task makes, shows and reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from vladapt import Judgement, Place, Record, option
from vladapt.core.contracts.judgement import (
    COMPARE,
    EVAL,
    FIT,
    PREDICT,
    SELECT,
    Findings,
    Judged,
    Scores,
)
from vladapt.core.contracts.options import options_of
from vladapt.core.engine.listing import listing, name_facts, only_kind
from vladapt.core.errors import ConfigError
from vladapt.core.judgements.baselines import BaselineComparison, compared
from vladapt.core.metrics import classification_metrics
from vladapt.core.registry import build, catalogue, judgement_class, task_class

NAMES = sorted(catalogue.judgements())


@dataclass(kw_only=True)
class Pointed(Judged):
    """What `Tells` judges."""

    labelled: bool = True


@dataclass(frozen=True, eq=False)
class Told(Record):
    key: ClassVar = "told"
    value: int

    def section(self):
        return [f"section {self.value}", None]

    def note(self):
        return f"note {self.value}"

    def facts(self):
        return {"fact": self.value}


@dataclass(eq=False, kw_only=True)
class Tells(Judgement):
    record: ClassVar = Told
    judges: ClassVar = Pointed
    place: ClassVar = Place.ABILITIES
    value: int = option(1, "what is told", low=0)

    def compute(self, fit):
        return Told(self.value) if self.value else None


@pytest.mark.parametrize("name", NAMES)
def test_a_judgement_says_what_it_is(name):
    cls = judgement_class(name)
    kinds = cls.judges if isinstance(cls.judges, tuple) else (cls.judges,)
    assert kinds and all(issubclass(kind, Judged) for kind in kinds)
    assert isinstance(cls.place, Place) and cls.at and cls.at <= {FIT, EVAL, PREDICT, COMPARE, SELECT}
    assert is_dataclass(cls.record) and cls.record.__dataclass_params__.frozen
    assert not cls.record.is_in({})
    assert all(each.help for each in options_of(cls))


def test_every_judgement_is_made_by_a_task_and_no_two_share_a_key():
    made = {name for task in catalogue.tasks() for name in task_class(task).judgements}
    domains = [build.load_domain(name) for name, entry in catalogue.domains().items() if entry.entry_point is None]
    made |= {name for domain in domains for names in domain.judgements.values() for name in names}
    assert made == set(NAMES)
    keys = [judgement_class(name).record.key for name in NAMES]
    assert len([key for key in keys if key]) == len({key for key in keys if key})


@pytest.fixture
def task(monkeypatch):
    """A task whose one judgement is `Tells`, twice under two names where it is asked for."""
    classes = {"tells": Tells}
    monkeypatch.setattr(build, "judgement_class", lambda name: classes[name.partition("-")[0]])
    monkeypatch.setattr(build, "build_judgement", lambda name, **options: classes["tells"](**options))
    monkeypatch.setattr(build.catalogue, "judgements", dict)
    monkeypatch.setattr(Tells, "name", "tells")
    return SimpleNamespace(title="pointing", judgements=("tells",), judges=(Pointed,))


def test_options_of_judgements_are_told_apart_from_those_of_the_task(task):
    own, of_judgements = build.divided_options(task, {"windows": "3", "value": "2"})
    assert own == {"windows": "3"} and of_judgements == {"value": 2}
    assert [each.value for each in build.judges_at(task, EVAL, {"value": "5", "windows": 3})] == [5]
    with pytest.raises(ConfigError, match="--other-value: pointing does not use it; omit it"):
        build.check_judging(task, EVAL, {"other_value": 1})
    with pytest.raises(ConfigError, match="value"):
        build.check_judging(task, EVAL, {"value": -1})


def test_one_option_name_in_two_judgements_is_refused(task):
    task.judgements = ("tells", "tells-again")
    with pytest.raises(ConfigError, match="'tells' and 'tells-again' both have an option 'value'"):
        build.judging_options(task, FIT)


def test_another_package_is_asked_where_it_judges_such_fits(task, monkeypatch):
    entry = SimpleNamespace(entry_point=object())
    monkeypatch.setattr(build.catalogue, "judgements", lambda: {"tells-besides": entry})
    assert list(build.judgements_of(task)) == ["tells", "tells-besides"]
    task.judges = (Judged,)  # of no kind in particular
    assert list(build.judgements_of(task)) == ["tells"]


def test_what_is_found_is_in_metrics_notes_report_and_run():
    fit, findings = Pointed(metrics={"adapted": {}}, at=EVAL), Findings({"tells": Tells})
    Tells.name = "tells"
    assert findings.add([Tells(value=3)], fit) == ["note 3"] and fit.metrics == {"adapted": {}, "told": {"value": 3}}
    assert findings.sections(Place.ABILITIES) == ["section 3"] and findings.sections(Place.TRUST) == []
    assert findings.facts == {"fact": 3} and findings.tables == []
    again = Findings.of_metrics({"tells": Tells}, fit.metrics)
    assert Findings.of_metrics({"tells": Tells}, {"adapted": {}}) == {}
    assert again["tells"] == findings["tells"] == {"value": 3} and again["tells"]["value"] == 3
    assert Findings({"tells": Tells}).add([Tells(value=0)], fit) == []
    with pytest.raises(ConfigError, match="'tells': 'told' is in metrics"):
        findings.add([Tells(value=4)], fit)


def test_nothing_is_made_that_is_not_asked_for_or_lacks_what_it_needs(monkeypatch):
    fit, findings = Pointed(at=EVAL, labelled=False), Findings({"tells": Tells})
    monkeypatch.setattr(Tells, "needs", frozenset({"labelled"}))
    assert findings.add([Tells()], fit) == []
    fit.labelled = True
    monkeypatch.setattr(Tells, "asked_by", ("value",))
    unasked = Tells()
    unasked.value = None
    assert findings.add([unasked], fit) == [] and not findings
    assert findings.add([Tells(value=2)], fit) == ["note 2"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_judgement_declares_is_there(name):
    cls = judgement_class(name)
    kinds = cls.judges if isinstance(cls.judges, tuple) else (cls.judges,)
    assert all(cls.needs <= {*dir(kind), *(field.name for field in fields(kind))} for kind in kinds)
    assert set(cls.asked_by) <= {each.name for each in options_of(cls)}


@pytest.mark.parametrize("fault", [ZeroDivisionError("by nothing"), ConfigError("not of such labels")])
def test_a_judgement_of_another_package_that_fails_does_not_cost_the_fit(fault, monkeypatch):
    def fails(self, fit):
        raise fault

    fit, findings = Pointed(at=FIT), Findings({"tells": Tells})
    monkeypatch.setattr(Tells, "name", "tells")
    monkeypatch.setattr(Tells, "compute", fails)
    (said,) = findings.add([Tells()], fit)
    assert "'tells' failed" in said and str(fault) in said and not findings and fit.metrics == {}
    fit.at = EVAL  # where it is all that was asked for
    with pytest.raises(type(fault)):
        findings.add([Tells()], fit)
    fit.at = FIT
    monkeypatch.setattr(Tells, "__module__", "vladapt.core.judgements.tells")  # a fault of our own is not hidden
    with pytest.raises(type(fault)):
        findings.add([Tells()], fit)


def test_a_comparison_is_the_same_when_it_is_read_again():
    labels = torch.arange(60) % 3
    logits = torch.nn.functional.one_hot(labels, 3).float() + torch.randn(60, 3, generator=torch.manual_seed(0))
    metrics = {"zero_shot": None, "adapted": classification_metrics(logits, labels, 3), "test_images": 60}
    found = compared(Scores(labels, None, logits, metrics), "abc")
    metrics |= found.to_json()
    again = BaselineComparison.from_json(metrics)
    assert again.to_json() == found.to_json() and list(again.to_json()) == list(found.to_json())
    assert again.sentence == found.sentence and again.section() == found.section() and found["strongest"]


def test_judgements_are_listed_and_shown_with_their_options():
    rows = {row["name"]: row["what"] for row in listing("judgements")}
    assert set(rows) == set(NAMES) and all(rows.values())
    told = name_facts("judgement", "growing-vocabulary")
    assert [each.name for each in told.options] == ["vocabulary_steps"] and "of eval" in told.given_by
    assert dict(told.facts)["made by"] == "eval" and told.text
    assert only_kind("part-order") == "judgement"
