"""What a pre-training by loss `arl` learned: kept beside the towers, and asked by its adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from vladapt import Batch, CapabilityError, DataError, build_adapter, load_adapter, load_backbone
from vladapt.core.backbones.finders import KeptLoss, loss_in_words, searched
from vladapt.core.backbones.load import save_fine_tuned
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import loss_class
from vladapt.core.tasks.retrieval.scoring import DomainPairs
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import PairSource
from vladapt.core.training.train import TrainingTask, train
from vladapt.domains.medical.drawn_radiographs import drawn_radiographs

SMALL = {"width": 8, "heads": 2, "hidden": 8, "layers": 1, "patch_layer": 1, "entity_width": 8, "entity_heads": 2}
SMALL |= {"entity_hidden": 8, "graph_width": 4, "graph_heads": 2, "decoder_width": 8, "decoder_layers": 1}
SMALL |= {"decoder_heads": 2}
WORDS = {"C1": ["pleural effusion", "effusion"], "C2": ["pneumothorax"], "C3": ["heart"]}
CLASSES = ("Pneumothorax", "c1", "a bullet")
"""By its words, by its name in another case, and one that was never learned."""


@pytest.fixture(scope="module")
def trained(small_clip_spec, tmp_path_factory):
    """(file of the towers before, those that two steps trained, loaded again)."""
    folder = tmp_path_factory.mktemp("arl")
    save_file({"entities": torch.arange(24.0).view(3, 8) / 24}, folder / "start.safetensors")
    data = drawn_radiographs({"train": 12, "val": 2, "test": 2})
    items = [
        item.with_(target=replace(item.target, entities=(number % 3,), of_entities=3))
        for number, item in enumerate(data.items)
    ]
    pairs = DomainPairs.of(data.with_items(items))
    options = {**SMALL, "entities": WORDS, "triples": {"C1": ["C3"]}, "start": str(folder / "start.safetensors")}
    options = loss_class("arl").named(options, {"entities": tuple(WORDS)})
    backbone = load_backbone(small_clip_spec, device="cpu")
    task = TrainingTask(PairSource(pairs.split("train"), CaptionSampler(mode="first")), {"arl": 1.0}, {"arl": options})
    done = train(backbone, task, TrainingSettings(epochs=1, batch_size=6, lr=1e-3, warmup=0), None)
    assert {name.partition(".")[2] for name in done.history[0] if name.startswith("arl.")} >= {"align", "mlm", "mim"}
    return small_clip_spec, load_backbone(str(save_fine_tuned(backbone, folder)), device="cpu")


@pytest.fixture(scope="module")
def answered(trained):
    """(backbone, features of 5 images, the fitted adapter, its classifier)."""
    _, backbone = trained
    with torch.no_grad():
        features = backbone.encode_image(torch.randn(5, 3, 16, 16), normalize=False)
    classifier = build_classifier(backbone, CLASSES, ["a chest x-ray of {}."])
    adapter = build_adapter("arl")
    report = adapter.fit(None, classifier, backbone=backbone)
    assert report.notes == ["Asked for by their texts, since the pre-training knew no such entities: a bullet."]
    return backbone, features, adapter, classifier


def test_entities_and_what_was_learned_are_kept_with_the_towers(trained):
    spec, backbone = trained
    loss, before = backbone.answers["arl"], load_backbone(spec, device="cpu")
    assert loss.entities == {name: tuple(words) for name, words in WORDS.items()} and loss.triples == {"C1": ("C3",)}
    assert int(loss.draws.step) == 2 and not loss.training
    kept = {name for name, _ in loss.named_children()}
    assert kept == {"graph", "image_map", "text_map", "kinds", "scores", "draws"}, "heads of the training alone are not"
    start = torch.arange(24.0).view(3, 8) / 24
    assert (loss.graph.start - start).abs().max() < 0.1 and not torch.equal(loss.graph.start, start)
    assert any(not torch.equal(a, b) for a, b in zip(before.model.parameters(), backbone.model.parameters()))
    with pytest.raises(CapabilityError, match=r"loss 'arl', which compares no images.*fit --adapter arl"):
        searched(backbone)


def test_a_class_is_the_entity_of_its_name_or_words(answered):
    backbone, features, adapter, _ = answered
    loss = backbone.answers["arl"]
    with torch.no_grad():
        wanted = loss.image_logits(features, loss.graph())
    torch.testing.assert_close(adapter.logits(Batch(features=features))[:, :2], wanted[:, [1, 0]])


def test_another_class_is_the_mean_of_what_its_texts_mention(answered):
    backbone, features, adapter, classifier = answered
    loss = backbone.answers["arl"]
    with torch.no_grad():
        entities = loss.graph()
        text = loss.scores["text"](loss._of_text(classifier.unnormalized[2:]), entities).sigmoid()[0]
        wanted = loss.image_logits(features, entities) @ (text / text.sum())
    torch.testing.assert_close(adapter.logits(Batch(features=features))[:, 2], wanted)
    without = replace(classifier, unnormalized=None)
    with pytest.raises(CapabilityError, match="needs the texts of classes that are no entities"):
        build_adapter("arl").fit(None, without, backbone=backbone)


def test_a_saved_adapter_answers_alike_and_new_classes_too(answered, tmp_path):
    backbone, features, adapter, _ = answered
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"), backbone)
    batch = Batch(features=features)
    torch.testing.assert_close(again.logits(batch), adapter.logits(batch))
    other = again.for_classes(
        backbone, ("heart", "effusion"), build_classifier(backbone, ("heart", "effusion"), ["{}"])
    )
    torch.testing.assert_close(other.logits(batch)[:, 1], adapter.logits(batch)[:, 1])


def test_towers_that_it_did_not_train_are_refused(answered, small_clip):
    with pytest.raises(CapabilityError, match=r"`vladapt pretrain --loss arl`.*does not hold"):
        build_adapter("arl").check_towers(small_clip)


@pytest.mark.parametrize("file", ["/etc/start.safetensors", "other.csv"])
def test_no_model_names_a_file(answered, file):
    loss = answered[0].answers["arl"]
    option = "start" if file.endswith("safetensors") else "entities"
    words = loss_in_words(loss).replace(f'"{option}": ', f'"{option}": "{file}", "dropped_{option}": ', 1)
    with pytest.raises(DataError, match="an option names a file"):
        KeptLoss(words, loss.state_dict()).built(torch.device("cpu"), "model.safetensors", "answers")
