"""A training in a process of its own, for tests that kill it or run it on several ranks.

Argument: a JSON object {"spec", "folder", "losses", "loss_options", "settings", "kill_at", "resume", "count",
"shards", "disk"}; in "folder", {rank} becomes the process's number. "shards" are paths with counts, read in a row.
"disk" is what happens where checkpoints are sharded: "full" that the disk of rank 1 is full from the second on,
"slow" that each waits for the training's next step. Rank 0 writes the weights, the losses' state and the history to
`folder`/done.pt.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from toy_pairs import ToyPairs

from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.shard_set import ShardPairs
from vladapt.core.runtime.distributed import is_main, rank, run_on_all, start_from_environment, stop
from vladapt.core.training import sharded_checkpoints
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import StreamedSource
from vladapt.core.training.train import TrainingTask, train


def streamed(counts: dict[str, int], **options) -> StreamedSource:
    firsts = np.zeros(len(counts), np.int64)
    pairs = ShardPairs(tuple(counts), firsts, np.array(list(counts.values())), max_pixels=10_000, **options)
    return StreamedSource(pairs, CaptionSampler("first"))


def main(job: dict) -> None:
    start_from_environment()
    backbone = load_backbone(job["spec"], device="cpu")
    messages = []

    stepped = threading.Event()
    WRITES[job.get("disk")](stepped, messages)

    def on_step(done: int, total: int, values: dict) -> None:
        stepped.set()
        if done == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    def validate() -> float:
        return float(backbone.encode_text(["a red area"])[0, 0])

    task = TrainingTask(
        streamed(**job["shards"]) if "shards" in job else ToyPairs(job.get("count", 24)),
        job["losses"],
        job.get("loss_options", {}),
        validate=validate if job.get("validate") else None,
    )
    settings = TrainingSettings(**job["settings"])
    sharded_checkpoints.PATIENCE_S = 2.0
    folder = Path(job["folder"].replace("{rank}", str(rank())))
    callbacks = {"on_step": on_step, "on_message": messages.append}
    done = train(backbone, task, settings, folder, resume=job.get("resume", False), **callbacks)
    state = {
        "weights": backbone.model.state_dict(),
        "losses": done.objective.state_dict(),
        "history": done.history,
        "said": messages,
    }
    run_on_all(lambda: torch.save(state, folder / "done.pt") if is_main() else None)  # none leaves before the others
    stop()


def full_from_the_second(stepped: threading.Event, messages: list) -> None:
    original, written = sharded_checkpoints.write_safetensors, []

    def write(path: Path, tensors: dict) -> str:
        written.append(path)
        if rank() == 1 and len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, tensors)

    sharded_checkpoints.write_safetensors = write


def after_the_next_step(stepped: threading.Event, messages: list) -> None:
    original = sharded_checkpoints.write_safetensors

    def write(path: Path, tensors: dict) -> str:
        stepped.clear()
        if not path.parent.name.endswith("4.partial"):  # after the last step there is none
            messages.append(f"{path.parent.name}: {stepped.wait(20)}")
        return original(path, tensors)

    sharded_checkpoints.write_safetensors = write


WRITES = {None: lambda *_: None, "full": full_from_the_second, "slow": after_the_next_step}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
