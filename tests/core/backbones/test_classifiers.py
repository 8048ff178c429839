"""Published classifiers with named classes, from which a space of names is made without texts."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vladapt import CapabilityError
from vladapt.core.backbones import lexical
from vladapt.core.backbones.classifiers import named_labels
from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.text_towers import text_side

NAMES = ["kit fox, Vulpes macrotis", "tabby_cat", "sea", "old car", "big dog"]


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    """A small network of timm with the classifier of ImageNet, and the model."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file, model


def assert_its_logits(backbone, logits_of, side):
    """Rows and biases on our features give the logits of the library's own model."""
    names, rows, biases = backbone.classifier_of_names()
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = F.linear(backbone.encode_image(pixels, normalize=False), rows, biases)
        assert torch.allclose(ours, logits_of(pixels), atol=1e-4)
    return names


def test_timms_classifier_has_the_names_of_its_imagenet(timm_file):
    file, model = timm_file
    names = assert_its_logits(load_backbone(f"timm:test_resnet.r160_in1k@{file}", "cpu"), model, 160)
    assert (len(names), names[0], names[7]) == (1000, "tench", "cock")
    assert load_backbone("timm:test_resnet.r160_in1k@random:0", "cpu").classifier_of_names() is None


def test_a_classifier_of_other_classes_has_no_names(timm_file, tmp_path):
    state, file = dict(timm_file[1].state_dict()), tmp_path / "own.safetensors"
    spec = f"timm:test_resnet.r160_in1k@{file}"
    without = {name: value for name, value in state.items() if not name.startswith("fc.")}
    of_three = {"fc.weight": torch.zeros(3, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(3)}
    for other in (without, {**without, **of_three}):
        save_file(other, file)
        assert load_backbone(spec, "cpu").classifier_of_names() is None


def test_torchvisions_classifier_has_the_names_of_its_weights(tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    model = models.shufflenet_v2_x0_5(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    spec = f"torchvision:shufflenet_v2_x0_5@{tmp_path / 'weights.pt'}"
    names = assert_its_logits(load_backbone(spec, "cpu"), model, 224)
    assert names == models.ShuffleNet_V2_X0_5_Weights.DEFAULT.meta["categories"]


def test_transformers_classifier_has_the_names_of_its_configuration(tmp_path):
    transformers = pytest.importorskip("transformers", reason="extra hf is not installed")
    small = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2, "id2label": dict(enumerate(NAMES))}
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**small)).eval()
    model.save_pretrained(tmp_path)
    pixels = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    pixels |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    backbone = load_backbone(f"hf:{tmp_path}", "cpu")
    names = assert_its_logits(backbone, lambda pixels: model(pixel_values=pixels).logits, 32)
    assert names == ["kit fox", "tabby cat", "sea", "old car", "big dog"]
    assert named_labels({"10": "ten", "9": "nine"}) == ["nine", "ten"]
    assert named_labels({0: "LABEL_0", 1: "cat"}) == [] == named_labels({})


def test_a_space_of_names_is_made_of_a_classifier(timm_file, small_clip_spec, monkeypatch, tmp_path):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    towers, side = (
        load_backbone(f"timm:test_resnet.r160_in1k@{timm_file[0]}", "cpu"),
        text_side(small_clip_spec, load_backbone),
    )
    names, rows, biases = towers.classifier_of_names()
    monkeypatch.setattr(type(towers), "classifier_of_names", lambda self: (names[:20], rows[:20], biases[:20]))
    space, about = lexical.lexical_space(towers, side)
    assert not space.unit and torch.equal(space.classifier.weight, rows[:20]) and about["held_out"] == 4
    monkeypatch.setattr(type(towers), "classifier_of_names", lambda self: (names[:2], rows[:2], biases[:2]))
    with pytest.raises(CapabilityError, match="tells 2 classes apart, and a space of names takes 10 or more"):
        lexical.lexical_space(towers, side)
    monkeypatch.setattr(type(towers), "classifier_of_names", lambda self: None)
    with pytest.raises(CapabilityError, match="knows no names, by texts or by a classifier"):
        lexical.lexical_space(towers, side)
