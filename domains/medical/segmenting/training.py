"""The training of a network of volumes as an mmengine config: data, network, loss, steps, and what its predictions
need."""

from __future__ import annotations

from typing import Any

from mmengine import Config

from ....core.contracts import Backbone, DomainData
from ....core.errors import DataError
from ....core.tasks import ConfigTask
from ..volume_options import VolumeOptions, VolumeSchedule
from .fingerprint import Fingerprint, fingerprint_of
from .labels import CLASSES, MAPS, REGIONS, ScoreRule
from .planning import NetworkPlan, network_plan
from .preprocessing import Preprocessing, case_of

BATCH, STEPS = 2, 1000
EPOCH = 250
"""Steps that nnU-Net calls an epoch."""
CLIP_DRIVEN = "clip-driven"
DIVISORS = {"segresnet-ds": 16, "swin-unetr": 32}
"""Of a patch's sides, by networks whose steps are fixed."""
SGD = {"type": "SGD", "lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
ADAM_W = {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-5}
CLIPPED = 12.0
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def make_volume_plan(schedule: VolumeSchedule, options: VolumeOptions, data: DomainData, backbone: Backbone) -> Config:
    """The plan of a training on the train split.

    Args:
        backbone: whose texts steer the head of clip-driven.

    Raises:
        DataError: no structure in any training volume, or volumes that are labelled for different structures.
        ConfigError: options that do not fit.
    """
    fingerprint, plan = _plans(options, data)
    train, steered = data.split("train"), options.network == CLIP_DRIVEN
    order, values = train[0].target.order, _values_of(data)
    kind, how = REGIONS if order else MAPS if steered else CLASSES, Preprocessing.of(fingerprint)
    batch, steps = schedule.batch_size or BATCH, _steps_of(schedule, options)
    written = order or tuple(of[0] for of in values)
    network = network_config(options, plan, len(fingerprint.channels), len(data.class_names) + (kind == CLASSES))
    model: dict[str, Any] = {"type": "vladapt.VolumeSegmentor", "network": network, "kind": kind}
    if steered:
        texts = {"classes": list(data.class_names), "backbone": schedule.backbone, "text": backbone.embed_dim}
        model = {"type": "vladapt.ClipDrivenSegmentor", "network": network, **texts, "template": options.organ_template}
    optimizer = {**(ADAM_W if steered or options.network == "swin-unetr" else SGD)}
    optimizer["lr"] = schedule.lr or optimizer["lr"]
    wrapper = {"type": "OptimWrapper", "optimizer": optimizer, "clip_grad": {"max_norm": CLIPPED}}
    if schedule.amp is not None:
        wrapper |= {"type": "AmpOptimWrapper", "dtype": DTYPES[schedule.amp]}
    dataset = {
        "type": "vladapt.VolumePatches",
        "cases": [case_of(item) for item in train],
        "preprocessing": how.to_json(),
        "patch_size": list(plan.patch_size),
        "draws": steps * batch,
        "batch_size": batch,
        "seed": schedule.seed,
        "foreground": options.foreground,
        "overlapping": kind == REGIONS,
        "augment": options.augment,
    }
    return Config(
        {
            "default_scope": "vladapt",
            "model": {**model, "mirrored": options.mirrored, "members": options.ensemble},
            "train_dataloader": {
                "batch_size": ConfigTask.per_process(batch),
                "num_workers": schedule.workers or 0,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "default_collate"},
                "dataset": dataset,
            },
            "train_cfg": {"by_epoch": False, "max_iters": steps},
            "optim_wrapper": wrapper,
            "param_scheduler": _rates(steps, steered),
            "vladapt": {
                "task": "volume-segmentation",
                "classes": list(data.class_names),
                "values": [list(of) for of in values],
                "preprocessing": how.to_json(),
                "patch_size": list(plan.patch_size),
                "decision": ScoreRule(kind, tuple(written)).to_json(),
                "tolerance": options.tolerance,
            },
        }
    )


