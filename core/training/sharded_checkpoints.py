"""Checkpoints of weights that are sharded over processes, by torch.distributed.checkpoint (DCP).

A checkpoint is a folder `step-00000012`: each process writes its shards into one file of safetensors, rank 0 an
`index.json` of what lies where and of all that is no tensor, with the sha256 of every file. The folder gets its name
when all of it is on disk. DCP plans who writes and who reads what, so that any number of processes may go on from it.

DCP's own storage keeps its plan as a pickle, which could run code of whoever wrote the folder, and its writer of
safetensors keeps tensors only and needs a newer torch than ours. Hence the storage here: JSON and safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ..errors import DataError
from ..runtime.distributed import all_gather_json, rank, run_on_all, world_size
from ..runtime.files import sync_folder
from .checkpoints import INDEX, read_index

PATIENCE_S = 60.0
"""How long a new file may take to show on other machines."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names."""


class ShardedSaver:
    """Writes checkpoints while the training goes on: `save` copies the shards to host memory and returns.

    A group of its own carries what the processes tell each other meanwhile; all of them must call the same methods.

    Args:
        folder: of the checkpoints, one that all processes share.
        after: called on rank 0 with a folder that has been written.
    """

    def __init__(self, folder: Path, after: Callable[[Path], None]):
        self.folder, self.after = folder, after
        self._group: dist.ProcessGroup | None = None
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Begin a checkpoint, after the one before is written.

        Args:
            step: optimiser steps done.
            tensors: sharded ones, and others that are the same on all processes.
            facts: JSON-able; those of rank 0 are written.

        Raises:
            OSError: the one before could not be written, on whichever process.
        """
        self.wait()
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        copies = {name: on_host(value) for name, value in tensors.items()}
        self._writing = threading.Thread(target=self._write, args=(step, copies, facts), daemon=True)
        self._writing.start()

    def wait(self) -> None:
        """Until what was begun is written.

        Raises:
            OSError: it could not be, on whichever process.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, step: int, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
        try:
            to = self.folder / f"step-{step:08d}"
            planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
            dcp.save(tensors, storage_writer=_Writer(to, facts), planner=planner, process_group=self._group)
            if rank() == 0:
                self.after(to)
        except dcp.CheckpointException as error:
            # What went wrong on the first process where something did.
            self._error = next((cause for _, (cause, _) in sorted(error.failures.items())), error)
        except Exception as error:
            self._error = error


def on_host(value: Tensor) -> Tensor:
    """A copy in host memory, sharded as the tensor is."""
    value = value.detach()
    return value.clone() if value.device.type == "cpu" else value.to("cpu")


def check_folder_shared(folder: Path) -> None:
    """Whether all processes see the same folder, which is made.

    Raises:
        DataError: on all processes: one does not.
        OSError: it cannot be written.
    """
    token = all_gather_json(os.urandom(8).hex())[0]
    mark = folder / f".shared-{token}"

    def leave_mark() -> None:
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()

    run_on_all(leave_mark)
    seen = all_gather_json(_appears(mark))
    if rank() == 0:
        mark.unlink(missing_ok=True)
    if not all(seen):
        raise DataError(
            f"{folder}: rank {seen.index(False)} does not see what rank 0 writes there; with parallel=fsdp each "
            "process writes its part of a checkpoint, so give all of them one --out that they share"
        )


