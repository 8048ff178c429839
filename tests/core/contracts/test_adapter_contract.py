"""What the base class promises for every adapter: checks, options, files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from vladapt.core.contracts import Adapter, FeatureSet, FitReport, TextClassifier, require
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.errors import CapabilityError, ConfigError, DataError


@dataclass(eq=False, kw_only=True)
class Shift(Adapter):
    """Adds the mean support feature."""

    strength: float = 1.0

    name = "shift"
    state: ClassVar = ("weights_", "mean_", "scale_")

    def __post_init__(self):
        require(self.strength >= 0, "strength", self.strength, "give 0 or more")

    def _fit(self, support, classifier, **_):
        self.weights_, self.scale_ = classifier.weights, classifier.logit_scale
        self.mean_ = support.features.mean(dim=0)
        return FitReport("shift", chosen={"strength": self.strength})

    def _logits(self, batch):
        return self.scale_ * (batch.unit + self.strength * self.mean_) @ self.weights_.T


@pytest.fixture
def problem():
    torch.manual_seed(0)
    support = FeatureSet(torch.randn(6, 4), labels=torch.arange(3).repeat(2), backbone="abc")
    return support, TextClassifier(torch.randn(3, 4), class_names=("a", "b", "c"))


def test_saved_and_loaded_gives_the_same_logits(problem, tmp_path):
    support, classifier = problem
    adapter = Shift(strength=0.5)
    adapter.fit(support, classifier)
    header, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    again = Shift(**header["options"]).restore(header, tensors, tmp_path)
    x = torch.randn(5, 4)
    assert torch.equal(adapter.logits(x), again.logits(x))
    assert again.class_names_ == ("a", "b", "c") and header["backbone"] == "abc"


def test_a_bare_tensor_and_a_feature_set_are_batches(problem):
    support, classifier = problem
    adapter = Shift()
    adapter.fit(support, classifier)
    assert torch.equal(adapter.logits(support), adapter.logits(support.features))
    assert torch.equal(adapter.predict(support), adapter.logits(support).argmax(dim=1))


def test_options_are_the_keyword_arguments():
    assert Shift(strength=2.0).options == {"strength": 2.0}


def test_unusable_option_is_a_config_error():
    with pytest.raises(ConfigError, match="strength=-1"):
        Shift(strength=-1)


def test_not_fitted_says_so(problem, tmp_path):
    with pytest.raises(CapabilityError, match="not fitted"):
        Shift().logits(torch.randn(2, 4))
    with pytest.raises(DataError, match="nothing to save"):
        Shift().save(tmp_path / "a.safetensors")


def test_features_of_another_width_are_refused(problem):
    support, classifier = problem
    adapter = Shift()
    adapter.fit(support, classifier)
    with pytest.raises(CapabilityError, match="width 4, these have 7"):
        adapter.logits(torch.randn(2, 7))


def test_several_labels_are_refused_unless_declared(problem):
    _, classifier = problem
    several = FeatureSet(torch.randn(2, 4), labels=torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    with pytest.raises(CapabilityError, match="one label per image"):
        Shift().fit(several, classifier)


def test_unlabelled_support_and_mismatched_text_are_refused(problem):
    support, classifier = problem
    with pytest.raises(CapabilityError, match="labelled support"):
        Shift().fit(support.without_labels(), classifier)
    with pytest.raises(CapabilityError, match="4 wide, text features 5"):
        Shift().fit(support, TextClassifier(torch.randn(3, 5)))
    with pytest.raises(CapabilityError, match="3 classes, the text classifier 2"):
        Shift().fit(support, TextClassifier(torch.randn(2, 4)))


def test_needs_are_checked(problem):
    support, classifier = problem

    class NeedsText(Shift):
        needs = frozenset({"features", "text_encoder"})

    class NeedsRaw(Shift):
        needs = frozenset({"raw_features"})

    class NeedsPool(Shift):
        needs = frozenset({"features", "unlabeled"})

    with pytest.raises(CapabilityError, match="text tower"):
        NeedsText().fit(support, classifier)
    with pytest.raises(CapabilityError, match="these are normalised"):
        NeedsRaw().fit(FeatureSet(support.unit, labels=support.labels, raw_norms=False), classifier)
    with pytest.raises(CapabilityError, match="unlabelled"):
        NeedsPool().fit(support, classifier)


def test_damaged_foreign_and_other_format_files_are_named(problem, tmp_path):
    support, classifier = problem
    adapter = Shift()
    adapter.fit(support, classifier)
    path = adapter.save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.safetensors: not a readable"):
        read_adapter_file(path)
    save_file({"x": torch.ones(1)}, str(path))
    with pytest.raises(DataError, match="not one that an adapter wrote"):
        read_adapter_file(path)
    save_file({"x": torch.ones(1)}, str(path), metadata={"vladapt": '{"adapter": "shift", "format": 99}'})
    with pytest.raises(DataError, match="written in format 99"):
        read_adapter_file(path)
    with pytest.raises(DataError, match="no such adapter file"):
        read_adapter_file(tmp_path / "none.safetensors")


def test_a_pickle_offered_as_adapter_is_refused_and_never_run(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="not a readable safetensors"):
        read_adapter_file(bad)
    assert not (tmp_path / "ran").exists()


def test_state_missing_from_a_file_is_named(problem, tmp_path):
    support, classifier = problem
    adapter = Shift()
    adapter.fit(support, classifier)
    header, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    tensors.pop("mean_")
    with pytest.raises(DataError, match="lacks mean_"):
        Shift().restore(header, tensors, tmp_path / "a.safetensors")


@dataclass(eq=False, kw_only=True)
class Retrained(Shift):
    """Keeps what a training changed of a model."""

    needs: ClassVar = frozenset({"features", "pixels"})
    state: ClassVar = ("weights_", "mean_", "scale_", "changed_", "nothing_")

    def _fit(self, support, classifier, **options):
        tied = torch.randn(2, 3)
        self.changed_, self.nothing_ = {"a.weight": tied, "b.weight": tied, "c": torch.tensor(2.0)}, {}
        return super()._fit(support, classifier, **options)


def test_a_dict_of_tensors_is_saved_and_comes_back(problem, tmp_path):
    """Weights that share memory too; a dict of nothing is one."""
    support, classifier = problem
    adapter = Retrained()
    adapter.fit(support, classifier, resources={"images": images_of(6)})
    header, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    assert {"changed_/a.weight", "changed_/b.weight", "changed_/c"} < set(tensors)
    again = Retrained().restore(header, tensors, tmp_path)
    assert again.nothing_ == {} and set(again.changed_) == set(adapter.changed_)
    assert all(torch.equal(again.changed_[name], value) for name, value in adapter.changed_.items())


def test_a_method_that_trains_on_pixels_says_what_it_lacks(problem):
    support, classifier = problem
    with pytest.raises(CapabilityError, match=r"resources=\{'images'"):
        Retrained().fit(support, classifier)
    with pytest.raises(CapabilityError, match="2 training images for 6 rows"):
        Retrained().fit(support, classifier, resources={"images": images_of(2)})


def test_a_method_that_trains_no_tower_leaves_the_backbone(problem):
    support, classifier = problem
    adapter, backbone = Shift(), object()
    adapter.fit(support, classifier)
    assert adapter.adapted(backbone) is backbone


def images_of(count):
    from vladapt.core.contracts import Item, Label, TrainingImages

    items = [Item(str(i), "x.png", target=Label(0)) for i in range(count)]
    return TrainingImages(items, None, None, None, prompts=[["a"]])
