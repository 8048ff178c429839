"""Sets in several languages, scored by their kinds of `vladapt bench` on given features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt.core.bench.sets.babel_imagenet import BabelImageNet
from vladapt.core.bench.sets.captions_by_language import MEASURES, CaptionsByLanguage
from vladapt.core.contracts.bench import BenchTowers

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


class GivenFeatures(BenchTowers):
    """Towers whose features are given: of images in order, of texts by text."""

    def __init__(self, images: Tensor, texts: Mapping[str, Tensor]):
        self.of_images, self.of_texts = F.normalize(images, dim=-1), texts

    def images(self, data) -> tuple[Tensor, list[int]]:
        return self.of_images, list(range(len(self.of_images)))

    def texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.stack([self.of_texts[text] for text in texts]), dim=-1)

    def read(self, folder):
        raise NotImplementedError


@compares("languages", "multilingual")
def languages(ref: Reference, f: Fixtures) -> Iterator[Check]:
    prompts, per_class = ref.setting("prompts"), ref.setting("images_per_class")
    for code in (name.partition(".")[2] for name in ref.tensors if name.startswith("babel.")):
        indices, rows = ref[f"classes.{code}"].tolist(), ref[f"texts.{code}"]
        texts = {f"{row // prompts} by {row % prompts}": text for row, text in enumerate(rows)}
        values = []
        for count in (prompts, 1):
            asked = BabelImageNet()
            asked.named = {code: (indices, [str(number) for number in range(len(indices))])}
            asked.asked = {code: [f"{{}} by {number}" for number in range(count)]}
            asked.class_of, asked.data = torch.arange(len(ref["images"])) // per_class, ()
            ((score, _),) = asked.scores_of_languages(GivenFeatures(ref["images"], texts))[code]
            values.append(score.value)
        yield ref.check(torch.tensor(values), f"babel.{code}")
    for code in (name.partition(".")[2] for name in ref.tensors if name.startswith("retrieval.")):
        owners = ref[f"image_of.{code}"].tolist()
        captioned = CaptionsByLanguage()
        captions: list[list[str]] = [[] for _ in range(len(ref["gallery"]))]
        for row, owner in enumerate(owners):
            captions[owner].append(f"caption {row}")
        captioned.captions, captioned.data = {code: captions}, ()
        texts = {f"caption {row}": text for row, text in enumerate(ref[f"captions.{code}"])}
        scores = captioned.scores_of_languages(GivenFeatures(ref["gallery"], texts))[code]
        value = {score.measure: score.value for score, _ in scores}
        ours = [value[MEASURES[name]] for name in ref.setting("retrieval_order")]
        yield ref.check(torch.tensor(ours), f"retrieval.{code}")


GROUPS = (languages,)
DEVIATIONS = {"languages": "none"}
