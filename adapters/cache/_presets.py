"""Published settings of Tip-Adapter, APE and ProKeR for the eleven sets of the few-shot protocol."""

from __future__ import annotations

from dataclasses import dataclass

APE_WIDTH = 1024  # of RN50, for which APE's channel counts were published


@dataclass(frozen=True)
class TipSetting:
    """Tip-Adapter's search scale (beta, alpha), alpha where none is searched, and -F's epochs."""

    search_scale: tuple[float, float] = (7, 3)
    alpha: float = 1.17
    search_step: tuple[int, int] = (200, 20)
    epochs: int = 20


@dataclass(frozen=True)
class ApeSetting:
    """APE's (`w`, `top_q`) and APE-T's (`train_*`) settings; `top_q` counts channels of RN50's 1024."""

    search_scale: tuple[float, float, float] = (7, 7, 1)
    search_step: tuple[int, int, int] = (200, 20, 20)
    alpha: float = 3.0
    top_q: float = 0.7 * APE_WIDTH
    w: tuple[float, float] = (0.5, 0.5)
    train_top_q: float = 0.8 * APE_WIDTH
    lr: float = 1e-3
    eps: float = 1e-3
    few_shot_eps: float | None = None  # with 1 or 2 shots
    epochs: int = 30


@dataclass(frozen=True)
class ProKeRSetting:
    """Ends of ProKeR's grids of beta and lambda, and their numbers of points."""

    beta: tuple[float, float] = (0.5, 3)
    penalty: tuple[float, float] = (0.001, 1)
    steps: tuple[int, int] = (20, 10)


# None stands for sets without a published setting.

TIP_SETTINGS = {
    None: TipSetting(),
    "caltech101": TipSetting((12, 5), 3),
    "dtd": TipSetting((13, 13), 2),
    "eurosat": TipSetting((12, 10), 2, epochs=100),
    "fgvc_aircraft": TipSetting((30, 30), 5),
    "food101": TipSetting((10, 10), 1.17),
    "imagenet": TipSetting((7, 3), 1.17),
    "oxford_flowers": TipSetting((50, 50), 10),
    "oxford_pets": TipSetting((7, 3), 1.17),
    "stanford_cars": TipSetting((20, 10), 3),
    "sun397": TipSetting((12, 10), 1.17),
    "ucf101": TipSetting((7, 3), 3),
}

APE_SETTINGS = {
    None: ApeSetting(),
    "caltech101": ApeSetting(alpha=1, top_q=800, w=(0.5, 0.5), train_top_q=900),
    "dtd": ApeSetting(alpha=3, top_q=400, w=(0.5, 0.5), train_top_q=700, epochs=20),
    "eurosat": ApeSetting((30, 5, 1.5), alpha=1, top_q=700, w=(0.9, 0.1), train_top_q=900, epochs=200),
    "fgvc_aircraft": ApeSetting((20, 10, 1), alpha=5, top_q=800, w=(0.1, 0.9), train_top_q=900),
    "food101": ApeSetting(alpha=0.8, top_q=700, w=(0.3, 0.7), train_top_q=900, lr=1e-4, few_shot_eps=1e-2),
    "imagenet": ApeSetting(
        (7, 7, 0.5), (200, 20, 5), alpha=2, top_q=500, w=(0.7, 0.3), train_top_q=500, lr=1e-4, epochs=20
    ),
    "oxford_flowers": ApeSetting(alpha=3, top_q=700, w=(0.4, 0.6), train_top_q=800, epochs=60),
    "oxford_pets": ApeSetting(alpha=2, top_q=800, w=(0.7, 0.3), train_top_q=800, lr=1e-4, eps=2e-3),
    "stanford_cars": ApeSetting((10, 7, 1), alpha=1, top_q=500, w=(0.6, 0.4), train_top_q=800, eps=5e-3),
    "sun397": ApeSetting((10, 7, 1), alpha=1, top_q=800, w=(0.7, 0.3), train_top_q=800, lr=1e-4),
    "ucf101": ApeSetting((10, 7, 1.5), alpha=2, top_q=700, w=(0.3, 0.7), train_top_q=800, eps=2e-3),
}

PROKER_SETTINGS = {
    None: ProKeRSetting(),
    "caltech101": ProKeRSetting(),
    "dtd": ProKeRSetting((0.1, 10), (0.001, 10), (20, 100)),
    "eurosat": ProKeRSetting(steps=(20, 100)),
    "fgvc_aircraft": ProKeRSetting(),
    "food101": ProKeRSetting(),
    "imagenet": ProKeRSetting((1.5, 3), (0.05, 0.25), (10, 10)),
    "oxford_flowers": ProKeRSetting((0.1, 10), (0.001, 10), (20, 100)),
    "oxford_pets": ProKeRSetting((0.01, 5), (0.01, 0.3), (40, 20)),
    "stanford_cars": ProKeRSetting((0.1, 10), (0.01, 1), (5, 5)),
    "sun397": ProKeRSetting((0.1, 10), (0.01, 10), (20, 10)),
    "ucf101": ProKeRSetting(),
}
