"""Settings of adapters for the checks of `vladapt.testing`: what makes them fast, and where their options count."""

from __future__ import annotations

from typing import Any

from vladapt.core.contracts.options import options_of
from vladapt.core.registry import adapter_class
from vladapt.core.training.tower_adapter import TowerAdapter

OPTIONS: dict[str, dict[str, Any]] = {
    "abmil": {"lr": 0.01, "embed": 8, "epochs": 1},
    "action-clip": {"layers": 1},
    "auto": {"candidates": ("zero-shot", "nearest-mean", "ridge"), "few_shots": ("ridge",)},
    "clam": {"lr": 0.01, "instances": 1, "dropout": 0.1, "epochs": 1},
    "clip2video": {"layers": 1},
    "clip4clip": {"layers": 1},
    "cross-modal": {"warmup": 2, "eval_every": 5, "lr": 0.05, "weight_decay": 0.1, "batch_size": 4},
    "dmn": {"lr": 0.05, "epochs": 1, "n_views": 2},
    "efficient-prompt": {"layers": 1, "prefix": 2, "postfix": 2},
    "fpl": {"warmup": 1, "n_ctx": 2, "pseudo_shots": 2, "batch_size": 1000},
    "grip": {"warmup": 1, "n_ctx": 2, "rounds": 2, "batch_size": 1000},
    "ifpl": {"warmup": 1, "n_ctx": 2, "rounds": 2, "pseudo_shots": 2, "batch_size": 1000},
    "gist": {"lr": 1e-2, "batch_size": 4, "texts_per_image": 2, "probe_epochs": 3, "probe_batch_size": 4},
    "lafter": {"lr": 0.02, "batch_size": 4, "n_ctx": 2, "text_steps": 5},
    "linear-probe": {"steps": 2},
    "lp-plus-plus": {"views": 1},
    "tip-x": {"search_step": (20, 8, 5)},
    "tpt": {"steps": 2},
    "trans-mil": {"lr": 0.01, "width": 16, "epochs": 1},
    "vila-mil": {"lr": 0.01, "n_ctx": 2, "prototypes": 4, "hidden": 8, "epochs": 1},
    "two-stage": {"iterations": 2, "batch_size": 4, "lr": 0.02},
}
"""Where a training of 20 steps is all warm-up, 20 steps per shot, per test image or of a search are slow, a grid has
thousands of settings, or two augmented views, which make others fast, are refused."""


QUICKER: dict[str, dict[str, Any]] = {"open-vclip": {"patching_ratio": 0.0}}
"""Besides, where options are checked: without a search over eleven ratios in each of some sixty fits."""

SHOWN_BY_FULL = frozenset(
    {"weight_decay", "warmup", "loss", "loss_options", "teacher", "training", "layer_decay", "clip_grad", "amp", "ema"}
    | {"select", "patience"}
)
"""Options of `TowerAdapter` that `full` shows to change a result; of others `test_training_options.py` shows that they
reach the same training."""
TOGETHER = {"amp": "bf16", "ema": 0.5, "layer_decay": 0.5, "clip_grad": 1.0, "select": "best_val", "patience": 2}
TOGETHER["gpa"] = False  # prompt-src's own average


SHOWN_ONCE = {
    "TowerAdapter": "full",
    "SharedContext": "coop",
    "PseudoLabelled": "grip",
    "BagHead": "abmil",
    "PairTextHead": "mean-pool",
    "TunedTextHead": "mean-pool",
}
"""Base of several methods -> the one that shows in each run what they have of it; a thorough run asks all of them."""


def inherited(name: str) -> frozenset[str]:
    """Options that a method has of such a base, and does not declare anew, where another shows them."""
    cls = adapter_class(name)
    declares = lambda base, option: option in vars(base).get("__annotations__", {})  # noqa: E731
    of = {each.name: next(k.__name__ for k in cls.__mro__ if declares(k, each.name)) for each in options_of(cls)}
    return frozenset(option for option, base in of.items() if SHOWN_ONCE.get(base, name) != name)


def trains_towers(name: str) -> bool:
    """As `full` does, whose training shows what the options of a training do."""
    return name != "full" and issubclass(adapter_class(name), TowerAdapter)


