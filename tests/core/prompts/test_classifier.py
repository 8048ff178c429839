from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks.towers import tiny_clip

from vladapt.core.errors import ConfigError, DataError
from vladapt.core.prompts import classifier as module
from vladapt.core.prompts.classifier import build_classifier

TEMPLATES = ["a photo of a {}.", "{} texture.", "art of the {}."]
NAMES = ["polka_dotted", "banded", "sea"]


class Store:
    """What a FeatureStore does for text: remembers."""

    def __init__(self):
        self.texts, self.runs = {}, 0

    def text_features(self, backbone, texts):
        new = [t for t in texts if t not in self.texts]
        if new:
            self.runs += 1
            self.texts.update(zip(new, backbone.encode_text(new, normalize=False)))
        return torch.stack([self.texts[t] for t in texts])

    def backbone_facts(self, backbone):
        return {"logit_scale": 7.0, "logit_bias": -3.0}


def test_weights_are_the_normalised_mean_of_normalised_prompts(toy):
    backbone = toy()
    made = build_classifier(backbone, NAMES, TEMPLATES)
    for c, name in enumerate(["polka dotted", "banded", "sea"]):
        plain = backbone.encode_text([t.format(name) for t in TEMPLATES], normalize=False)
        rows = F.normalize(plain, dim=-1)
        assert torch.allclose(made.unnormalized[c], plain.mean(dim=0), atol=1e-6)
        assert torch.allclose(made.prototypes[c], rows, atol=1e-6)
        assert torch.allclose(made.raw[c], rows.mean(dim=0), atol=1e-6)
        assert torch.allclose(made.weights[c], F.normalize(rows.mean(dim=0), dim=0), atol=1e-6)
    assert made.class_names == tuple(NAMES)
    assert made.texts[0][1] == "polka dotted texture."
    assert (made.logit_scale, made.logit_bias, made.negative) == (20.0, None, None)


def test_every_distinct_text_is_encoded_once_in_chunks(toy, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    backbone = toy()
    descriptions = {name: ["it is an image.", "a photo of a sea."] for name in NAMES}
    whole = build_classifier(toy(), NAMES, TEMPLATES, descriptions=descriptions, negative_templates=["no {}"])
    monkeypatch.setattr(module, "CHUNK", 1000)
    made = build_classifier(backbone, NAMES, TEMPLATES, descriptions=descriptions, negative_templates=["no {}"])
    assert len(backbone.encoded) == len(set(backbone.encoded)) == 9 + 1 + 3
    assert torch.allclose(made.weights, whole.weights, atol=1e-6)
    assert [len(p) for p in made.prototypes] == [5, 5, 5]


def test_descriptions_and_templates_each_change_the_weights(toy):
    descriptions = {name: [f"{name} looks like {i}" for i in range(c + 1)] for c, name in enumerate(NAMES)}
    photos = build_classifier(toy(), NAMES, TEMPLATES[:1])
    ensembled = build_classifier(toy(), NAMES, TEMPLATES)
    described = build_classifier(toy(), NAMES, TEMPLATES, descriptions=descriptions)
    only = build_classifier(toy(), NAMES, [], descriptions=descriptions)
    made = [photos.weights, ensembled.weights, described.weights, only.weights]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(made) for b in made[:i])
    assert [len(p) for p in only.prototypes] == [1, 2, 3]


def test_negatives_are_an_ensemble_of_their_own(toy):
    made = build_classifier(toy(), NAMES, TEMPLATES, negative_templates=["no {}", "without {}"])
    same = build_classifier(toy(), NAMES, ["no {}", "without {}"])
    assert torch.allclose(made.negative, same.weights, atol=1e-6)


def test_a_store_that_knows_the_texts_runs_no_tower(toy):
    store, backbone = Store(), toy()
    first = build_classifier(backbone, NAMES, TEMPLATES, negative_templates=["no {}"], store=store)
    second = build_classifier(backbone, NAMES, TEMPLATES, negative_templates=["no {}"], store=store)
    assert store.runs == 1
    assert torch.equal(first.weights, second.weights)
    assert (first.logit_scale, first.logit_bias) == (7.0, -3.0)


def test_nothing_to_say_is_refused(toy):
    with pytest.raises(ConfigError, match="templates"):
        build_classifier(toy(), NAMES, [])
    with pytest.raises(ConfigError, match="no place"):
        build_classifier(toy(), NAMES, ["a photo"])
    with pytest.raises(DataError, match="'sea' has none"):
        build_classifier(toy(), NAMES, TEMPLATES, descriptions={"polka_dotted": ["a"], "banded": ["b"]})
    with pytest.raises(DataError, match="no class names"):
        build_classifier(toy(), [], TEMPLATES)


def test_gives_the_reference_text_features_of_a_real_clip(references, parity):
    for ref in references(tiny_clip):
        names, wanted = ref.setting("classnames"), F.normalize(ref["text_features"], dim=-1)
        same = [row for row, name in enumerate(names) if "_" not in name]  # the reference keeps underscores here
        made = build_classifier(parity.backbone(ref), [names[row] for row in same], [ref.setting("template")])
        assert torch.allclose(made.weights, wanted[same], atol=1e-5, rtol=1e-5)
