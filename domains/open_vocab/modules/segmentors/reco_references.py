"""Reference embeddings of concepts in a file, with what they were made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .....core.contracts.errors import ConfigError, DataError
from .....core.runtime.files import write_cached


class ReferenceFile:
    """Concepts and their reference embeddings, kept for the next process.

    Args:
        path: a .safetensors file, there or not yet; None keeps nothing.
        made_by: all that decides about an embedding, JSON-able.

    Raises:
        ConfigError: the file was made by other options. DataError: it is none of this kind.
    """

    def __init__(self, path: str | Path | None, made_by: dict[str, Any]):
        self.path, self.made_by = None if path is None else Path(path), made_by
        self._rows: dict[str, Tensor] = {}
        self._new = False
        if self.path is None:
            return
        if self.path.suffix != ".safetensors":
            raise ConfigError(f"references={self.path}: is written as .safetensors; name it so")
        if self.path.is_file():
            self._rows = self._read()

    def get(self, prompts: Sequence[str]) -> Tensor | None:
        """(D,) of the concept that these prompts ask for, or None."""
        return self._rows.get(_key(prompts))

    def put(self, prompts: Sequence[str], row: Tensor) -> None:
        """Keep a concept's embedding; `write` puts it into the file."""
        self._rows[_key(prompts)], self._new = row.detach().float().cpu(), True

    def write(self) -> None:
        """Write all there are, if some are new. Raises DataError where that is refused."""
        if self.path is None or not self._new:
            return
        facts = {"made_by": json.dumps(self.made_by), "concepts": json.dumps(list(self._rows))}
        write_cached(self.path, save({"references": torch.stack(list(self._rows.values()))}, metadata=facts))

    def _read(self) -> dict[str, Tensor]:
        try:
            with safe_open(str(self.path), framework="pt") as file:
                facts, rows = file.metadata() or {}, file.get_tensor("references")
            made_by, concepts = json.loads(facts["made_by"]), json.loads(facts["concepts"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"references={self.path}: no file of references ({reason}); give another name") from None
        other = [name for name in self.made_by if made_by.get(name) != self.made_by[name]]
        if other:
            raise ConfigError(
                f"references={self.path}: made with another {', '.join(other)}; give another file, or the same options"
            )
        self.made_by = {**made_by, **self.made_by}
        return dict(zip(concepts, rows.unbind(0), strict=True))


def _key(prompts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
