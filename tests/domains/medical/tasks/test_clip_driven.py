"""The CLIP-driven network: the published head and losses, learned from sets that outline different structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vladapt
from vladapt.core.errors import ConfigError
from vladapt.domains.medical.drawn_volumes import drawn_volume
from vladapt.domains.medical.modules.segmentors.clip_driven import TextDrivenHead, partial_losses

SMALL = {"network": "clip-driven", "width": 4, "patch_size": "20,24,24", "largest": "no", "augment": "none", "lr": 0.01}
GROUPS = 4
"""Of the normalisation that the fixture was made with."""


def test_the_head_and_the_losses_are_the_published_ones(parity):
    reference = parity.reference("universal_model")
    tensors, given = reference.tensors, reference.given
    head = TextDrivenHead(given["c_deep"], given["c_out"], given["text"], given["emb"], GROUPS)
    head.load_state_dict({name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w.")})
    fine = tensors["out"].requires_grad_()
    logits = head(tensors["deep"], fine, tensors["organ_embedding"])
    assert torch.allclose(logits, tensors["logits"], rtol=1e-5, atol=2e-4)
    losses = partial_losses(logits, tensors["target"], tensors["labelled"].bool())
    assert torch.allclose(losses["loss_bce"], tensors["loss_bce"], rtol=1e-5)
    assert torch.allclose(losses["loss_dice"], tensors["OWN.loss_dice"], rtol=1e-5)
    sum(losses.values()).backward()
    assert torch.allclose(fine.grad, tensors["OWN.grad_out_of_bce_plus_dice"], rtol=1e-4, atol=1e-6)


def test_structures_that_nobody_outlined_teach_nothing():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 2, (2, 3, 4, 4, 4))
    annotated = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    logits.requires_grad_()
    losses = partial_losses(logits, labels, annotated)
    sum(losses.values()).backward()
    reached = logits.grad.abs().sum((2, 3, 4)) > 0
    assert torch.equal(reached, annotated)
    other = partial_losses(logits, torch.where(annotated[..., None, None, None], labels, 1 - labels), annotated)
    assert all(torch.equal(losses[name], other[name]) for name in losses)


@pytest.fixture(scope="module")
def partly(write_label_set, tmp_path_factory):
    """A folder of two sets: one outlines the shell, the other the core."""
    folder = tmp_path_factory.mktemp("partly")
    for place, (name, wanted) in enumerate((("shell", 1), ("core", 2))):
        drawn = [drawn_volume(6 * place + number)[:2] for number in range(6)]
        cases = [(values, (labels == wanted).astype(np.uint8)) for values, labels in drawn]
        write_label_set(folder / name, cases, {"0": "background", "1": name})
    return folder


@pytest.fixture(scope="module")
def fitted(partly, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("runs"))
    given = {"domain": "medical", "task": "volume-segmentation", "data": str(partly), "out": out, "device": "cpu"}
    return vladapt.fit(**given, **SMALL, steps=60)


@pytest.mark.thorough
def test_it_learns_from_sets_that_outline_different_structures(fitted):
    adapted = fitted.metrics["adapted"]
    assert adapted["dice_shell"] > 0.5 and "dice_core" in adapted


def test_other_names_can_be_asked_of_a_run(fitted, partly):
    image = partly / "shell/images/case_0.nii"
    own = vladapt.predict(fitted.run, [image], device="cpu").rows()[0]["millilitres"]
    asked = vladapt.predict(fitted.run, [image], classes="shell,core", device="cpu").rows()[0]["millilitres"]
    other = vladapt.predict(fitted.run, [image], classes="core,kidney,shell", device="cpu").rows()[0]["millilitres"]
    assert own == asked and set(own) == {"shell", "core"} and set(other) == {"core", "kidney", "shell"}
    with pytest.raises(ConfigError, match="--classes"):
        vladapt.predict(fitted.run, [image], classes=",", device="cpu")
