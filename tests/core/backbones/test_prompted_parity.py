"""Learned tokens inside the towers beside the reference code of VPT, IVLP and MaPLe: outputs and gradients."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.prompted import CoupledTokens, PromptTokens, hang_prompts
from vladapt.core.training.teacher import copy_of


class Reference:
    """A fixture's tensors under a key, and the comparison within their tolerance."""

    def __init__(self, folder, name, key):
        told = json.loads((folder / "dev" / f"{name}.json").read_text())
        self.told, self.key = told["tensors"], key
        self.names = [name.replace("_", " ") for name in told["hyper_parameters"]["classnames"]]
        self.tensors = load_file(folder / "dev" / f"{name}.safetensors")

    def __getitem__(self, name):
        return self.tensors[f"{self.key}__{name}"]

    def stack(self, names):
        found = [self.tensors.get(f"{self.key}__{name}") for name in names]
        found = [tensor for tensor in found if tensor is not None]
        return torch.stack(found) if found else None

    def check(self, value, name):
        told = self.told[f"{self.key}__{name}"]
        torch.testing.assert_close(
            value, self[name], rtol=told["rtol"], atol=told["atol"], msg=lambda m: f"{name}: {m}"
        )

    def check_pass(self, backbone, texts):
        image = backbone.encode_image(self.tensors["pixels"], normalize=False)
        text = backbone.encode_text(texts, normalize=False)
        logits = backbone.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, self.tensors["labels"])
        loss.backward()
        found = {"image_features": image, "text_features": text, "logits": logits, "loss": loss}
        for name, value in found.items():
            if f"{self.key}__{name}" in self.tensors:
                self.check(value.detach(), name)


@pytest.fixture(scope="module")
def tiny_clip(parity_dir):
    return load_backbone(f"open_clip:{parity_dir / 'tiny_clip.json'}@{parity_dir / 'tiny_clip.safetensors'}", "cpu")


def texts_of(names, count):
    """What stands behind the tokens: "a photo of a" without its first words, or nothing."""
    rest = " ".join(["a", "photo", "of", "a"][count:]) if 0 <= count <= 4 else ""
    return [f"{rest} {name}.".strip() for name in names]


@pytest.mark.parametrize(
    "key", ["vpt_n4_d1", "vpt_n4_d2", "vpt_n8_d3", "ivlp_v2x3_t2x3", "ivlp_v4x2_t4x3", "ivlp_v3x1_t5x1"]
)
def test_agrees_with_the_reference_of_vpt_and_ivlp(parity_dir, tiny_clip, key):
    reference = Reference(parity_dir, "vpt_ivlp", key)
    image, text = (reference.stack([f"{kind}_prompt_{i}" for i in range(3)]) for kind in ("vision", "text"))
    ours = copy_of(tiny_clip)
    made = hang_prompts(ours, image=PromptTokens(image), text=None if text is None else PromptTokens(text))
    reference.check_pass(ours, texts_of(reference.names, 0 if text is None else text.shape[1]))
    for kind, own in (("vision", made.image), ("text", made.text)):
        for block in range(own.depth if own is not None else 0):
            reference.check(own.tokens.grad[block], f"grad__{kind}_prompt_{block}")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_agrees_with_the_reference_of_maple(parity_dir, tiny_clip, depth, count):
    reference = Reference(parity_dir, "maple", f"d{depth}_n{count}")
    deeper = range(depth - 1)
    text_names = ["ctx", *(f"compound_prompts_text.{i}" for i in deeper)]
    layer_names = ["proj", *(f"compound_prompt_projections.{i}" for i in deeper)]
    text, layers = PromptTokens(reference.stack(text_names)), []
    for name in layer_names:
        layers.append(torch.nn.Linear(64, 64))
        layers[-1].load_state_dict({kind: reference[f"{name}.{kind}"] for kind in ("weight", "bias")})
    ours = copy_of(tiny_clip)
    hang_prompts(ours, image=CoupledTokens(text, layers), text=text)
    reference.check_pass(ours, texts_of(reference.names, count if count == 2 else 5))
    for block, name in enumerate(text_names):
        reference.check(text.tokens.grad[block], f"grad__{name}")
    for layer, name in zip(layers, layer_names):
        reference.check(layer.weight.grad, f"grad__{name}.weight")
        reference.check(layer.bias.grad, f"grad__{name}.bias")
