"""DINOv2's losses: sinkhorn, centring, crops, hidden patches, KoLeo, the teacher and the schedules."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import Tensor

from vladapt import Loss, build_loss
from vladapt.core.losses._prototypes import PrototypeHead
from vladapt.core.losses.dino_v2 import koleo, mask_weights, sinkhorn
from vladapt.core.training.optimizer import rate_schedulers
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.tower_weights import follow

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

PARTS = ("dino_local", "dino_global", "ibot")
STUDENT = {"crops": "student_global_cls", "crops_local": "student_local_cls", "patches": "student_global_patch"}


@compares("dino-v2", "dinov2")
def dino_v2(ref: Reference, f: Fixtures) -> Iterator[Check]:
    temperatures = ref.setting("teacher_temp")
    loss = loss_of(ref, "centering", temperatures[0])
    for step, temperature in enumerate(temperatures):
        loss.first_temperature = loss.teacher_temperature = temperature
        loss.zero_grad()
        values, leaves = step_of(loss, ref)
        yield from parts_of(ref, loss, values, f"centering.step{step}.")
        loss.after_step(None)
    yield ref.check(loss.centre, "centering.dino_center_after2")
    yield ref.check(loss.patch_centre, "centering.ibot_center_after2")
    yield ref.check(loss.heads[0].prototypes.grad, "centering.grad_last_layer_v")
    yield from gradients_of(ref, leaves, "centering.")
    loss = loss_of(ref, "sinkhorn", temperatures[0])
    values, leaves = step_of(loss, ref)
    yield from parts_of(ref, loss, values, "sinkhorn_knopp.")
    yield ref.check(loss.heads[0].prototypes.grad, "sinkhorn_knopp.grad_last_layer_v")
    yield from gradients_of(ref, leaves, "sinkhorn_knopp.")
    swapped = ref["sinkhorn_knopp.teacher_cls_logits_swapped"]
    yield ref.check(sinkhorn(swapped / temperatures[0]), "sinkhorn_knopp.teacher_cls_assign")
    leaf = ref["koleo.x"].requires_grad_()
    value = koleo(leaf)
    value.backward()
    yield ref.check(value, "koleo.loss")
    yield ref.check(leaf.grad, "koleo.grad")


@compares("dino-v2", "dinov2")
def dino_v2_schedules(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Of the teacher. The fixture counts iterations, ours the share that is done."""
    steps = ref.setting("epoch_len") * ref.setting("epochs")
    rise = ref.setting("epoch_len") * ref.setting("warm_t")
    momentum, temperature = ref["schedule.momentum"], ref["schedule.teacher_temp"]
    loss = small_loss(momentum=float(momentum[0]), first_temperature=float(temperature[0]))
    shares = [min(1.0, step / steps) for step in range(len(momentum))]
    yield ref.check(torch.tensor([loss.teacher_momentum(share) for share in shares]), "schedule.momentum")
    loss.teacher_temperature, loss.temperature_rise = float(temperature[-1]), 1.0
    risen = [loss.temperature(min(1.0, step / (rise - 1))) for step in range(len(temperature))]
    yield ref.check(torch.tensor(risen), "schedule.teacher_temp")
    in_training = torch.arange(len(momentum)) < steps
    yield ref.check(weight_decays(ref, steps), "schedule.wd", where=in_training)
    for name in ("0", "1"):
        teacher = {"weight": ref[f"ema.teacher{name}"]}
        follow(teacher, {"weight": ref[f"ema.student{name}"]}, ref.setting("ema"))
        yield ref.check(teacher["weight"], f"ema.teacher{name}_after")


def weight_decays(ref: Reference, steps: int) -> list[float]:
    """Of each step, as mmengine's Runner sets them; a group without decay keeps none."""
    told = ref["schedule.wd"]
    settings = TrainingSettings(weight_decay=float(told[0]), end_weight_decay=float(told[-1]), schedule="constant")
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "weight_decay": decay} for decay in (float(told[0]), 0.0)
    ]
    optimizer, (how,) = (
        torch.optim.AdamW(groups),
        (each for each in rate_schedulers(settings, steps) if "Param" in each["type"]),
    )
    scheduler, decays = PARAM_SCHEDULERS.build({**how, "optimizer": optimizer}), []
    for _ in told:
        decays.append(optimizer.param_groups[0]["weight_decay"])
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[1]["weight_decay"] == 0
    return decays


