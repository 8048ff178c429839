"""The folder of an export: graphs, what they are in JSON, and a script that asks them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ..contracts.run_info import FittedRun
from ..contracts.use import Exported, ExportWishes
from ..errors import DataError
from ..runtime.files import write_whole, writing_to
from ..runtime.reading import json_text, sha256_in
from .agreement import Agreement, agreement_sentence
from .folder import FACTS, FORMAT, SCRIPT, Session, library
from .graph import Graph, check_opset

CHECKED = {
    "features": "From features",
    "pixels": "From pixels",
    "files": "From files that predict.py prepares",
    "int8": "The same in 8 bits",
    "bags": "From features of parts",
    "halves": "From the first half of each sample",
    "towers": "Cosines of images and texts",
}
"""What was compared, for the user."""
STANDALONE, SCRIPTS = Path(__file__).with_name("standalone.py"), Path(__file__).with_name("scripts")


@dataclass
class NewExport:
    """An export of a run under way.

    Args:
        run: what is exported.
        wishes: what is asked of it.

    Attributes:
        opset: version of ONNX's operators.

    Raises:
        DataError: something is there already. ConfigError: the opset cannot be written. CapabilityError: a library is
            not installed.
    """

    run: FittedRun
    wishes: ExportWishes

    def __post_init__(self):
        _check_free(self.wishes.out)
        self.opset = check_opset(self.wishes.opset)
        library("onnxruntime")

    @property
    def first_facts(self) -> dict[str, Any]:
        """What the facts of any export begin with: the formats, and the run that it is of."""
        return {"format": FORMAT, "vladapt": __version__, "run": self.run.path.name, "task": self.run.info.task}

    @property
    def last_facts(self) -> dict[str, Any]:
        """What they end with: the backbone where there is one, and what licences there are to keep to."""
        backbone = self.run.info.backbone
        named = {"backbone": {"spec": backbone.spec, "fingerprint": backbone.fingerprint}} if backbone else {}
        return {**named, "licences": self.run.info.licences}

    def folder(self) -> AbstractContextManager[Path]:
        """As `new_folder`, of what was asked for."""
        return new_folder(self.wishes.out)

    def write(self, graph: Graph, path: Path, facts: Mapping[str, Any]) -> Session:
        """Write a graph, which says the facts of itself, and open it.

        Raises:
            CapabilityError: the module does something that ONNX cannot say.
        """
        graph.write(path, self.opset, {"vladapt": json_text(facts)})
        return Session(path)

    def finish(
        self,
        folder: Path,
        facts: dict[str, Any],
        checks: Mapping[str, Agreement],
        script: Path | None = None,
        beside: Iterable[Path] = (),
    ) -> None:
        """Write export.json, and what asks the graphs where they take pictures as it prepares them.

        Args:
            folder: as given by `folder`.
            facts: how far the graphs agree is added to them, and the digests of all files.
            checks: name -> what was compared.
            script: the file that becomes predict.py.
            beside: modules that it imports.
        """
        facts["checks"] = {name: check.facts for name, check in checks.items()}
        named = {each.name: each for each in beside} | ({} if script is None else {SCRIPT: script})
        for name, source in named.items():
            write_whole(folder / name, source.read_text(encoding="utf-8"))
        facts["sha256"] = sha256_in(folder)
        write_whole(folder / FACTS, json_text(facts, indent=1) + "\n")

    def exported(self, facts: dict[str, Any], notes: Iterable[str] = ()) -> Exported:
        """What was written, with a line for each thing that was compared."""
        lines = [f"{CHECKED[name]}: {agreement_sentence(check)}" for name, check in facts["checks"].items()]
        return Exported(self.wishes.out, facts, list(notes), lines)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into in the block, which is then `out`; nothing is left of it where the block fails.

    Raises:
        DataError: something is there already, or nothing can be written.
    """
    _check_free(out)
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    try:
        with writing_to(out.parent):
            partial.mkdir(parents=True)
            yield partial
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(out: Path) -> None:
    """Raise the DataError of a folder that is there already."""
    if out.exists() or out.is_symlink():
        raise DataError(f"--out {out}: exists; give the name of a new folder")