def _values_of(data: DomainData) -> list[tuple[int, ...]]:
    """The labels of each structure: those of the set, or of several sets their numbers from 1."""
    values = {item.target.values for item in data.split("train")}
    together = len(values) == 1 and all(next(iter(values)))
    return list(next(iter(values))) if together else [(number,) for number in range(1, 1 + len(data.class_names))]


def _rates(steps: int, steered: bool) -> list[dict[str, Any]]:
    """Of the learning rate: nnU-Net's polynomial, or a linear warm-up of a twentieth and a cosine."""
    if not steered:
        return [{"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "end": steps + 1, "by_epoch": False}]
    warm = max(1, steps // 20)
    return [
        {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": warm, "by_epoch": False},
        {"type": "CosineAnnealingLR", "eta_min": 0.0, "begin": warm, "end": max(steps, warm + 1), "by_epoch": False},
    ]


def plan_facts(schedule: VolumeSchedule, options: VolumeOptions, data: DomainData) -> dict[str, Any]:
    """The fingerprint, and what would be trained, JSON-able."""
    fingerprint, plan = _plans(options, data)
    how = Preprocessing.of(fingerprint)
    return {
        "fingerprint": fingerprint.to_json(),
        "network": options.network,
        "patch_size": list(plan.patch_size),
        "strides": [list(of) for of in plan.strides],
        "filters": plan.filters(width_of(options)),
        "normalisation": ["computed tomography" if of else "each volume's own" for of in how.channels],
        "batch_size": schedule.batch_size or BATCH,
        "steps": _steps_of(schedule, options),
    }


def _steps_of(schedule: VolumeSchedule, options: VolumeOptions) -> int:
    """Training steps: as many as are asked for, or 250 per epoch."""
    epochs = schedule.epochs
    return options.steps or (STEPS if epochs is None else EPOCH * int(epochs))


def width_of(options: VolumeOptions) -> int:
    """Channels of the finest map."""
    return options.width or (48 if options.network == "swin-unetr" else 32)


def network_config(options: VolumeOptions, plan: NetworkPlan, channels: int, scores: int) -> dict[str, Any]:
    """The config of a network: for so many channels, with so many scores of each voxel."""
    shared = {"in_channels": channels, "out_channels": scores, "spatial_dims": 3}
    width = width_of(options)
    if options.network == "swin-unetr":
        return {"type": "vladapt.SwinUNETR", **shared, "feature_size": width}
    if options.network == "segresnet-ds":
        blocks = {"blocks_down": [1, 2, 2, 4, 4], "dsdepth": 4, "norm": "INSTANCE"}
        return {"type": "vladapt.SegResNetDS", **shared, "init_filters": width, **blocks}
    if options.network == CLIP_DRIVEN:
        return {
            "type": "vladapt.DynUNetFeatures",
            "spatial_dims": 3,
            "in_channels": channels,
            **_resolutions(plan, width),
        }
    deep = {"deep_supervision": True, "deep_supr_num": len(plan.strides) - 2} if len(plan.strides) > 2 else {}
    return {"type": "vladapt.DynUNet", **shared, **_resolutions(plan, width), **deep}


def _resolutions(plan: NetworkPlan, width: int) -> dict[str, Any]:
    """The options of a DynUNet that the plan says."""
    return {
        "kernel_size": [list(of) for of in plan.kernels],
        "strides": [list(of) for of in plan.strides],
        "upsample_kernel_size": [list(of) for of in plan.strides[1:]],
        "filters": plan.filters(width),
    }


def _plans(options: VolumeOptions, data: DomainData) -> tuple[Fingerprint, NetworkPlan]:
    train = data.split("train")
    if not any(item.classes() for item in train):
        raise DataError(
            f"{data.name}: no training volume shows a structure ({', '.join(data.class_names)}); label some"
        )
    partly = any(len(item.target.annotated) < len(data.class_names) for item in train)
    if partly and options.network != CLIP_DRIVEN:
        raise DataError(
            f"{data.name}: its volumes are labelled for different structures, and {options.network} learns all at "
            "once; give one set, or --network clip-driven"
        )
    fingerprint = fingerprint_of(train, data.class_names)
    return fingerprint, network_plan(fingerprint, options.patch_size, DIVISORS.get(options.network, 1))