def _appears(path: Path) -> bool:
    """A network's file system may show a new file a little later; listing its folder makes it look."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.2)):
        with suppress(OSError):
            if path.name in os.listdir(path.parent):
                return True
        pause.wait(0.2)
    return False


def load_sharded(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, sharded or not, with those of the same names in a checkpoint; to be called on all processes.

    Args:
        tensors: of the shapes that the index tells.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    several = world_size() > 1
    group = dist.new_group(backend="gloo") if several else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process alone is one process alone
        dcp.load(tensors, storage_reader=_Reader(folder), planner=planner, process_group=group, no_dist=not several)


class _Writer(dcp.StorageWriter):
    """Writes into a hidden folder beside the one that is to be, which it becomes at the end."""

    def __init__(self, to: Path, facts: Mapping[str, Any]):
        self.to, self.facts = to, facts
        self.partial = to.with_name(f".{to.name}.partial")

    def reset(self, checkpoint_id=None) -> None:
        """Nothing: there is one writer per checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return True

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)

    def prepare_local_plan(self, plan: dcp.SavePlan) -> dcp.SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        return plans

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Future[list[WriteResult]]:
        tensors = {_key(item.index): planner.resolve_data(item).detach().contiguous() for item in plan.items}
        path = self.partial / f"part-{rank():05d}.safetensors"
        digest = write_safetensors(path, tensors)
        written: Future[list[WriteResult]] = Future()
        where = {"file": path.name, "sha256": digest}
        written.set_result([WriteResult(item.index, tensors[_key(item.index)].nbytes, where) for item in plan.items])
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for of_rank in results for result in of_rank]
        file_of = {result.index: result.storage_data["file"] for result in written}
        tensors = {
            name: {
                "dtype": _dtype_name(about.properties.dtype),
                "shape": list(about.size),
                "chunks": [
                    {"offset": [*chunk.offsets], "shape": [*chunk.sizes], "file": file}
                    for chunk in about.chunks
                    if (file := file_of.get(MetadataIndex(name, chunk.offsets))) is not None
                ],
            }
            for name, about in metadata.state_dict_metadata.items()
        }
        files = {result.storage_data["file"]: result.storage_data["sha256"] for result in written}
        index = json.dumps({"tensors": tensors, "files": files, "facts": self.facts}).encode()
        write_durably(self.partial / INDEX, index)
        write_durably(self.partial / f"{INDEX}.sha256", hashlib.sha256(index).hexdigest().encode())
        if self.to.exists():  # damaged, and passed over by the resume that came here again
            shutil.rmtree(self.to)
        os.replace(self.partial, self.to)
        sync_folder(self.to.parent)


class _Reader(dcp.StorageReader):
    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[MetadataIndex, Path] = {}

    def reset(self, checkpoint_id=None) -> None:
        """Nothing: there is one reader per checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return True

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors = {}
        for name, about in read_index(self.folder)["tensors"].items():
            chunks = [ChunkStorageMetadata(torch.Size(c["offset"]), torch.Size(c["shape"])) for c in about["chunks"]]
            properties = TensorProperties(dtype=DTYPES[about["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(about["shape"]), chunks)
            for chunk in about["chunks"]:
                self.files[MetadataIndex(name, torch.Size(chunk["offset"]))] = self.folder / chunk["file"]
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: `read_metadata`, which every process calls, did it."""

    def prepare_local_plan(self, plan: dcp.LoadPlan) -> dcp.LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[dcp.LoadPlan]) -> list[dcp.LoadPlan]:
        return plans

    def read_data(self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        for path in sorted({self.files[item.storage_index] for item in plan.items}):
            with safe_open(path, framework="pt") as handle:
                for item in plan.items:
                    if self.files[item.storage_index] == path:
                        self._read(handle, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, handle, item: dcp.ReadItem, planner: dcp.LoadPlanner) -> None:
        key, places = _key(item.storage_index), zip(item.storage_offsets, item.lengths)
        cut = tuple(slice(start, start + length) for start, length in places)
        target = planner.resolve_tensor(item).detach()
        target.copy_(handle.get_slice(key)[cut] if cut else handle.get_tensor(key))
        planner.commit_tensor(item, target)


def _key(index: MetadataIndex) -> str:
    """Name of a chunk in its file."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, each in DTYPES.items() if each == dtype)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write contiguous tensors of the CPU, durably, as a file of safetensors; its sha256, which costs no reading.

    Raises:
        OSError: as the system says it, which the library does not.
    """
    header, end = {}, 0
    tensors = dict(sorted(tensors.items(), key=lambda named: -named[1].element_size()))  # each then lies aligned
    for name, tensor in tensors.items():
        about = {"dtype": _dtype_name(tensor.dtype), "shape": list(tensor.shape)}
        header[name] = {**about, "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as handle:
        for block in (len(head).to_bytes(8, "little"), head, *map(_bytes, tensors.values())):
            handle.write(block)
            digest.update(block)
        handle.flush()
        os.fsync(handle.fileno())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def write_durably(path: Path, content: bytes) -> None:
    """On disk when it returns."""
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