def between(option: str, one: Any, other: Any, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two values of an option among other settings."""
    return {**settings, option: one}, {**settings, option: other}


OF_FOLDER = {"also": ("support_folder",)}
OF_SEARCH = {
    "search_scale": between("search_scale", (7.0, 3.0), (30.0, 30.0)),
    "search_step": between("search_step", (200, 20), (2, 2), search_scale=(30.0, 30.0)),
}
OF_NEGATIVES = {"entropy_bounds": (0.0, 1.0), "mask_bounds": (0.0, 1.0)}
STARTING = {"ctx_init": between("ctx_init", None, "a photo of a")}
OF_TOWERS = {"epochs": 1, "batch_size": 8, "train_towers": True, "coef_lr": 0.1}
LENGTH = {"n_ctx": between("n_ctx", 2, 3, ctx_init=None)}


def of_training(own: str, other: str, **patience: Any) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of towers: another loss than their own, its options, a teacher of it, and epochs that go on to a better one."""
    return {
        "loss": between("loss", own, other),
        "teacher": between("teacher", (), ("embedded",), **{**patience, "loss": "distill", "epochs": 2}),
        "training": between("training", None, {"optimizer": "adam", "eps": 1e-2}),
        "loss_options": between("loss_options", None, {own: {"label_smoothing": 0.5}}, loss=own),
        "patience": between("patience", None, 1, select="best_val", **patience),
    }


def of_pairs(other: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of heads that learn from pairs, too: another loss than CLIP's, and the training with both towers."""
    quick = {"epochs": 2, "batch_size": 8}
    towers = {**quick, "train_towers": True, "coef_lr": 0.1}
    return {
        "loss": between("loss", None, other, **quick),
        "loss_options": between("loss_options", None, {"clip": {"label_smoothing": 0.5}}, loss="clip", **quick),
        "teacher": between("teacher", (), ("embedded",), loss="teach-text", **quick),
        "train_towers": between("train_towers", False, True, **quick),
        "coef_lr": between("coef_lr", 0.1, 0.5, **{**towers, "epochs": 1}),
        "micro_batch_size": between("micro_batch_size", None, 4, **towers),
        "amp": between("amp", None, "bf16", **towers),
    }


def of_pseudo_labels(**many: Any) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of self-training on pseudo-labels; `many` gives ten and more per class."""
    return {
        "seen": between("seen", ("colour 0",), ("colour 1",), learning="transductive-zero-shot"),
        "hold_out": between("hold_out", 0.0, 0.5, **many),
        "batch_size": between("batch_size", 2, 1000),
    }


COUNTS: dict[str, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "abmil": {"patience": between("patience", None, 1, lr=0.1, epochs=12)},
    "clam": {
        "patience": between("patience", None, 1, lr=0.05, dropout=0.7, epochs=20, min_epochs=0),
        "min_epochs": between("min_epochs", 0, 20, lr=0.05, dropout=0.7, epochs=20, patience=1),
    },
    "trans-mil": {
        "patience": between("patience", None, 1, lr=0.1, dropout=0.7, epochs=12, bags_per_step=1),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.1),
    },
    "vila-mil": {
        "patience": between("patience", None, 1, lr=0.003, epochs=16, min_epochs=0),
        "min_epochs": between("min_epochs", 0, 20, lr=0.003, epochs=16, patience=1),
        "plateau": between("plateau", None, 1, lr=0.003, epochs=16),
    },
    "action-clip": {"released_conv": between("released_conv", False, True, sim_header="Conv_1D")},
    "action-clip-towers": {
        **of_training("cross-entropy", "clip", lr=0.001, epochs=8, sim_header="Conv_1D"),
        "clip_grad": between("clip_grad", None, 1e-4, lr=0.05),
    },
    "attention-pool": of_pairs("siglip"),
    "ape": {"w": between("w", (1.0, 0.0), (0.0, 1.0), top_q=6)},
    "ape-t": {
        "criterion": between("criterion", "text", "image_text", top_q=6, w=(1.0, 0.0)),
        "select": between("select", "last", "best_val", lr=2.0, epochs=10),
    },
    "auto": {
        "as_papers": between("as_papers", False, True, few_shots=("tip-adapter",)),
        "candidates": between("candidates", ("ridge",), ("zero-shot",)),
        "few_shots": between("few_shots", ("ridge",), ("nearest-mean",)),
        "min_shots": between("min_shots", 2, 4),
        "parts": between("parts", 2, 3, min_shots=2, rule="best"),
        "rule": between("rule", "one-se", "best", min_shots=2),
        "settings": between("settings", {}, {"ridge": {"penalty": 100.0}}),
        "without_labels": between("without_labels", ("stat-a",), ("zlap",), also=("no_labels",)),
    },
    "biomed-coop": {
        **LENGTH,
        "weight_decay": between("weight_decay", 0.0, 0.5, lr=1.0),
        "tau": between("tau", 0.2, 3.0, kdsp=50.0, epochs=3),
        "select": between("select", "zscore", "mad", kdsp=50.0, tau=0.5, epochs=3),
    },
    "clap": {
        "constraint": between("constraint", "l2", "none", lr=1.0, epochs=5),
        "multipliers": between("multipliers", "zero-shot", "constant", lr=1.0, epochs=5),
        "adaptive": between("adaptive", False, True, lr=1.0, epochs=5),
        "batches": between("batches", 1, 3, batch_size=2),
    },
    "clip-adapter": {"ties": between("ties", "plateau", "published", ratio=None, epochs=300, lr=1.0, reduction=1)},
    "clipfit": {
        **of_training("cross-entropy", "clip", lr=0.1, epochs=6),
        "anchor": between("anchor", 0.0, 100.0, lr=0.1, epochs=6),
    },
    "cocoop": LENGTH,
    "clip2video": of_pairs("siglip"),
    "clip4clip": of_pairs("siglip"),
    "coop": STARTING,
    "cross-modal": {"ties": between("ties", "plateau", "published", weight_decay=None)},
    "dmn": {
        "augmix": between("augmix", False, True, n_views=4, selection=1.0, slots=1, crop_scale=(0.9, 1.0)),
        "crop_scale": between("crop_scale", (0.9, 1.0), (0.01, 0.02), n_views=8, selection=1.0, slots=2),
        "selection": between("selection", 0.1, 1.0, n_views=8, slots=1, crop_scale=(0.01, 0.02)),
        "ties": between("ties", "plateau", "published", train=False),
        "weight_decay": between("weight_decay", 0.0, 1.0, lr=0.5, epochs=3),
    },
    "full": {
        **of_training("cross-entropy", "clip", lr=0.1, epochs=5),
        "clip_grad": between("clip_grad", None, 1e-4),
    },
    "dpa": {
        "amp": between("amp", None, "bf16", lr=0.1),
        "clip_grad": between("clip_grad", None, 1e-9, lr=0.1, epochs=3),
    },
    "efficient-prompt": {"contrast": between("contrast", 1, 3, batch_size=2, lr=0.01)},
    "fpl": of_pseudo_labels(pseudo_shots=10),
    "gc-clip": {"square": between("square", True, False, margins=(0.5,))},
    "grip": of_pseudo_labels(learning="transductive-zero-shot", seen=("colour 0", "colour 1"), rounds=1),
    "gta-clip": {
        "amp": between("amp", None, "bf16", lr=0.01),
        "compared": between("compared", 0.0, 1.0, margin=1.0),
        "inner_iterations": between("inner_iterations", 1, 3, iterations=1),
        "margin": between("margin", 0.0001, 1.0, compared=1.0),
        "weight_decay": between("weight_decay", 0.0, 1.0, lr=0.01),
    },
    "ifpl": of_pseudo_labels(pseudo_shots=10),
    "kgcoop": {**LENGTH, "weight_decay": between("weight_decay", 0.0, 0.5, lr=1.0)},
    "lafter": {
        "preset": between("preset", None, "oxford_flowers", text_steps=None, epochs=1),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.1),
    },
    "lit": of_training("clip", "siglip", lr=3.0, epochs=8),
    "lora": {
        **of_training("cross-entropy", "clip", lr=0.03, epochs=6),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.1),
        "clip_grad": between("clip_grad", None, 1e-4),
        "iterations": between("iterations", 1, 5, epochs=None),
    },
    "linear-probe": {"steps": between("steps", 0, 8, ties="published")},
    "lp-plus-plus": {"accumulate": between("accumulate", True, False, alpha_every=1)},
    "mean-pool": of_pairs("siglip"),
    "pair-projection": {
        "loss": between("loss", None, "siglip", lr=1e-3),
        "loss_options": between("loss_options", None, {"clip": {"label_smoothing": 0.5}}, loss="clip", lr=1e-3),
    },
    "maple": {
        **of_training("cross-entropy", "clip", lr=0.05, epochs=6),
        "select": between("select", "last", "best_val", lr=0.1, epochs=4),
    },
    "mug": {
        **of_pairs("teach-text"),
        "towers": between("towers", None, "stan", **OF_TOWERS),
        "tower_options": between("tower_options", {"depth": 1}, {"depth": 2}, towers="stan", **OF_TOWERS),
        "weight_decay": between("weight_decay", 0.0, 9.0, lr=0.1, epochs=5),
    },
    "pomp": {**STARTING, "correction": between("correction", "ln", None, sampled_classes=2)},
    "proker": {
        "most_rows": between("most_rows", 1, None),
        "ties": between("ties", "plateau", "published", search_penalty=(0.001, 10.0)),
    },
    "prompt-src": {
        **of_training("cross-entropy", "clip", lr=0.03, epochs=6, gpa=False),
        "select": between("select", "last", "best_val", lr=0.01, epochs=4),
        "ema": between("ema", None, 0.5, gpa=False),
        "gpa_std": between("gpa_std", 0.1, 2.0, epochs=4),
    },
    "real-linear": {
        "use_shots": between("use_shots", False, True, **OF_FOLDER),
        "per_class": between("per_class", None, 1, **OF_FOLDER),
    },
    "reclip": {
        "weight_decay": between("weight_decay", 0.0, 1.0, lr=0.1),
        "amp": between("amp", None, "bf16", lr=0.1),
        "image_loss": between("image_loss", "mean", "released", lr=0.1),
    },
    "s3a": {
        "amp": between("amp", None, "bf16", lr=10.0),
        "clusters": between("clusters", 2, 6, lr=10.0, structure=5.0),
        "fixed_epochs": between("fixed_epochs", 0, 2, clusters=2, candidates=6, lr=10.0, structure=5.0, epochs=1),
        "rounds": between("rounds", 1, 3, clusters=2, lr=10.0, structure=5.0, epochs=1),
    },
    "ss-text": {
        "fixed_lambda": between("fixed_lambda", 0.1, 10.0, variant="fixed"),
        "least_lambda": between("least_lambda", 0.0, 100.0),
    },
    "stat-a": {"inner_iterations": between("inner_iterations", 1, 2, iterations=1)},
    "taskres": {"weight_decay": between("weight_decay", 0.0, 1.0, lr=10.0)},
    "tda": {
        "negative_alpha": between("negative_alpha", 0.1, 10.0, **OF_NEGATIVES),
        "negative_beta": between("negative_beta", 0.1, 10.0, **OF_NEGATIVES),
        "mask_bounds": between("mask_bounds", (0.0, 1.0), (0.0, 0.01), entropy_bounds=(0.0, 1.0), negative_alpha=10.0),
        "entropy_bounds": between(
            "entropy_bounds", (0.0, 1.0), (0.9, 1.0), mask_bounds=(0.0, 1.0), negative_alpha=10.0
        ),
        "negative_slots": between("negative_slots", 0, 3, **OF_NEGATIVES),
    },
    "temporal-adapter": {
        "degree": between("degree", 1, 3, use="order"),
        "hidden": between("hidden", 8, 16, use="order"),
    },
    "testa": {
        **of_training("cross-entropy", "clip", lr=0.01, epochs=8),
        "inflection": between("inflection", -1.0, 1.0, merge_patches=1),
        "merge_frames": between("merge_frames", 0, 1, also=("parts",), lr=0.01),
    },
    "tip-adapter": OF_SEARCH,
    "tip-adapter-f": {
        **OF_SEARCH,
        "eps": between("eps", 1e-4, 1.0, lr=0.1),
        "weight_decay": between("weight_decay", 0.0, 10.0, lr=0.1),
        "select": between("select", "last", "best_val", lr=0.5, epochs=10),
    },
    "tip-x": {"use_shots": between("use_shots", False, True, **OF_FOLDER)},
    "tpt": LENGTH,
    "transclip": {
        "inner_iterations": between("inner_iterations", 1, 3, iterations=2),
        "confident_images": between("confident_images", 1, 4, mode="zero-shot", iterations=1),
    },
    "two-stage": {"r": between("r", 1, 2, tune="lora")},
    "vpt": of_training("cross-entropy", "clip", lr=0.01, epochs=6),
    "open-vclip": {
        **of_training("cross-entropy", "clip", lr=0.005, epochs=8),
        "clip_grad": between("clip_grad", None, 1e-4),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.01),
        "average_from": between("average_from", 1, 3, lr=0.05, epochs=4, patching_ratio=0.0),
        "sample_range": between("sample_range", (0.0, 0.1), (0.9, 1.0), lr=0.05, epochs=4, patching_ratio=0.0),
        "loss_ratio": between("loss_ratio", 0.0, 5.0, lr=0.05, epochs=4, patching_ratio=0.0),
    },
    "stan": {
        **of_training("cross-entropy", "clip", lr=0.005, epochs=5),
        "clip_grad": between("clip_grad", None, 1e-4, lr=0.05),
    },
    "vifi-clip": {
        **of_training("cross-entropy", "clip", lr=0.002, epochs=8),
        "clip_grad": between("clip_grad", None, 1e-4),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.01),
    },
    "x-clip": {
        **of_training("cross-entropy", "clip", lr=0.01, epochs=5),
        "clip_grad": between("clip_grad", None, 1e-4),
        "weight_decay": between("weight_decay", 0.0, 5.0, lr=0.01),
    },
    "wca": {"templates": between("templates", ("a photo of a {}.",), ("a {} here.",))},
    "zero": {
        "augmix": between("augmix", False, True, temperature=0.01, selection=1.0),
        "crop_scale": between("crop_scale", (0.9, 1.0), (0.01, 0.02), temperature=0.01, selection=1.0),
        "selection": between("selection", 0.3, 1.0, temperature=0.01),
    },
    "wise-ft": {"clip_grad": between("clip_grad", None, 1e-4)},
    "zero-shot": {"debias_mean": between("debias_mean", "geometric", "arithmetic", debias="content-free")},
}
"""Of options that change no result by themselves: two settings that differ in one alone."""
