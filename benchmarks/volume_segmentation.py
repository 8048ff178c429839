"""Volume segmentation beside a loop of MONAI written out, with the same network, seed and crops.

    python benchmarks/volume_segmentation.py [--data FOLDER --class-names a,b] [--steps 300] [--rounds 7]

Both train MONAI's DynUNet on the training volumes of the set, ours by `vladapt fit` (mmengine's Runner, patches from
the cache), the loop by MONAI's readers and transforms, its loss and `sliding_window_inference`. It prints how far the
weights are apart after 20 steps, the Dice of each structure on the test volumes after --steps of them, and the CPU
seconds of a step in interleaved rounds of 10 steps. Without --data the sample is taken.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine import Config
from mmengine.runner import set_random_seed
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from vladapt import load_domain
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.verify import FileHashes
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.config_training.runner import train_plan
from vladapt.domains.medical.segmenting import case_scores
from vladapt.domains.medical.segmenting.running import evaluate_volumes
from vladapt.domains.medical.tasks.volume_segmentation import VolumeSegmentation
from vladapt.registry import DATASETS

ROUND = 10


class MonaiLoop:
    """A training of a network by MONAI alone, on the crops that a plan draws.

    Args:
        plan: of the task, whose network, patches, optimizer and steps it takes.
        seed: of the weights.
    """

    def __init__(self, plan: Config, seed: int):
        from monai.losses import DeepSupervisionLoss, DiceCELoss
        from monai.networks.nets import DynUNet

        set_random_seed(seed)
        options = {key: value for key, value in plan.model.network.to_dict().items() if key != "type"}
        self.network = DynUNet(**options)
        self.loss = DeepSupervisionLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True))
        how = {key: value for key, value in plan.optim_wrapper.optimizer.to_dict().items() if key != "type"}
        self.optimizer = torch.optim.SGD(self.network.parameters(), **how)
        self.steps, self.rate = plan.train_cfg.max_iters, how["lr"]
        self.clip = plan.optim_wrapper.clip_grad.max_norm
        self.batch = plan.train_dataloader.batch_size
        self.draws = DATASETS.build(plan.train_dataloader.dataset)
        self.spacing = plan.vladapt.preprocessing.spacing
        self.patch = plan.vladapt.patch_size
        self.volumes: dict[int, tuple[Tensor, Tensor]] = {}
        self.done = 0

    def train(self, steps: int) -> None:
        """So many steps more."""
        self.network.train()
        for step in range(self.done, self.done + steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * (1 - step / self.steps) ** 0.9
            images, labels = zip(*(self.sample(step * self.batch + n) for n in range(self.batch)))
            scores = self.network(torch.stack(images))
            scores = list(scores.unbind(dim=1)) if scores.ndim == 6 else [scores]
            loss = self.loss(scores, torch.stack(labels))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            self.optimizer.step()
        self.done += steps

    def sample(self, number: int) -> tuple[Tensor, Tensor]:
        draw = self.draws.draw(number)
        if draw.place not in self.volumes:
            case = self.draws.cases[draw.place]
            self.volumes[draw.place] = loaded(case["files"][0], case["mask"], self.spacing)
        return tuple(cropped(each, draw.start, self.patch).flip(draw.mirrored) for each in self.volumes[draw.place])

    @torch.no_grad()
    def labels(self, file: Path) -> np.ndarray:
        """(Z, Y, X) of a volume, on its own grid."""
        from monai.inferers import sliding_window_inference

        image, _ = loaded(file, file, self.spacing)
        self.network.eval()
        scores = sliding_window_inference(
            image[None], self.patch, 1, self.network, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )
        return interpolate(scores, size=in_ras(file).shape[1:], mode="trilinear")[0].argmax(dim=0).numpy()


def in_ras(file: str | Path) -> Any:
    """(1, Z, Y, X) of a file, by MONAI."""
    from monai.transforms import LoadImage, Orientation

    codes = (("L", "R"), ("P", "A"), ("I", "S"))
    volume = Orientation("RAS", labels=codes)(LoadImage(ensure_channel_first=True)(file))
    return volume.permute(0, 3, 2, 1)


def loaded(file: str | Path, mask: str | Path, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A volume and its labels in the spacing of a set, normalised by MONAI."""
    from monai.transforms import NormalizeIntensity

    image, labels = in_ras(file), in_ras(mask)
    zooms = image.pixdim.flip(0)
    size = [max(1, round(n * float(z) / s)) for n, z, s in zip(image.shape[1:], zooms, spacing)]
    image = NormalizeIntensity()(image).as_tensor().float()
    image = interpolate(image[None], size=size, mode="trilinear")[0]
    labels = interpolate(labels.as_tensor()[None].float(), size=size, mode="nearest-exact")[0]
    return image, labels


