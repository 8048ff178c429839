"""Outputs of the public reference code: a folder of fixtures, and what each says of how it was made.

A fixture is NAME.safetensors, its numbers, beside NAME.json, which gives the hyper-parameters and, for each tensor, its
meaning and tolerance. Sizes and settings differ from folder to folder, so that nothing a fixture states is written in a
comparison: it asks for `Reference.setting` (a hyper-parameter), `Reference.stated` (a number in a tensor's meaning), or
the shape of a tensor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vladapt import Backbone, FeatureSet, TextClassifier, load_backbone

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMMON = "_features"
TIE = 1e-6
"""Scores that differ by no more are equal: either of two such may be chosen."""


class UnreadableFixture(Exception):
    """What a comparison needs is not in the folder, or is said in words that it does not know."""


@dataclass
class Check:
    """One comparison: the largest error, and the largest share of the tolerance it uses up (1 is the limit)."""

    method: str
    fixture: str
    what: str
    error: float
    share: float


class Fixtures:
    """A folder of reference outputs, and the inputs that many of them have in common.

    Args:
        folder: holds the towers, and the fixtures in `dev/` or another folder inside it; or the fixtures themselves,
            then with the towers beside them or one folder up.
    """

    def __init__(self, folder: Path):
        self.folder = _folder_of_fixtures(folder)
        self._towers: dict[str, Backbone] = {}

    def names(self, pattern: str = "*") -> list[str]:
        """Fixtures of this name, where `*` stands for anything, in the order of the numbers in their names."""
        found = {path.stem for path in self.folder.glob("*.safetensors")} - {COMMON}
        return sorted((name for name in found if fnmatchcase(name, pattern)), key=_by_numbers)

    def reference(self, name: str, method: str = "") -> Reference:
        """A fixture, read for one method.

        Raises:
            UnreadableFixture: it is not in the folder.
        """
        return Reference(name, method, self.folder / name)

    @cached_property
    def common(self) -> dict[str, Tensor]:
        """The features that many fixtures name as their input."""
        return _tensors(self.folder / COMMON)

    @cached_property
    def text(self) -> TextClassifier:
        """The common text features, C of them, with the logit scale of 100 that the released code writes out."""
        return TextClassifier(self.common["text_features"])

    @cached_property
    def val(self) -> FeatureSet:
        return self.part("val")

    @cached_property
    def test_set(self) -> FeatureSet:
        return self.part("test")

    def part(self, prefix: str) -> FeatureSet:
        """The common features and labels of this name."""
        if f"{prefix}_features" not in self.common:
            raise UnreadableFixture(f"{COMMON} has no {prefix}_features")
        return FeatureSet(self.common[f"{prefix}_features"], self.common[f"{prefix}_labels"])

    def support(self, reference: Reference) -> FeatureSet:
        """The common support that a fixture names as its input, else the one of as many shots."""
        named = re.search(r"\b(support\w*?)_(?:\*|features)", str(reference.setting("inputs", "")))
        return self.part(named[1]) if named else self.support_of(reference.setting("K"))

    def unlabelled(self, reference: Reference) -> FeatureSet:
        """The common rows that a fixture names as those without labels."""
        inputs = str(reference.setting("inputs"))
        if (named := re.search(r"unlabelled rows = (\w+?)_features", inputs)) is None:
            raise UnreadableFixture(f"which rows are without labels is told in unknown words: {inputs!r}")
        return self.part(named[1]).without_labels()

    def support_of(self, shots: int) -> FeatureSet:
        """The common support of so many images per class."""
        prefixes = [key.removesuffix("_labels") for key in self.common if re.fullmatch(r"support\w*_labels", key)]
        for prefix in prefixes:
            if int(self.common[f"{prefix}_labels"].bincount().max()) == shots:
                return self.part(prefix)
        raise UnreadableFixture(f"{COMMON} has no support of {shots} shots")

    def backbone(self, reference: Reference, default: str = "tiny_clip") -> Backbone:
        """The random CLIP, or tower of images, that the reference code was run on.

        Raises:
            UnreadableFixture: it is not in the folder.
        """
        spec = "open_clip:{}@{}".format(*self.tower_files(reference, default))
        if spec not in self._towers:
            self._towers[spec] = load_backbone(spec, device="cpu")
        return self._towers[spec]

    def tower_files(self, reference: Reference, default: str = "tiny_clip") -> tuple[Path, Path]:
        """The open_clip config of the tower that a fixture names, and its weights."""
        name = str(reference.setting("tower", reference.setting("model", default))).split()[0]
        name = name.removesuffix(".safetensors")
        for folder in (self.folder.parent, self.folder):
            config, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
            if config.is_file() and weights.is_file():
                return config, weights
        raise UnreadableFixture(f"the tower {name} is not in this folder")

    def accuracy(self, adapter) -> Tensor:
        """Percent of the common test images."""
        return 100 * (adapter.predict(self.test_set) == self.test_set.labels).double().mean()


class Reference:
    """One fixture, read for one method.

    Args:
        name: of the fixture.
        method: ours that is compared with it.
        path: of its two files, without their suffixes.

    Attributes:
        tensors: name -> tensor, a copy that may be changed.
        given: the hyper-parameters that the reference code ran with.
        told: what the JSON says of each tensor.
        tolerance: what it says of all, where it does not say it of a tensor.
        files: name -> text of the files that the reference code read.
        files_meta: what the JSON says of them.
    """

    def __init__(self, name: str, method: str, path: Path):
        self.name, self.method = name, method
        self._wanted = _tensors(path)
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.given, self.told, self.tolerance = facts["hyper_parameters"], facts["tensors"], facts.get("tolerance", {})
        self.files, self.files_meta = facts.get("files", {}), facts.get("files_meta", {})
        self.tensors = {key: value.clone() for key, value in self._wanted.items()}

    def __getitem__(self, key: str) -> Tensor:
        self._recorded(key)
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def keys(self, pattern: str) -> list[tuple[str, ...]]:
        """The names of tensors that fit the whole pattern, each with its groups, in the order of the JSON.

        Raises:
            UnreadableFixture: there are none.
        """
        matches = [match for match in (re.fullmatch(pattern, key) for key in self.told) if match]
        if not matches:
            raise UnreadableFixture(f"there is no tensor {pattern}")
        return [(match[0], *match.groups()) for match in matches]

    def setting(self, name: str, *default: Any) -> Any:
        """A hyper-parameter, or the default where the fixture does not say; "a.b" is b within a.

        Expressions such as "1/0.07", "exp(4.0)" and "log(1/0.07)" are worked out.
        """
        value = self.given
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                if default:
                    return default[0]
                raise UnreadableFixture(f"there is no hyper-parameter {name}")
            value = value[part]
        return _worked_out(value)

    def require(self, name: str, value: Any) -> None:
        """Of what ours has no option for.

        Raises:
            UnreadableFixture: the fixture was made with another value of this hyper-parameter.
        """
        if self.setting(name, value) != value:
            raise UnreadableFixture(f"{name} is {self.setting(name)}, of ours always {value}")

    def stated(self, key: str, word: str, *default: Any) -> Any:
        """The number, or the list of numbers, that follows a word in the meaning of a tensor; see `stated_in`."""
        return stated_in(self.meaning(key), word, *default)

    def meaning(self, key: str) -> str:
        if key not in self.told:
            raise UnreadableFixture(f"there is no tensor {key}")
        return self.told[key].get("meaning", "")

    def leaves(self, names: dict[str, str]) -> dict[str, Tensor]:
        """Our name -> a leaf with a gradient, for our name -> the fixture's."""
        return {ours: self._recorded(theirs).clone().requires_grad_() for ours, theirs in names.items()}

    def check(self, ours, key: str, what: str = "", where: Tensor | None = None, atol: float | None = None) -> Check:
        """Our value beside the fixture's tensor `key`, within the tolerance that the fixture gives for it.

        Args:
            ours: any shape of as many numbers; of another size they are infinitely far apart.
            key: the fixture's tensor.
            what: words for the page, else the key.
            where: mask of the entries that are compared, else all.
            atol: how far each may be off, where the reference code computes in fewer digits than ours.
        """
        wanted, what = self._recorded(key).double(), what or key.replace("__", ", ").replace("_", " ")
        ours = torch.as_tensor(ours).detach().double()
        if ours.numel() != wanted.numel():
            shapes = f"{tuple(ours.shape)} in place of {tuple(wanted.shape)}"
            return Check(self.method, self.name, f"{what}: {shapes}", math.inf, math.inf)
        ours = ours.reshape(wanted.shape)
        if where is not None:
            ours, wanted = ours[where], wanted[where]
        gap = torch.where(ours == wanted, 0.0, (ours - wanted).abs())
        limit = self._limit(key, wanted) if atol is None else atol
        share = torch.where(gap == 0, 0.0, gap / limit)
        return Check(self.method, self.name, what, _largest(gap), _largest(share))

    def check_choice(self, ours: Tensor, key: str, scores: Tensor, what: str = "") -> Check:
        """Places of the highest scores beside the fixture's; see `TIE`.

        Args:
            ours: (..., n) indices into the last dimension of `scores` (..., M), or (...,) for the highest alone.
        """
        wanted = self._recorded(key).reshape(ours.shape)
        places = (ours, wanted) if ours.ndim == scores.ndim else (ours[..., None], wanted[..., None])
        one, other = (scores.gather(-1, place).reshape(ours.shape) for place in places)
        return self.check(torch.where((one - other).abs() <= TIE, wanted, ours), key, what)

    def assert_close(self, ours, key: str, where: Tensor | None = None) -> None:
        """For tests: `check` in one line.

        Raises:
            AssertionError: ours is outside the tolerance.
        """
        check = self.check(ours, key, where=where)
        assert check.share <= 1, f"{self.name} {key}: off by {check.error:.3g}, {check.share:.0%} of its tolerance"

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
        leaves = self.leaves(names)
        values = loss({**leaves, **given})
        values["loss"].backward()
        for key, part in parts.items():
            yield self.check(values[part], key)
        yield from self.check_gradients(leaves, names, prefix)

    def check_gradients(self, leaves: dict[str, Tensor], names: dict[str, str], prefix: str = "") -> Iterator[Check]:
        """Of leaves that a backward pass has filled; see `check_loss`."""
        for ours, theirs in names.items():
            yield self.check(leaves[ours].grad, f"{prefix}grad_{theirs}")

    def _recorded(self, key: str) -> Tensor:
        """A tensor as it is in the file."""
        if key not in self._wanted:
            raise UnreadableFixture(f"there is no tensor {key}")
        return self._wanted[key]

    def _limit(self, key: str, wanted: Tensor) -> Tensor:
        """How far each entry may be off: 0 where the fixture asks for equal ones."""
        told = {**self.tolerance, **self.told[key]}
        if told.get("exact", not self._wanted[key].is_floating_point()):
            return torch.zeros_like(wanted)
        return told.get("atol", 0.0) + told.get("rtol", 0.0) * wanted.abs()


