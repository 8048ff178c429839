"""Peak memory of labelling volumes: one of 512 x 512 x 600 voxels beside one of 64 x 64 x 64.

    python benchmarks/volume_memory.py

Each is labelled in its own process in windows of 64 voxels, with three scores of each voxel that cost nothing, so that
what is measured is what grows with the volume: the peak of resident memory, files mapped into it included. The files
are compressed; labels are written beside them as NIfTI.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from usage import print_help

SIZES = ((64, 64, 64), (512, 512, 600))
PATCH = (64, 64, 64)


def write_volume(path: Path, size: tuple[int, int, int]) -> None:
    """A smooth volume of int16, written slice by slice."""
    import gzip

    import nibabel

    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).header
    header.set_data_shape(size)
    header["vox_offset"] = 352
    x, y = (np.sin(np.arange(n) / 20) for n in size[:2])
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(header.binaryblock + bytes(4))
        for z in range(size[2]):
            plane = 300 * np.sin(z / 20) + 200 * x[:, None] + 200 * y[None]
            out.write(plane.astype(np.int16).tobytes(order="F"))


def measure(size: tuple[int, int, int]) -> dict[str, float]:
    """Peak GB and seconds."""
    import torch
    from prompt_memory import peak_gb

    from vladapt.domains.medical.segmenting import CLASSES, Preprocessing, ScoreRule, write_labels
    from vladapt.domains.medical.segmenting.saving import write_label_volume
    from vladapt.domains.medical.volumes import Slabs

    def network(patches: torch.Tensor) -> torch.Tensor:
        return torch.cat([patches, -patches, patches / 2], dim=1)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        write_volume(path, size)
        started = time.perf_counter()
        volume, how = Slabs([path]), Preprocessing((1.0, 1.0, 1.0), ({},))
        decide, device = ScoreRule(CLASSES, (1, 2)), torch.device("cpu")
        with torch.no_grad():
            labels = write_labels(volume, how, PATCH, network, decide, Path(folder) / "labels.raw", device)
        write_label_volume(volume, labels, Path(folder) / "labels.nii.gz")
        return {"gb": peak_gb(), "seconds": time.perf_counter() - started}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(tuple(map(int, sys.argv[1].split("x"))))))
        return
    peaks = []
    for size in SIZES:
        command = [sys.executable, __file__, "x".join(map(str, size))]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        peaks.append(told["gb"])
        print(f"{' x '.join(map(str, size))}: peak {told['gb']:.2f} GB, {told['seconds']:.0f} s")
    print(f"the large one takes {peaks[1] - peaks[0]:.2f} GB more")


if __name__ == "__main__":
    print_help(__doc__)
    main()
