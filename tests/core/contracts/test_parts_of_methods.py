"""Parts: their options stand flat among a method's own, in order; `self.part` has the values; old bases still work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from vladapt import Adapter, FitReport, api, option
from vladapt.core.contracts import ClassWeighting, Part, RandomCrops, StoredViews, Ties, TrainingViews, has
from vladapt.core.contracts.features import FeatureSet, TextClassifier
from vladapt.core.contracts.options import options_of
from vladapt.core.contracts.parts import part_of
from vladapt.core.errors import ConfigError

UNIT = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


@dataclass(frozen=True, kw_only=True)
class Pace(Part):
    """How fast it goes."""

    published: ClassVar = {"speed": 2.0}
    fastest: float = 10.0
    speed: float = option(1.0, "how fast", above=0)

    def settled(self, adapter):
        if self.speed > self.fastest:
            raise ConfigError(f"option speed={self.speed:g} is not usable; give {self.fastest:g} at most")
        return {"speed": 3.0} if self.speed == 1 else {}

    @property
    def needs(self):
        return frozenset({"images"}) if self.speed > 5 else frozenset()


class Means:
    """A method, but for its base."""

    state: ClassVar = ("means",)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        self.means = torch.nn.functional.one_hot(support.labels).float().T @ support.unit
        return FitReport("means", notes=[self.pool.views_note(support)] if hasattr(self, "pool") else [])

    def _logits(self, batch):
        return batch.unit @ self.means.T


@dataclass(eq=False, kw_only=True)
class Walker(Means, Adapter):
    """Own options stand behind those of parts."""

    own: int = option(1, "its own")
    pace = has(Pace)
    choice = has(Ties)
    speed: float = 4.0


@dataclass(eq=False, kw_only=True)
class Runner(Walker):
    """Other facts of the same part, one more part, and an option less."""

    fixed: ClassVar = {"own": 7}
    pace = has(Pace, fastest=20.0)
    weighting = has(ClassWeighting)


def names(cls: type) -> list[str]:
    return [each.name for each in options_of(cls)]


def test_options_of_parts_are_flat_in_order_and_keep_their_bounds():
    assert names(Walker) == ["speed", "ties", "own"] and names(Runner) == ["speed", "ties", "class_weight"]
    assert Walker().options == {"speed": 4.0, "ties": "plateau", "own": 1}
    with pytest.raises(ConfigError, match=r"option speed=-1 of Walker is not usable"):
        Walker(speed=-1)


def test_a_part_has_the_values_of_options_and_settles_them():
    assert (Walker(speed="2").pace.speed, Walker(speed=1).speed, Walker(speed=1).pace.speed) == (2.0, 3.0, 3.0)
    changed = Walker()
    changed.speed = 9.0
    assert changed.pace.speed == 9.0


def test_needs_of_a_part_are_of_the_one_that_asks_for_them():
    assert "images" in Walker(speed=6).needs and "images" not in Walker().needs | Walker.needs


def test_a_subclass_has_other_facts_and_the_same_options():
    with pytest.raises(ConfigError, match="give 10 at most"):
        Walker(speed=11)
    assert Runner(speed=11).pace.fastest == 20.0 and Runner().speed == 4.0 and Runner().own == 7


def test_a_part_is_found_by_its_kind_of_a_class_too():
    assert part_of(Runner, ClassWeighting).class_weight == "auto" and part_of(Walker, ClassWeighting) is None
    assert part_of(Walker, Pace).speed == 4.0 and part_of(Runner(speed=2), Pace) == Pace(fastest=20.0, speed=2.0)


def test_what_papers_have_is_that_of_all_parts():
    assert Runner.published_options() == {"speed": 2.0, "ties": "published", "class_weight": "none"}


def test_views_that_are_new_are_views_and_crops():
    assert issubclass(TrainingViews, StoredViews) and issubclass(StoredViews, RandomCrops)
    pool = TrainingViews(views=3, fresh_views=True)
    assert (pool.fresh, pool.pooled, pool.needs) == (True, 0, {"images"})
    assert TrainingViews(views=3, fresh_views=True, averages_views=True).pooled == 3
    assert (StoredViews(views=3).fresh, StoredViews(views=3).pooled, StoredViews().needs) == (False, 3, frozenset())


def old(*bases: str, **attributes) -> type:
    """A method as it was written before there were parts."""
    kinds = tuple(getattr(api, base) for base in bases)
    with pytest.warns(DeprecationWarning, match=rf"^Old derives from bases that go in two releases: .*{bases[0]}"):
        return dataclass(eq=False, kw_only=True)(type("Old", (Means, *kinds), {"__module__": __name__, **attributes}))


def fitted(cls: type, **options) -> Adapter:
    adapter = cls(**options)
    adapter.name = "means"
    support = FeatureSet(UNIT, LABELS, ("a", "b"), views=UNIT[:, None].repeat(1, 3, 1))
    report = adapter.fit(support, TextClassifier(UNIT[:2], logit_scale=1.0, class_names=("a", "b")))
    assert report.notes in ([], ["trained on 2 augmented views per image"])
    return adapter


def test_a_method_with_the_old_bases_fits_is_saved_and_restored(tmp_path):
    from vladapt.core.contracts.adapter_file import read_adapter_file

    cls = old("Searched", "FreshViews", published_crop=(0.5, 1.0), needs=frozenset({"features", "views"}))
    assert names(cls) == ["crop_scale", "views", "fresh_views", "class_weight", "ties"]
    adapter = fitted(cls, views=2)
    path = adapter.save(tmp_path / "adapter.safetensors")
    header, tensors = read_adapter_file(path)[:2]
    again = cls(**header["options"]).restore(header, tensors, path)
    assert torch.equal(again.logits(UNIT), adapter.logits(UNIT)) and again.options == adapter.options


def test_what_the_old_bases_gave_is_found_in_the_parts():
    adapter = old("Searched", "FreshViews", published_crop=(0.5, 1.0))(views=2, fresh_views=True)
    assert (adapter.balanced, adapter.fresh, adapter.pooled, adapter.pool.published_crop) == (True, True, 0, (0.5, 1.0))
    assert adapter.class_weights(LABELS, 2).tolist() == pytest.approx([0.75, 1.5]) and "images" in adapter.needs
    assert adapter.published_options() == {"class_weight": "none", "ties": "published"}
    with pytest.raises(AttributeError, match="no attribute 'unheard'"):
        _ = adapter.unheard


def test_examples_by_an_old_base_are_an_ability():
    assert old("ByExample", can=frozenset({"new_classes"})).can == {"examples", "new_classes"}


def test_a_tower_method_with_the_old_base_counts_classes_alike():
    cls = old("ClassTowerAdapter", _choose=lambda self, backbone: [], published_crop=(0.2, 1.0))
    adapter = cls()
    assert adapter.weighting.balanced and adapter.balanced and adapter.crops.published_crop == (0.2, 1.0)
    assert names(cls)[0] == "crop_scale" and names(cls)[-1] == "class_weight"


def test_a_fact_as_a_class_attribute_is_taken_and_warned_of():
    with pytest.warns(DeprecationWarning, match=r"^Steady has facts of a part: write pace = has\(Pace, fastest=...\)"):

        @dataclass(eq=False, kw_only=True)
        class Steady(Walker):
            fastest: ClassVar[float] = 30.0

    assert Steady(speed=25).pace.fastest == 30.0