def stated_in(sentence: str, word: str, *default: Any) -> Any:
    """The number, or the list of numbers, that follows a word: 0.5 for "alpha" in "logits at beta=1, alpha=0.5".

    Raises:
        UnreadableFixture: there is none, and no default.
    """
    found = re.search(rf"(?<!\w){re.escape(word)}['\"]?\s*[=:]?\s*(\[[^\]]*\]|{NUMBER})", sentence)
    if found:
        return json.loads(found[1]) if found[1].startswith("[") else _number(found[1])
    if default:
        return default[0]
    raise UnreadableFixture(f"no number follows {word!r} in {sentence!r}")


def _folder_of_fixtures(folder: Path) -> Path:
    """`dev/`, else the first folder inside that holds safetensors, else the folder itself."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return next((path for path in [folder / "dev", *inside] if any(path.glob("*.safetensors"))), folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.with_suffix(".safetensors").is_file() or not path.with_suffix(".json").is_file():
        raise UnreadableFixture(f"{path.name} is not in this folder")
    return load_file(path.with_suffix(".safetensors"))


def _by_numbers(name: str) -> list:
    """1shot before 16shot."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _worked_out(value: Any) -> Any:
    """A number for an expression of one in words, else the value itself."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(NUMBER, value.strip()):
        return _number(value)
    if call := re.fullmatch(r"\s*(exp|log|sqrt)\((.+)\)\s*", value):
        inside = _worked_out(call[2])
        return value if isinstance(inside, str) else getattr(math, call[1])(inside)
    if ratio := re.fullmatch(rf"\s*({NUMBER})\s*/\s*({NUMBER})\s*", value):
        return float(ratio[1]) / float(ratio[2])
    return value


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"\s*[-+]?\d+\s*", text) else float(text)


def _largest(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0.0
