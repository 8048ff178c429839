"""mmdet's GLIP and Grounding DINO as detectors of class names that can be changed at any time.

GLIP: "Grounded Language-Image Pre-training", 2021, arXiv 2112.03857. Grounding DINO: "Grounding DINO: Marrying DINO
with Grounded Pre-Training for Open-Set Object Detection", 2023, arXiv 2303.05499. Both read one caption, "cat. dog. ",
and score boxes by its words. Published weights load unchanged: nothing is added to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.models.detectors import GLIP as MMDET_GLIP
from mmdet.models.detectors import GroundingDINO as MMDET_GROUNDING_DINO
from mmdet.models.detectors.glip import clean_label_name
from torch import Tensor

from .....core.errors import CapabilityError, ConfigError
from .....registry import MODELS
from ...vocabulary import Classes, NamedClasses, Vocabulary

CAPTION_ENDS = 2
"""Tokens before the first name and after the last."""


class Grounded(NamedClasses):
    """What is added to a grounded detector of mmdet: names that belong to the model, not to the samples.

    A class is one phrase of the caption. When predicting, its synonyms are phrases too, whose boxes are the class's,
    and its first description follows its name after a comma, as in GLIP's prompts. Names that make a longer caption
    than the language model reads are asked for in several captions (`test_cfg.chunked_size`, as published for LVIS).

    Args:
        classes: as for `Vocabulary.of`, in the order of the labels; None leaves it to the samples' `text` (given by
            `vladapt.ClassPrompt`, or by mmdet's data sets) until `set_classes`. A sample with `tokens_positive`
            always keeps its own caption.
    """

    templates = "name"

    def __init__(self, *args, classes: Classes | None = None, **options):
        super().__init__(*args, **options)
        self.vocabulary: Vocabulary | None = None
        self.chunked_size = (self.test_cfg or {}).get("chunked_size", -1)
        if classes is not None:
            self.take_classes(Vocabulary.of(classes, self.templates))

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Ask for these from now on."""
        self.vocabulary = vocabulary
        self.phrases = tuple(clean_label_name(query[0]).strip() for query in vocabulary.queries)
        self.test_cfg["chunked_size"] = self.chunked_size if self.chunked_size > 0 else self._names_at_once()

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        if self.vocabulary is not None:
            self._set_phrases(batch_data_samples, self._training_names())
        return super().loss(batch_inputs, batch_data_samples)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        if self.vocabulary is None:
            return super().predict(batch_inputs, batch_data_samples, rescale)
        written = self._set_phrases(batch_data_samples, self.phrases, self._descriptions())
        at_once = 1 if self.test_cfg["chunked_size"] > 0 else len(written)  # mmdet's captions in parts take one image
        for start in range(0, len(written), at_once):
            part = slice(start, start + at_once)
            super().predict(batch_inputs[part], batch_data_samples[part], rescale)
        for sample in [sample for sample, is_written in zip(batch_data_samples, written) if is_written]:
            sample.pred_instances = self._of_classes(sample.pred_instances)
        return batch_data_samples

    def _training_names(self) -> tuple[str, ...]:
        """C phrases without synonyms: in training these would be wrong answers to their own class.

        Raises:
            ConfigError: there are more than the head counts.
            CapabilityError: they make a longer caption than the language model reads.
        """
        owners, at_most = self.vocabulary.owners, self.bbox_head.num_classes
        names = tuple(phrase for i, phrase in enumerate(self.phrases) if i == 0 or owners[i] != owners[i - 1])
        if len(names) > at_most:
            raise ConfigError(
                f"model.bbox_head.num_classes is {at_most}, with {len(names)} class names to train on; set it to that"
            )
        length, longest = CAPTION_ENDS + sum(self._lengths(names)), self.language_model.max_tokens
        if length > longest:
            raise CapabilityError(
                f"{len(names)} class names make a caption of {length} tokens, the language model reads {longest}; "
                "train on some of them per sample: mmdet.RandomSamplingNegPos in the pipeline, no classes of the model"
            )
        return names

    def _descriptions(self) -> dict[str, dict[str, str]]:
        """Phrase -> what follows it, in mmdet's words for it."""
        described = zip(self.phrases, self.vocabulary.queries)
        return {phrase: {"suffix": f", {query[1]}"} for phrase, query in described if len(query) > 1}

    def _set_phrases(self, samples: Sequence, phrases: tuple[str, ...], descriptions: Mapping | None = None) -> list:
        """Write the caption's phrases into the samples; which of them took it."""
        written = ["tokens_positive" not in sample for sample in samples]
        for sample in [sample for sample, is_written in zip(samples, written) if is_written]:
            sample.set_metainfo({"text": phrases, "custom_entities": True, "caption_prompt": dict(descriptions or {})})
        return written

    def _of_classes(self, instances):
        """Labels of phrases become labels of classes; of what a class's synonyms found twice, the better stays."""
        owners = torch.tensor(self.vocabulary.owners, device=instances.labels.device)
        instances.labels = owners[instances.labels]
        if len(self.vocabulary.queries) > len(self.vocabulary):
            # Without NMS of its own a detector finds the very same box by each synonym.
            rule = self.test_cfg.get("nms") or {"type": "nms", "iou_threshold": 0.999}
            _, kept = batched_nms(instances.bboxes, instances.scores, instances.labels, rule)
            instances = instances[kept]
        instances.label_names = [self.vocabulary.names[label] for label in instances.labels.tolist()]
        return instances

    def _names_at_once(self) -> int:
        """The largest number of phrases of which every caption can be read; -1 if one caption holds all."""
        suffixes = self._descriptions()
        lengths = self._lengths([phrase + suffixes.get(phrase, {}).get("suffix", "") for phrase in self.phrases])
        room = self.language_model.max_tokens - CAPTION_ENDS
        if sum(lengths) <= room:
            return -1
        for count in range(len(lengths) - 1, 1, -1):
            if all(sum(lengths[start : start + count]) <= room for start in range(0, len(lengths), count)):
                return count
        return 1

    def _lengths(self, phrases: Sequence[str]) -> list[int]:
        """Tokens of each phrase and the full stop after it."""
        return [len(self.language_model.tokenizer.tokenize(f"{phrase}. ")) for phrase in phrases]

    def _caption(self, sample) -> str:
        return self.get_tokens_and_prompts(sample.text, True)[1]

    def _text_features(self, samples: Sequence) -> dict[str, Tensor]:
        if self.vocabulary is not None:
            self._set_phrases(samples, self.phrases)
        return self.language_model([self._caption(sample) for sample in samples])


@MODELS.register_module(name=["GLIP", "GLIPStyle"])
class GLIP(Grounded, MMDET_GLIP):
    """mmdet's GLIP; the options are its own, and `classes`."""

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list) -> tuple:
        text = self._text_features(batch_data_samples)
        return self.bbox_head(self.extract_feat(batch_inputs), text)


@MODELS.register_module()
class GroundingDINO(Grounded, MMDET_GROUNDING_DINO):
    """mmdet's Grounding DINO; the options are its own, and `classes`."""

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list) -> tuple:
        text = self._text_features(batch_data_samples)
        text["embedded"] = self.text_feat_map(text["embedded"])
        outputs = self.forward_transformer(self.extract_feat(batch_inputs), text, batch_data_samples)
        wanted = ("hidden_states", "references", "memory_text", "text_token_mask")
        return self.bbox_head(*(outputs[name] for name in wanted))
