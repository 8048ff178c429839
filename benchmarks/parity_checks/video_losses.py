"""Losses on pairs of a clip and its text: TeachText and EgoNCE."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt import build_loss
from vladapt.domains.video.losses._max_margin import max_margin

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("teach-text", "teachtext")
def teach_text(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Teachers and their experts side by side are one teacher."""
    experts = [key for key, *_ in ref.keys(r"teacher\.(\w+)\.(\w+)\.text")]
    texts = torch.cat([ref[key] for key in experts], dim=1) / ref.setting("teachers")
    clips = torch.cat([ref[key.removesuffix("text") + "video"] for key in experts], dim=1)
    yield ref.check(texts @ clips.T, "target_sims")
    student = ref.leaves({"sims": "student_sims"})["sims"]
    parts = build_loss("teach-text", margin=ref.setting("margin")).of_similarities(student, texts @ clips.T)
    parts["loss"].backward()
    for key, part in {"loss": "loss", "loss_rank": "rank", "loss_distil": "distill"}.items():
        yield ref.check(parts[part], key)
    yield ref.check(student.grad, "grad")
    kept = build_loss("teach-text", margin=ref.setting("margin"), diagonal=True)
    yield ref.check(kept.of_similarities(ref["student_sims"], texts @ clips.T)["rank"], "loss_rank_nofix")


@compares("egonce", "egonce")
def egonce(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The samples with their scenes' other clips, and the same rows as samples."""
    half, temperature = len(ref["text"]) // 2, ref.setting("temperature")
    for positives in ("both", "noun", "verb"):
        leaves = ref.leaves({"text": "text", "video": "video"})
        units = {name: F.normalize(leaf, dim=-1) for name, leaf in leaves.items()}
        rows = {"text_features": units["text"], "image_features": units["video"]}
        rows.update(verbs=ref["verb"].float(), nouns=ref["noun"].float())
        loss = build_loss("egonce", temperature=temperature, positives=positives)
        value = loss(rows)["loss"]
        value.backward()
        yield ref.check(value, f"loss_{positives}")
        if positives == "both":
            yield from ref.check_gradients(leaves, {name: name for name in leaves})
            yield ref.check(loss.shared(rows["verbs"], rows["nouns"]).long(), "positives")
        scenes = {name: each.detach()[:half] for name, each in rows.items()}
        scenes |= {f"{n.removesuffix('_features')}_negative": each.detach()[half:] for n, each in rows.items()}
        loss = build_loss("egonce", temperature=temperature, positives=positives, scene_negatives=True)
        yield ref.check(loss(scenes)["loss"], f"loss_{positives}", f"loss {positives}, scene negatives")
    scores = units["text"].detach() @ units["video"].detach().T
    yield ref.check(max_margin(scores, ref.setting("margin_mir") * ref["mir_weights"]), "loss_mir")


GROUPS = (teach_text, egonce)
