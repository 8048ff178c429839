"""Pointing, a third party's task that keeps the contract, broken in one rule each; `BROKEN` says in which words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import broken_adapters
import numpy as np
from vladapt_toy import pointing
from vladapt_toy.pointing import Pointing

from vladapt import DataError, FitReport, Task

BROKEN: list[tuple[type[Task], tuple[str, ...]]] = []


breaks = partial(broken_adapters.breaks, where=BROKEN)
"""Of a class: the lines that its checks say."""


def with_(*lines: str, **attributes) -> None:
    """Pointing with other class attributes, and what is said of it."""
    breaks(*lines)(type("_".join(attributes), (Pointing,), attributes))


# what it says of itself -----------------------------------------------------------------------------------------------

with_(
    "its name is 'Two Words'; give lower-case words joined by hyphens",
    "cannot be fitted: ConfigError: ...",
    name="Two Words",
)
with_("domain 'toy' does not name it in tasks", "cannot be fitted: ConfigError: ...", name="painting")
with_("takes names 'shot', which is none of ...", takes=frozenset({"data", "shot"}))
with_(
    "defaults names 'shot', which is none of ...",
    *("...: TypeError: ...",) * 4,
    defaults={"shot": 1},
)
with_("at_prediction names 'everything', which is none of ...", at_prediction=frozenset({"out", "everything"}))
with_("compares names 'epochs', which is none of ...", compares=frozenset({"seeds", "epochs"}))
with_("refusals names 'train', which is none of compare, evaluate, export, predict, serve", refusals={"train": "no"})
with_(
    "unused gives no single line for 'shots'",
    unused={"shots": "counts\nimages"},
)
with_("writes names 'json'; give suffixes with their dots", "with --out it writes .json files; ...", writes=("json",))
with_("writes files at prediction, and 'out' is not in at_prediction", "...", at_prediction=frozenset())
with_(
    "refuses to compare, and names in compares what it varies",
    "refuses to compare, and asked to it raises nothing",
    refusals={"compare": "no"},
)


@dataclass(frozen=True, kw_only=True)
class BareOptions(pointing.PointingOptions):
    bare: float = 0.5


@breaks("option 'bare' is a bare field; make it with option(default, help, ...)")
class BareOption(Pointing):
    options: ClassVar = BareOptions


@breaks("does not take 'adapter', and given it settled() raises nothing")
class TakesAnything(Pointing):
    def settled(self, recipe):
        return recipe.with_(task=self.name, task_options=self._task_options(recipe.task_options))


@breaks(
    "does not take 'adapter', and given it calls sample() of the domain first; refuse before",
    "given an option that it does not have, it calls sample() of the domain first; refuse before",
)
class LooksFirst(Pointing):
    def settled(self, recipe):
        self.domain.sample(self.name)
        return super().settled(recipe)


@breaks("given an option that it does not have, settled() raises nothing")
class TakesAnyOption(Pointing):
    def _task_options(self, given):
        return super()._task_options({key: value for key, value in given.items() if key in ("ridge", "share")})


@breaks("given data that is not there, its fit raises nothing")
class FallsBack(Pointing):
    def read(self, recipe, reporter):
        if not Path(recipe.data_path).exists():
            recipe = recipe.with_source(data="sample")
        return super().read(recipe, reporter)


@breaks("given data that is not there, its fit leaves notes.txt", "on a full disk its fit leaves notes.txt; ...")
class LeavesNotes(Pointing):
    def fit(self, recipe, reporter):
        Path(recipe.out).mkdir()
        (Path(recipe.out) / "notes.txt").touch()
        return super().fit(recipe, reporter)


# its fit --------------------------------------------------------------------------------------------------------------


@breaks("given data that is not there, its fit raises RuntimeError (no)", "cannot be fitted: RuntimeError: no")
class Unfit(Pointing):
    def fit(self, recipe, reporter):
        raise RuntimeError("no")


@breaks("its fit returns NoneType, not a FitResult")
class GivesNothing(Pointing):
    def fit(self, recipe, reporter):
        super().fit(recipe, reporter)


class Told(Pointing):
    """Pointing whose result is changed."""

    def told(self, result):
        return result

    def fit(self, recipe, reporter):
        return self.told(super().fit(recipe, reporter))


@breaks("its metrics have no 'adapted' with scores by name", "metrics.json has other metrics than ...", "...", "...")
class Unscored(Told):
    def told(self, result):
        return replace(result, metrics={"zero_shot": None})


@breaks("JSON cannot hold its summary (...)")
class OddSummary(Told):
    def told(self, result):
        return replace(result, summary={**result.summary, "task": self})


@breaks("its summary does not say in 'run' where the run is")
class NoPlace(Told):
    def told(self, result):
        return replace(result, summary={"run": "runs"})


@breaks("its report does not say what settings were chosen on")
class ChosenOnNothing(Told):
    def told(self, result):
        return replace(result, report=FitReport("pointing", chosen_on=""))


@breaks("its run has no log.txt")
class NoLog(Told):
    def told(self, result):
        (result.run / "log.txt").unlink()
        return result


@breaks("run.json has the task 'detection', not 'pointing'")
class OfAnotherTask(Pointing):
    def info(self, *given):
        return {**super().info(*given), "task": "detection"}


@breaks("run.json has another recipe than that of the fit")
class OfAnotherRecipe(Pointing):
    def info(self, recipe, *given):
        return super().info(recipe.with_(seed=7), *given)


@breaks(
    "metrics.json has other metrics['adapted']['distance'] than the fit returns",
    "evaluate() gives ...",
    "a comparison ...",
)
class OtherMetrics(Told):
    def told(self, result):
        return replace(result, metrics={**result.metrics, "adapted": {"distance": 0.25 * len(result.notes)}})


@breaks("its report has no sections; write it by write_report() of core/runs/run_sections.py")
class PlainPage(Told):
    def told(self, result):
        (result.run / "report.html").write_text("<html>fine</html>")
        return result


@breaks("its report fetches or runs something; a page holds all that it shows")
class FetchingPage(Told):
    def told(self, result):
        page = result.run / "report.html"
        page.write_text(page.read_text() + '<img src="https://example.com/a.png">')
        return result


@breaks("its table of scores is empty")
class EmptyTable(Pointing):
    def table(self, metrics):
        return ""


@breaks("its verdict is None; give a sentence, or an empty text")
class NoVerdict(Pointing):
    def verdict(self, metrics):
        return None


@breaks(
    "gives other metrics['adapted']['distance'] with the same seed; draw from generators of its own, seeded by the "
    "recipe's",
    "compared twice, distance is ... and ...",
)
class ByChance(Pointing):
    def learned(self, recipe, data):
        return super().learned(recipe, data) + 0.1 * float(np.random.rand())


@breaks("its fit changes settings of torch, and leaves them so")
class LeavesTorch(Pointing):
    def fit(self, recipe, reporter):
        import torch

        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        return super().fit(recipe, reporter)


@breaks("on a full disk its fit raises OSError (...); write the run in `with Run.create(...) as run`")
class HalfARun(Pointing):
    def fit(self, recipe, reporter):
        try:
            return super().fit(recipe, reporter)
        except DataError as error:
            raise error.__cause__ or error from None
