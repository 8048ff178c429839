"""Continued training: CTP, learning without forgetting, and rates that are warmed up again."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import Loss, build_loss
from vladapt.core.training.model import PairModel
from vladapt.core.training.schedules import infinite_rates, rewarmed_rates

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

HEAD = "text_mlm_encoder.head."
SIDES = {"": "w.", "reference": "w.ref.", "teacher": "w.momentum."}


class SmallTowers(nn.Module):
    """The fixture's small towers, from the weights of one of its models."""

    def __init__(self, ref: Reference, prefix: str):
        super().__init__()
        self.names = [key.removeprefix("w.ref.") for key, *_ in ref.keys(r"w\.ref\..*\.(weight|bias)")]
        self.kept = nn.ParameterList([nn.Parameter(ref[prefix + name].clone()) for name in self.names])

    def __getitem__(self, name: str) -> Tensor:
        return self.kept[self.names.index(name)]

    def linear(self, name: str, rows: Tensor) -> Tensor:
        return F.linear(rows, self[f"{name}.weight"], self[f"{name}.bias"])

    def images(self, ref: Reference) -> Tensor:
        """(B, P, d)."""
        return self.linear("visual_encoder", ref["images"])

    def texts(self, ref: Reference, ids: str) -> Tensor:
        """(B, L, d)."""
        words = self["text_mlm_encoder.bert.emb.weight"][ref[ids]]
        mask = ref["attention_mask"][..., None].float()
        mean = (words * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
        return torch.tanh(self.linear("text_mlm_encoder.bert.fc", words + mean))

    def embeddings(self, ref: Reference) -> tuple[Tensor, Tensor]:
        """(B, e) each, not normalised."""
        texts = self.texts(ref, "ids")
        return self.linear("vision_proj", self.images(ref)[:, 0]), self.linear("text_proj", texts[:, 0])


def ctp_loss(ref: Reference, first: bool, **options) -> Loss:
    """With the fixture's queues and heads."""
    dims = {"image_width": ref.setting("d"), "text_width": ref.setting("d"), "vocab_size": ref.setting("V")}
    momentum = ref.setting("momentum_init" if first else "momentum_ctp")
    stated = {"momentum": momentum, "temperature": ref.setting("temp"), "queue_size": ref.setting("Q")}
    loss = build_loss("ctp", {**dims, "embed_dim": ref.setting("e")}, first=first, **{**stated, **options})
    for queue, name in ((loss.images, "image"), (loss.texts, "text")):
        queue.rows.copy_(ref[f"w.{name}_queue"].T)
        queue.pointer.copy_(ref["w.queue_ptr"][0])
    heads = {"": loss.head, "teacher": loss.teacher_head, "reference": loss.reference_head}
    for side, head in heads.items():
        for name in ("weight", "bias"):
            getattr(head.words, name).data.copy_(ref[SIDES[side] + HEAD + name])
        nn.init.eye_(head.image.weight)  # the fixture adds the mean of the image's tokens as it is
    return loss


def ctp_step(ref: Reference, loss: Loss) -> tuple[dict[str, Tensor], dict[str, SmallTowers], dict[str, Tensor]]:
    """The values of a step, with gradients; the towers; and what the loss was given. As in the released code the
    teacher moves before it is asked."""
    towers = {side: SmallTowers(ref, prefix) for side, prefix in SIDES.items()}
    loss._reference = [SimpleNamespace(model=towers["reference"])]
    objective = SimpleNamespace(losses={"ctp": loss}, teacher="ema", call=lambda hook, model: loss.after_step(model))
    moved = SimpleNamespace(objective=objective, progress=0.0, towers=towers[""], teacher_towers=towers["teacher"])
    PairModel.after_step(SimpleNamespace(**vars(moved), scale_bounds=None))
    out = {"masked_labels": ref["mlm_labels"]}
    for side, prefix in (("", ""), ("teacher", "teacher."), ("reference", "reference.")):
        image, text = (F.normalize(rows, dim=1) for rows in towers[side].embeddings(ref))
        names = ("image_features", "text_features") if side == "" else (f"{prefix}image", f"{prefix}text")
        out |= dict(zip(names, (image, text)))
        out[f"{prefix}masked_tokens"] = towers[side].texts(ref, "masked_ids")
        out[f"{prefix}image_hidden"] = towers[side].images(ref).mean(dim=1)
    values = loss(out)
    values["loss"].backward()
    return values, towers, out


@compares("ctp", "ctp")
def ctp(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for mode, first in (("CTP", False), ("CTP_init", True)):
        loss = ctp_loss(ref, first)
        values, towers, out = ctp_step(ref, loss)
        contrast = values["contrastive"], values["momentum_contrast"]
        if first:
            yield ref.check(sum(contrast), f"{mode}.loss_ita")
            yield ref.check(values["words"] + values["soft_words"], f"{mode}.loss_mlm")
        else:
            yield ref.check(contrast[0], f"{mode}.loss_ita")
            yield ref.check(values["words"], f"{mode}.loss_mlm")
            yield ref.check(values["soft_words"], f"{mode}.loss_mlm_dis")
            yield ref.check(contrast[1] + values["cross"] + values["same"], f"{mode}.loss_ita_dis")
        for key, name in ref.keys(rf"{mode}\.grad\.(.*)"):
            of_head = name.startswith(HEAD)
            parameter = getattr(loss.head.words, name.removeprefix(HEAD)) if of_head else towers[""][name]
            yield ref.check(parameter.grad, key)
        for key, name in ref.keys(rf"{mode}\.momentum_after\.(.*)"):
            of_head = name.startswith(HEAD)
            yield ref.check(
                getattr(loss.teacher_head.words, name.removeprefix(HEAD)) if of_head else towers["teacher"][name], key
            )
        yield ref.check(out["teacher.image"], f"{mode}.momentum_image_feature")
        yield ref.check(out["teacher.text"], f"{mode}.momentum_text_feature")
        pushed = loss.images, loss.texts
        for queue, keys in zip(pushed, loss._seen):
            queue.push(keys)
        for queue, name in zip(pushed, ("image", "text")):
            yield ref.check(queue.rows.T, f"{mode}.{name}_queue_after")
        yield ref.check(loss.images.pointer, f"{mode}.queue_ptr_after")


@compares("lwf", "ctp")
def lwf(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Of the raw vectors, as released; the gradients of the fixture hold its masked words too."""
    towers = {side: SmallTowers(ref, prefix) for side, prefix in SIDES.items()}
    (image, text), before = towers[""].embeddings(ref), towers["reference"].embeddings(ref)
    out = {"image_embedding": image, "text_embedding": text}
    out |= {f"teacher.{name}": rows for name, rows in zip(out, before)}
    loss = build_loss("lwf", {}, distils="embeddings", temperature=ref.setting("temp"))
    yield ref.check(loss(out)["loss"], "LWF.loss_ita_dis")


@compares("rewarm", "continual_schedule")
def schedules(ref: Reference, f: Fixtures) -> Iterator[Check]:
    lr, end = ref.setting("max_lr"), ref.setting("min_lr")
    lengths = {"first": ref.setting("first_steps"), "again": ref.setting("again_steps")}

    def curve(stage: str, share: float) -> Tensor:
        steps = lengths[stage]
        return torch.tensor(rewarmed_rates(lr, steps, warmup=int(share * steps), end_lr=end))

    for key, stage, share in ref.keys(r"(first|again)\.cosine\.warm(.*)"):
        yield ref.check(curve(stage, float(share)), key)
    share = float(ref.keys(r"again\.cosine\.warm(.*)")[0][1])
    yield ref.check(torch.cat([curve("first", share), curve("again", share)[1:]]), "rewarm_redecay")
    told = {ours: ref.setting(f"infinite.{theirs}") for ours, theirs in INFINITE.items()}
    steps = ref.setting("infinite.total")
    yield ref.check(torch.tensor(infinite_rates(lr, steps, end_lr=end, **told)), "own.infinite")


INFINITE = {"warmup": "warmup", "cooldown": "cooldown", "constant_lr": "constant", "annealed_from": "end_of_constant"}
DEVIATIONS = {
    "rewarm": "linear, exponential and constant decays of the released code are not offered; own.infinite replays the "
    "formula of the paper, for which there is no released code"
}
GROUPS = (ctp, lwf, schedules)
