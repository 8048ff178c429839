"""Outputs of the public reference code, and how far our values are from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import vladapt
from vladapt import FeatureSet, TextClassifier


@dataclass
class Check:
    """One comparison: the largest error, and the largest share of the tolerance it uses up (1 is the limit)."""

    method: str
    fixture: str
    what: str
    error: float
    share: float


class Fixtures:
    """The folder of reference outputs, and the inputs that many of them have in common.

    Args:
        folder: holds NAME.safetensors and NAME.json in `dev/`, and the tiny CLIP.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        common = load_file(folder / "dev" / "_features.safetensors")
        self.text = TextClassifier(common["text_features"])
        self.supports = {
            k: FeatureSet(common[f"{p}_features"], common[f"{p}_labels"]) for k, p in ((1, "support1"), (16, "support"))
        }
        self.val = FeatureSet(common["val_features"], common["val_labels"])
        self.test_set = FeatureSet(common["test_features"], common["test_labels"])

    @cached_property
    def backbone(self):
        """The random CLIP that the reference code was run on."""
        return vladapt.load_backbone(
            f"open_clip:{self.folder / 'tiny_clip.json'}@{self.folder / 'tiny_clip.safetensors'}", device="cpu"
        )

    def reference(self, method: str, name: str) -> Reference:
        return Reference(method, name, self.folder / "dev" / name)

    def accuracy(self, adapter) -> Tensor:
        """Percent of the common test images."""
        return 100 * (adapter.predict(self.test_set) == self.test_set.labels).double().mean()


class Reference:
    """One fixture, read for one method.

    Attributes:
        tensors: name -> tensor, a copy that may be changed.
        given: the hyper-parameters that the reference code ran with.
    """

    def __init__(self, method: str, name: str, path: Path):
        told = json.loads(path.with_suffix(".json").read_text())
        self.method, self.name, self.given = method, name, told["hyper_parameters"]
        self._told, self._wanted = told["tensors"], load_file(path.with_suffix(".safetensors"))
        self.tensors = {key: value.clone() for key, value in self._wanted.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def leaves(self, names: dict[str, str]) -> dict[str, Tensor]:
        """Our name -> a leaf with a gradient, for our name -> the fixture's."""
        return {ours: self._wanted[theirs].clone().requires_grad_() for ours, theirs in names.items()}

    def check(self, ours, key: str, what: str = "", where: Tensor | None = None) -> Check:
        """Our value beside the fixture's tensor `key`, within the tolerance that the fixture gives for it.

        Args:
            ours: any shape of as many numbers.
            key: the fixture's tensor.
            what: words for the page, else the key.
            where: mask of the entries that are compared, else all.
        """
        told, wanted = self._told[key], self._wanted[key].double()
        ours = torch.as_tensor(ours).detach().reshape(wanted.shape).double()
        if where is not None:
            ours, wanted = ours[where], wanted[where]
        gap, what = (ours - wanted).abs(), what or key.replace("__", ", ").replace("_", " ")
        if told.get("exact"):
            share = 0.0 if torch.equal(ours, wanted) else float("inf")
        else:
            share = (gap / (told["atol"] + told["rtol"] * wanted.abs())).max().item()
        return Check(self.method, self.name, what, gap.max().item(), share)

    def check_loss(
        self, loss, names: dict[str, str], given: dict, parts: dict[str, str], prefix: str = ""
    ) -> Iterator[Check]:
        """The parts of a loss module and its gradients beside the fixture's.

        Args:
            loss: ours.
            names: what gets a gradient -> the fixture's name of it.
            given: what the loss reads besides.
            parts: the fixture's name -> the part of ours.
            prefix: the fixture's gradients are called `{prefix}grad_NAME`.
        """
        out = self.leaves(names)
        found = loss({**out, **given})
        found["loss"].backward()
        for key, part in parts.items():
            yield self.check(found[part], key)
        yield from self.check_gradients(out, names, prefix)

    def check_gradients(self, leaves: dict[str, Tensor], names: dict[str, str], prefix: str = "") -> Iterator[Check]:
        """Of leaves that a backward pass has filled; see `check_loss`."""
        for ours, theirs in names.items():
            yield self.check(leaves[ours].grad, f"{prefix}grad_{theirs}")