def small_loss(**options) -> Loss:
    return build_loss("dino-v2", {"image_width": 4}, out_dim=4, hidden_dim=4, bottleneck_dim=4, **options)


def loss_of(ref: Reference, balance: str, temperature: float) -> Loss:
    """With the fixture's heads, whose teacher stays as it is."""
    shape = {
        "out_dim": ref.setting("K"),
        "hidden_dim": ref.setting("hidden"),
        "bottleneck_dim": ref.setting("bottleneck"),
    }
    options = {"balance": balance, "koleo": ref.setting("koleo"), "masked": 1.0, "momentum": 1.0, "fixed_prototypes": 0}
    width = {"image_width": ref.setting("D")}
    loss = build_loss("dino-v2", width, separate_heads=ref.setting("separate"), **shape, **options)
    loss.first_temperature = loss.teacher_temperature = temperature
    for side, heads in (("student", loss.heads), ("teacher", loss.teacher_heads)):
        for place, name in enumerate(("dino_head", "ibot_head")[: len(heads)]):
            heads[place] = head_of(ref, f"w.{side}.{name}.", shape, ref.setting("D"))
    loss.teacher_heads.requires_grad_(False)
    loss.patch_centre = torch.zeros(len(loss.heads[-1].prototypes))
    return loss


def head_of(ref: Reference, prefix: str, shape: dict, width: int) -> PrototypeHead:
    weights = ref[f"{prefix}last_layer.weight_v"]
    head = PrototypeHead(width, shape["hidden_dim"], shape["bottleneck_dim"], len(weights))
    mlp = {
        f"mlp.{layer}.{part}": ref[f"{prefix}mlp.{layer}.{part}"] for layer in (0, 2, 4) for part in ("weight", "bias")
    }
    head.load_state_dict({**mlp, "prototypes": weights})
    return head


def step_of(loss: Loss, ref: Reference) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts, and the leaves as the fixture has them, crop after crop, once their gradients are there."""
    leaves = ref.leaves(STUDENT)
    masks = by_image(ref["masks"].bool(), 2)  # (B, 2, N)
    most = int(masks.sum(dim=-1).max())
    order = (~masks).int().argsort(dim=-1, stable=True)[..., :most]  # the hidden ones of each crop first
    hidden = masks.gather(-1, order)
    taken = [by_image(each, 2) for each in (leaves["patches"], ref["teacher_patch"])]
    patches, teacher = (each.gather(2, order[..., None].expand(-1, -1, -1, each.shape[-1])) for each in taken)
    out = {
        "crops": by_image(leaves["crops"], 2),
        "crops_local": by_image(leaves["crops_local"], ref.setting("local")),
        "crops_patches": patches.flatten(1, 2),
        "crops_hidden": hidden.flatten(1),
        "teacher.crops": by_image(ref["teacher_cls"], 2),
        "teacher.crops_patches": teacher.flatten(1, 2),
    }
    values = loss(out)
    values["loss"].backward()
    return values, leaves


def by_image(rows: Tensor, crops: int) -> Tensor:
    """(crops * B, ...), crop after crop -> (B, crops, ...)."""
    return rows.unflatten(0, (crops, -1)).transpose(0, 1)


def parts_of(ref: Reference, loss: Loss, values: dict[str, Tensor], prefix: str) -> Iterator[Check]:
    for name in PARTS:
        yield ref.check(values[name], f"{prefix}{name}")
    yield ref.check(loss.koleo * values["koleo"], f"{prefix}koleo_sum_weighted")
    yield ref.check(values["loss"], f"{prefix}total")


def gradients_of(ref: Reference, leaves: dict[str, Tensor], prefix: str) -> Iterator[Check]:
    for name, theirs in STUDENT.items():
        yield ref.check(leaves[name].grad, f"{prefix}grad_{theirs}")


@compares("dino-v2", "dinov2")
def dino_v2_masks(ref: Reference, f: Fixtures) -> Iterator[Check]:
    masks = ref["masks"].bool()
    yield ref.check(mask_weights(masks, 1)[masks], "masks_weight")


GROUPS = (dino_v2, dino_v2_schedules, dino_v2_masks)