def cropped(volume: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """A patch, zero outside the volume."""
    sides = [(max(0, -a), max(0, a + s - n)) for a, s, n in zip(start, size, volume.shape[1:])]
    padded = pad(volume, [each for side in sides[::-1] for each in side])
    first = [a + before for a, (before, _) in zip(start, sides)]
    z, y, x = (slice(a, a + s) for a, s in zip(first, size))
    return padded[:, z, y, x]


def planned(data: str, steps: int, **options: Any) -> tuple[Any, Config, Any]:
    """The task's data with splits, its plan, and its recipe."""
    domain = load_domain("medical")
    names = options.pop("class_names", None)
    reading = {"data.class_names": names} if names else {}
    flags = {"domain": "medical", "task": "volume-segmentation", "data.path": data, **reading}
    task = VolumeSegmentation(domain)
    own = {"augment": "mirror", "steps": steps, **options}
    recipe = task.settled(resolve(flags=flags).with_(task_options=own))
    if data == "sample":
        read = domain.sample(task.name)
    else:
        read = domain.read(data, task.name, **recipe.reading)
    with TemporaryDirectory() as folder:
        read = assign_splits(read, seed=0, hashes=FileHashes(Path(folder) / "hashes"))
    return read, task.plan(recipe, read, None), recipe


def ours(plan: Config, steps: int, seed: int) -> nn.Module:
    """The task's training of a plan that is stopped after some steps of its schedule."""
    plan = Config({**plan.to_dict(), "train_cfg": {"by_epoch": False, "max_iters": steps}})
    with TemporaryDirectory() as folder:
        return train_plan(plan, Path(folder), seed, torch.device("cpu"), Reporter(quiet=True))[0]


def largest_difference(model: nn.Module, loop: MonaiLoop) -> float:
    """The largest difference of the weights."""
    pairs = zip(model.networks[0].state_dict().values(), loop.network.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def dice_of(loop: MonaiLoop, data: Any) -> list[float]:
    """Of each structure, the mean over the test volumes."""
    values = [(place,) for place in range(1, 1 + len(data.class_names))]
    rows = []
    for item in data.split("test"):
        truth, found = in_ras(item.target.file)[0].numpy(), loop.labels(item.source)
        rows.append(case_scores(truth, found, item.target.values, values, (1, 1, 1), 1.0).values[:, 0])
    return np.nanmean(rows, axis=0).tolist()


def seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--class-names")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=8)
    asked = parser.parse_args()
    data, plan, recipe = planned(asked.data, asked.steps, width=asked.width, class_names=asked.class_names)
    print(f"{data.name}: patch {plan.vladapt.patch_size}, width {asked.width}, {torch.get_num_threads()} threads")
    loop = MonaiLoop(plan, recipe.seed)
    loop.train(20)
    print(f"weights after 20 steps differ by {largest_difference(ours(plan, 20, recipe.seed), loop):.2g}")
    theirs, own = [], []
    for _ in range(asked.rounds):
        again = MonaiLoop(plan, recipe.seed)
        again.volumes = loop.volumes
        theirs.append(seconds(lambda again=again: again.train(ROUND)))
        own.append(seconds(lambda: ours(plan, ROUND, recipe.seed)))
    ratio = statistics.median(one / other for one, other in zip(own, theirs))
    print(f"CPU seconds of {ROUND} steps: {statistics.median(own):.2f}, MONAI's loop {statistics.median(theirs):.2f}")
    print(f"ratio {ratio:.3f}")
    if asked.steps > 20:
        loop.train(asked.steps - loop.done)
        scores = evaluate_volumes(ours(plan, asked.steps, recipe.seed), data, lambda done, total: None).metrics
        for name, other in zip(data.class_names, dice_of(loop, data)):
            print(f"Dice of {name} after {asked.steps} steps: {scores[f'dice_{name}']:.4f}, MONAI's loop {other:.4f}")


if __name__ == "__main__":
    main()
