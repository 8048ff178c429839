"""Volume segmentation beside a loop of MONAI written out, with the same network, seed and crops.

    python benchmarks/volume_segmentation.py [--data FOLDER --class-names a,b] [--steps 300] [--rounds 7]

Both train MONAI's DynUNet on the training volumes of the set, ours by `vladapt fit` (mmengine's Runner, patches from
the cache), the loop by MONAI's readers and transforms, its loss and `sliding_window_inference`. A table on stdout has

* how far patches are apart, and weights after 20 steps;
* the same where the loop's volumes go through MONAI's NormalizeIntensity, which computes in float32: momentum makes its
  rounding grow, so that two loops of MONAI that differ in it alone are as far apart;
* CPU seconds of 10 steps, medians of interleaved rounds;
* Dice of each structure on the test volumes after --steps of them;
* voxels of a volume of 128 x 128 x 128 that are labelled otherwise slab by slab than by MONAI's inferer of the whole.

Without --data the sample is taken.
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
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.config_training.runner import train_plan
from vladapt.domains.medical.segmenting import case_scores
from vladapt.domains.medical.segmenting.running import Labeller, evaluate_volumes
from vladapt.domains.medical.tasks.volume_segmentation import VolumeSegmentation
from vladapt.domains.medical.volumes import Slabs
from vladapt.registry import DATASETS

ROUND, FIRST = 10, 20
PATCHES = 20
LARGE = (128, 128, 128)


class MonaiLoop:
    """A training of a network by MONAI alone, on the crops that a plan draws.

    Args:
        plan: of the task, whose network, patches, optimizer and steps it takes.
        seed: of the weights.
        dtype: of weights and patches.
        exact: normalise in float64; else by MONAI's transform, which computes in float32.
    """

    def __init__(self, plan: Config, seed: int, dtype: torch.dtype = torch.float32, exact: bool = True):
        from monai.losses import DeepSupervisionLoss, DiceCELoss
        from monai.networks.nets import DynUNet

        set_random_seed(seed)
        options = {key: value for key, value in plan.model.network.to_dict().items() if key != "type"}
        self.network = DynUNet(**options).to(dtype)
        self.dtype, self.exact = dtype, exact
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
            scores = self.network(torch.stack(images).to(self.dtype))
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
            self.volumes[draw.place] = loaded(case["files"][0], case["mask"], self.spacing, self.exact)
        return tuple(cropped(each, draw.start, self.patch).flip(draw.mirrored) for each in self.volumes[draw.place])

    @torch.no_grad()
    def labels(self, file: Path) -> np.ndarray:
        """(Z, Y, X) of a volume, on its own grid."""
        from monai.inferers import sliding_window_inference

        image, _ = loaded(file, file, self.spacing, self.exact)
        self.network.eval()
        how = {"overlap": 0.5, "mode": "gaussian", "sigma_scale": 0.125}
        scores = sliding_window_inference(image[None].to(self.dtype), self.patch, 1, self.network, **how)
        return interpolate(scores, size=in_ras(file).shape[1:], mode="trilinear")[0].argmax(dim=0).numpy()


def in_ras(file: str | Path) -> Any:
    """(1, Z, Y, X) of a file, by MONAI."""
    from monai.transforms import LoadImage, Orientation

    codes = (("L", "R"), ("P", "A"), ("I", "S"))
    volume = Orientation("RAS", labels=codes)(LoadImage(ensure_channel_first=True)(file))
    return volume.permute(0, 3, 2, 1)


def loaded(file: str | Path, mask: str | Path, spacing: Sequence[float], exact: bool) -> tuple[Tensor, Tensor]:
    """A volume and its labels in the spacing of a set, normalised."""
    from monai.transforms import NormalizeIntensity

    image, labels = in_ras(file), in_ras(mask)
    zooms = image.pixdim.flip(0)
    size = [max(1, round(n * float(z) / s)) for n, z, s in zip(image.shape[1:], zooms, spacing)]
    if exact:
        image = image.as_tensor().double()
        image = (image - image.mean()) / image.std(correction=0)
    else:
        image = NormalizeIntensity(channel_wise=True)(image).as_tensor()
    image = interpolate(image[None], size=size, mode="trilinear")[0].float()
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


def ours(plan: Config, steps: int, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The task's training of a plan that is stopped after some steps of its schedule."""

    def converted(model: nn.Module) -> None:
        def inputs_too(_: nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            patches = {"inputs": named["inputs"].to(dtype)} if "inputs" in named else {}
            return tuple(each.to(dtype) for each in args), {**named, **patches}

        model.to(dtype).register_forward_pre_hook(inputs_too, with_kwargs=True)

    plan = Config({**plan.to_dict(), "train_cfg": {"by_epoch": False, "max_iters": steps}})
    with TemporaryDirectory() as folder:
        quietly = Reporter(quiet=True)
        return train_plan(plan, Path(folder), seed, torch.device("cpu"), quietly, change=converted)[0]


def largest_difference(model: nn.Module, loop: MonaiLoop) -> float:
    """The largest difference of the weights."""
    pairs = zip(model.networks[0].state_dict().values(), loop.network.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def patch_difference(loop: MonaiLoop) -> float:
    """The largest difference of the values of patches; infinite where labels differ."""
    largest = 0.0
    for number in range(PATCHES):
        (image, labels), own = loop.sample(number), loop.draws[number]
        if not torch.equal(labels.to(torch.uint8), own["labels"]):
            return float("inf")
        largest = max(largest, float((image - own["inputs"]).abs().max()))
    return largest


def other_labels(model: nn.Module, loop: MonaiLoop, file: Path) -> tuple[int, list[int]]:
    """Voxels of a large volume that are labelled otherwise, and how many have each label.

    Args:
        file: a volume of the set, of whose copies the large one is made.
    """
    import nibabel

    small = nibabel.load(file)
    values = np.asarray(small.dataobj)
    copies = [-(-large // side) for large, side in zip(LARGE, values.shape)]
    x, y, z = LARGE
    with TemporaryDirectory() as folder:
        large = Path(folder) / "large.nii"
        nibabel.save(nibabel.Nifti1Image(np.tile(values, copies)[:x, :y, :z], small.affine), large)
        labels = np.array(Labeller(model).labels(Slabs([large]), Path(folder) / "labels.raw"))
        return int((labels != loop.labels(large)).sum()), np.bincount(labels.ravel()).tolist()


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
    parser.add_argument("--patch-size")
    asked = parser.parse_args()
    own = {"width": asked.width, "patch_size": asked.patch_size, "class_names": asked.class_names}
    data, plan, recipe = planned(asked.data, asked.steps, **own)
    size = " x ".join(map(str, plan.vladapt.patch_size))
    print(f"{data.name}: patches of {size}, width {asked.width}, {torch.get_num_threads()} threads\n")
    print("| | `vladapt fit` | MONAI's loop | difference |\n| --- | ---: | ---: | ---: |", flush=True)
    loop, rounded = MonaiLoop(plan, recipe.seed), MonaiLoop(plan, recipe.seed, exact=False)
    loop.train(FIRST)
    model = ours(plan, FIRST, recipe.seed)
    told("values of patches", patch_difference(loop))
    told(f"weights after {FIRST} steps", largest_difference(model, loop))
    rounded.train(FIRST)
    told("values of patches, NormalizeIntensity", patch_difference(rounded))
    told(f"weights after {FIRST} steps, NormalizeIntensity", largest_difference(model, rounded))
    times = [timed_round(plan, recipe.seed, loop) for _ in range(asked.rounds)]
    if times:
        own, theirs = (f"{statistics.median(of):.2f}" for of in zip(*times))
        ratio = statistics.median(one / other for one, other in times)
        print(f"| CPU seconds of {ROUND} steps, {len(times)} rounds | {own} | {theirs} | {ratio:.3f} x |", flush=True)
    if asked.steps > FIRST:
        loop.train(asked.steps - loop.done)
        model = ours(plan, asked.steps, recipe.seed)
        scores = evaluate_volumes(model, data, lambda done, total: None).metrics
        for name, other in zip(data.class_names, dice_of(loop, data)):
            one = scores[f"dice_{name}"]
            print(f"| Dice of {name} after {asked.steps} steps | {one:.4f} | {other:.4f} | {one - other:+.4f} |")
        told(f"weights after {asked.steps} steps", largest_difference(model, loop))
    other, counts = other_labels(model, loop, Path(data.split("test")[0].source))
    print(f"| voxels of {' x '.join(map(str, LARGE))} labelled otherwise, of {counts} | | | {other} |")


def told(what: str, difference: float) -> None:
    print(f"| {what} | | | {difference:.2g} |", flush=True)


def timed_round(plan: Config, seed: int, loop: MonaiLoop) -> tuple[float, float]:
    """CPU seconds of some steps, ours and the loop's, whose volumes are in memory."""
    again = MonaiLoop(plan, seed)
    again.volumes = loop.volumes
    theirs = seconds(lambda: again.train(ROUND))
    return seconds(lambda: ours(plan, ROUND, seed)), theirs


if __name__ == "__main__":
    main()
