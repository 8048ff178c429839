"""A tokenizer that is part of a model's weights: a run reads its names with it, and asks no other file for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones import quiet
from ....core.errors import DataError

FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
TOKENIZER_FILES = (*FILES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""All that a tokenizer is read from."""
MOST_BYTES = 64 << 20


class HeldTokenizer(nn.Module):
    """The tokenizer of a checkpoint, as the bytes of its tokenizer.json in a buffer. They are data: nothing in them is
    executed.

    Args:
        folder: with the files of a tokenizer; None leaves it empty, until weights with one are loaded.

    Raises:
        DataError: the folder has no tokenizer that can be read.
    """

    file: Tensor

    def __init__(self, folder: str | Path | None = None):
        super().__init__()
        content = b"" if folder is None else _read(Path(folder)).encode()
        self.register_buffer("file", torch.tensor(list(content), dtype=torch.uint8))
        self._built: Any = None

    @property
    def tokenizer(self):
        """As `tokenizers` has it.

        Raises:
            DataError: it holds none, or one that cannot be read.
        """
        if self._built is None:
            from tokenizers import Tokenizer

            try:
                self._built = Tokenizer.from_str(bytes(self.file.cpu().numpy()).decode())
            except Exception as error:  # tokenizers raises plain Exceptions
                raise DataError(
                    "the model's weights hold no tokenizer that can be read; train or copy it again"
                ) from error
            self._built.no_padding()
            self._built.no_truncation()
        return self._built

    def bare(self, text: str) -> list[int]:
        """Numbers of a text's tokens, without those at its ends."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def number(self, token: str) -> int:
        """Of one token.

        Raises:
            DataError: it has no such token.
        """
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise DataError(f"the model's tokenizer has no '{token}', so it is of another model; copy the model again")
        return number

    def padded(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Numbers (N, `length`) of whole texts, those at their ends included, padded with 0, and a mask of the same
        shape, 1 for tokens. Longer texts are cut before their end."""
        self.tokenizer.enable_truncation(length)
        encoded = self.tokenizer.encode_batch(texts)
        self.tokenizer.no_truncation()
        numbers, mask = (torch.zeros(len(texts), length, dtype=torch.long) for _ in range(2))
        for row, each in enumerate(encoded):
            numbers[row, : len(each.ids)] = torch.tensor(each.ids)
            mask[row, : len(each.ids)] = 1
        return numbers.to(self.file.device), mask.to(self.file.device)

    def _load_from_state_dict(self, state, prefix, *args, **kwargs):
        file = state.get(f"{prefix}file")
        if isinstance(file, Tensor) and file.dtype == torch.uint8 and file.numel() <= MOST_BYTES:
            self.file, self._built = torch.zeros_like(file, device=self.file.device), None
        super()._load_from_state_dict(state, prefix, *args, **kwargs)


def _read(folder: Path) -> str:
    """The tokenizer of a folder in one file, whatever files it is written in."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in FILES):  # transformers would make an empty one
        raise DataError(f"{folder}: has no tokenizer ({', '.join(FILES)}); copy or download the whole folder")
    try:
        with quiet():
            read = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return read.backend_tokenizer.to_str()
    except Exception as error:  # transformers and tokenizers raise of many kinds
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{folder}: its tokenizer cannot be read ({reason}); copy or download the whole folder"
        ) from error
