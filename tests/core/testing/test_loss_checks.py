"""`check_loss` says nothing of a loss that keeps the contract, and of one that breaks a rule just that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from broken_losses import BROKEN, NoLoss, Whole

from vladapt import Loss, Output, RowLoss
from vladapt.core.runtime.ranks import ONE
from vladapt.core.testing.contract import violations
from vladapt.testing import ContractError, check_loss, loss_checks

pytestmark = pytest.mark.usefixtures("forked_workers")


@cache
def lines_of(cls) -> dict[str, list[str]]:
    """Rule -> what it says of a class."""
    torch.manual_seed(0)
    return {rule: violations([(rule, check)], raises=False) for rule, check in loss_checks(cls)}


def test_a_whole_loss_passes_in_two_processes_too():
    assert check_loss(Whole, processes=True) == []
    assert "two_processes_give_what_one_gives" in dict(loss_checks(Whole, processes=True))


@pytest.mark.parametrize(("cls", "lines"), [pytest.param(*each, id=each[0].__name__) for each in BROKEN])
def test_a_broken_rule_is_said(cls, lines, says):
    says(list(dict.fromkeys(line for said in lines_of(cls).values() for line in said)), lines, "loss 'whole'")


def test_a_loss_without_a_loss_is_said_whatever_else_fails():
    assert "loss 'whole': gives near and no 'loss'" in check_loss(NoLoss, raises=False)


def test_each_rule_is_broken_by_some_class():
    """So that no rule is kept by everything; those of options have tests of their own."""
    found = [lines_of(cls) for cls, _ in BROKEN]
    kept = {rule for rules in found for rule in rules if not rule.startswith("options_")}
    assert kept == {rule for rules in found for rule, lines in rules.items() if lines} - {"options_are_described"}


def test_two_processes_are_compared_with_one():
    cls = next(cls for cls, _ in BROKEN if cls.__name__ == "OfItsOwnRows")
    with pytest.raises(ContractError, match="each of two processes gives"):
        dict(loss_checks(cls, processes=True))["two_processes_give_what_one_gives"]()


def test_outputs_that_a_loss_brings_are_made():
    @dataclass(eq=False, repr=False, kw_only=True)
    class OfTraits(Loss):
        """Images near their traits: a baseline."""

        needs: ClassVar = frozenset({"image_features", "traits"})
        outputs: ClassVar = {"traits": Output("traits of images", ("B", "A"), "raw", column="traits")}

        def compute(self, out, progress):
            images, traits = out["image_features"], torch.tanh(out["traits"])
            return {"loss": (images.mean(dim=1) - traits.mean(dim=1)).square().mean()}

    assert check_loss(OfTraits) == []


def test_an_example_takes_the_place_of_random_outputs():
    @dataclass(eq=False, repr=False, kw_only=True)
    class OfShares(Loss):
        """Shares of classes, which add up to one: a baseline."""

        needs: ClassVar = frozenset({"image_features", "labels"})

        def compute(self, out, progress):
            if out["labels"].ndim != 2:
                raise ValueError("shares are needed")
            return {"loss": (out["image_features"][:, :5] - out["labels"]).square().mean()}

    def shares(outputs, seed):
        generator = torch.Generator().manual_seed(seed)
        return {**outputs, "labels": torch.rand(8, 5, generator=generator)}

    assert check_loss(OfShares, example=shares) == []
    assert any("shares are needed" in line for line in check_loss(OfShares, raises=False))


@dataclass(eq=False, repr=False, kw_only=True)
class Rows(RowLoss):
    """Images that pick their texts: a baseline."""

    name: ClassVar = "rows"
    needs: ClassVar = frozenset({"image_features", "text_features", "logit_scale"})

    def compute_rows(self, out, ranks, progress):
        return self.of_columns(out, ranks.columns(out["text_features"]), ranks)

    def of_columns(self, out, texts, ranks):
        logits = out["logit_scale"] * out["image_features"] @ texts.T
        right = torch.arange(logits.shape[1])[ranks.own(len(logits))]
        return {"loss": ranks.average(torch.nn.functional.cross_entropy(logits, right))}


@dataclass(eq=False, repr=False, kw_only=True)
class OfOneRank(Rows):
    """Forgets what the other ranks have: a baseline."""

    def compute_rows(self, out, ranks, progress):
        return super().compute_rows(out, ONE, progress)


@dataclass(eq=False, repr=False, kw_only=True)
class Deaf(Rows):
    """Sends its texts, and takes back no gradient of the other ranks: a baseline."""

    def compute_rows(self, out, ranks, progress):
        texts, own = out["text_features"], ranks.own(len(out["text_features"]))
        columns = ranks.columns(texts.detach())
        return self.of_columns(out, torch.cat([columns[: own.start], texts, columns[own.stop :]]), ranks)


def test_a_loss_by_rows_passes_in_two_processes_too():
    assert check_loss(Rows, processes=True) == []


def test_a_loss_by_rows_that_looks_at_its_rank_alone_is_said():
    lines = check_loss(OfOneRank, raises=False)
    assert lines and all("half of the rows, with those of another rank," in line for line in lines)
    (line,) = check_loss(Deaf, raises=False)
    assert line.endswith("with those of another rank, has another gradient of 'text_features' than the whole batch")
