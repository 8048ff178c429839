"""EgoMCQ: which of five clips is the one that a sentence tells of (EgoVLP; Lin et al., 2022, arXiv 2206.01670).

Its JSON has a question by number: "query" and "choices" with video_uid, clip_start, clip_end and clip_text, "answer",
and "types": 1 for clips of other videos, 2 for clips of the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.contracts import Question, Questions
from ...core.errors import DataError
from .annotations import Annotation, item_id, seconds

if TYPE_CHECKING:
    from torch import Tensor

INTER, INTRA = "inter", "intra"
"""Options from other videos, or from the same one."""
KINDS = {1: INTER, 2: INTRA}


def ego_mcq_annotations(path: Path, content: Mapping[str, Any]) -> tuple[list[Annotation], Questions]:
    """The clips of all questions, captioned, and the questions.

    Args:
        path: for messages.
        content: of the JSON.

    Raises:
        DataError: a question without its answer among the choices, of an unknown type, or with another number of
            choices than the first.
    """
    annotations, asked = [], []
    for number, entry in content.items():
        place, choices = f"{path} question {number}", list(entry["choices"].values())
        answer, kind, text = int(entry["answer"]), KINDS.get(int(entry["types"])), str(entry["query"]["clip_text"])
        if kind is None or not 0 <= answer < len(choices):
            raise DataError(f"{place}: answer {answer} of {len(choices)}, types {entry['types']}; types are 1 and 2")
        if asked and len(choices) != len(asked[0].images):
            raise DataError(
                f"{place}: has {len(choices)} choices, but the first question has {len(asked[0].images)}; correct it"
            )
        clips = [_clip(each, place, (text,) if at == answer else ()) for at, each in enumerate(choices)]
        annotations += clips
        asked.append(Question(tuple(item_id(clip) for clip in clips), (text,), answer, kind))
    return annotations, Questions("EgoMCQ", asked, _of_clips)


def _clip(choice: Mapping[str, Any], place: str, captions: tuple[str, ...]) -> Annotation:
    start, end = (max(0.0, float(choice[key])) for key in ("clip_start", "clip_end"))
    video, captions = str(choice["video_uid"]), tuple(dict.fromkeys((*captions, str(choice["clip_text"]))))
    cut = (f"{video}_{int(start):06d}_{int(end):06d}",)
    start, end = seconds(start, place), seconds(end, place)
    return Annotation(video, place, (), captions, start, end, split="test", group=video, cut_names=cut)


def _of_clips(scores: Tensor, answers: Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """(Q, O, 1) scores, of the options with the one sentence."""
    return ego_mcq(scores[:, :, 0], answers, kinds)


def ego_mcq(scores: Tensor, answers: Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Accuracy over the options of each question, for the questions of each kind.

    Args:
        scores: (Q, O) of each question's sentence with its options.
        answers: (Q,) which option is right.
        kinds: Q times "inter" or "intra".

    Returns:
        {"inter": ..., "intra": ...}, of the kinds that there are. A tie for the first place counts as a share.

    Raises:
        DataError: sizes disagree, an answer is no option, a score is not finite, or a kind is unknown.
    """
    import torch

    if scores.ndim != 2 or len(scores) != len(answers) or len(kinds) != len(answers):
        raise DataError(
            f"{tuple(scores.shape)} scores, {len(answers)} answers, {len(kinds)} kinds; give (Q, O), Q and Q"
        )
    if len(answers) and not (int(answers.min()) >= 0 and int(answers.max()) < scores.shape[1]):
        raise DataError(
            f"answers reach from {int(answers.min())} to {int(answers.max())}; give 0 to {scores.shape[1] - 1}"
        )
    if not torch.isfinite(scores).all():
        raise DataError("scores hold NaN or infinity; compute them again")
    if unknown := sorted(set(kinds) - {INTER, INTRA}):
        raise DataError(f"kind '{unknown[0]}' of a question; there are {INTER} and {INTRA}")
    top = scores == scores.amax(dim=1, keepdim=True)
    right = (top.gather(1, answers[:, None])[:, 0] / top.sum(dim=1)).double()
    of_kind = {kind: torch.tensor([each == kind for each in kinds]) for kind in (INTER, INTRA)}
    return {kind: float(right[rows].mean()) for kind, rows in of_kind.items() if rows.any()}
