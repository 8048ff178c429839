"""ONNX files of torch modules, whole and in 8 bits."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from ..errors import CapabilityError, ConfigError
from ..runtime.files import replacing
from .folder import library

OPSET, OLDEST_OPSET = 18, 18
"""What is written by default, and the first that torch's exporter writes."""
CONVOLUTION = "Conv"
FLOAT = 1
"""ONNX's number of 32-bit floats."""
FEWEST_ROWS = 1 << 20
"""Rows that a graph must take at once: one that was traced for fewer would leave the others out."""
UNSAID = "ONNX cannot express this model"


@dataclass(frozen=True)
class Graph:
    """What becomes one file.

    Args:
        module: takes the inputs in their order and gives the outputs in theirs.
        inputs: name -> example; the first axis of each is the batch.
        outputs: names.
        sizes: input -> its other axes that may have any length too. Such graphs are written by torch's older exporter,
            which notes down one answer: it holds for other lengths only where the module asks tensors for theirs, so
            compare some. Of a deep tower's sizes the newer exporter does not finish its proofs.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def write(self, path: Path, opset: int, metadata: Mapping[str, str]) -> None:
        """Write the file, any number of rows a batch.

        Args:
            opset: version of ONNX's operators.
            metadata: what the file says of itself.

        Raises:
            CapabilityError: the module does something that ONNX cannot say.
        """
        onnx = library("onnx")
        with _quiet(), torch.no_grad():
            try:
                self.module.eval()(*self.inputs.values())  # what a first question makes is there before it is traced
                model, most = self._noted_down(opset) if self.sizes else self._proved(opset)
            except Exception as error:  # tracing raises what the module's own code makes of symbols, and much else
                reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
                reason = reason.partition(". Please")[0]  # to ask torch's developers for it
                raise CapabilityError(f"{UNSAID} ({reason}); predict with the run") from error
        if most < FEWEST_ROWS:
            raise CapabilityError(f"{UNSAID} for more than {most} rows at once; predict with the run")
        for name, value in metadata.items():
            model.metadata_props.add(key=name, value=value)
        with replacing(path) as place:
            onnx.save_model(model, str(place))

    def _proved(self, opset: int) -> tuple[Any, Any]:
        """ONNX's model, and up to how many rows it holds."""
        rows = [{0: torch.export.Dim.DYNAMIC} for _ in self.inputs]
        traced = torch.export.export(self.module, tuple(self.inputs.values()), dynamic_shapes=rows)
        names = {"input_names": list(self.inputs), "output_names": list(self.outputs)}
        made = torch.onnx.export(traced, **names, opset_version=opset, dynamo=True, verbose=False)
        return made.model_proto, _most_rows(traced)

    def _noted_down(self, opset: int) -> tuple[Any, float]:
        """The same for any sizes."""
        rows = {name: "rows" if name == next(iter(self.sizes)) else f"{name}_rows" for name in self.sizes}
        axes = {name: {0: rows[name], **{axis: f"{name}_{axis}" for axis in of}} for name, of in self.sizes.items()}
        names = {"input_names": list(self.inputs), "output_names": list(self.outputs), "dynamic_axes": axes}
        file = BytesIO()
        with _own_operators():
            torch.onnx.export(
                self.module, tuple(self.inputs.values()), file, **names, opset_version=opset, dynamo=False
            )
        return library("onnx").load_model_from_string(file.getvalue()), float("inf")


@contextmanager
def _own_operators() -> Iterator[None]:
    """How torch's older exporter writes what it cannot, or writes wrongly."""
    written = {"aten::linspace": _linspace, "aten::adaptive_avg_pool2d": _adaptive_mean}
    for name, operator in written.items():
        torch.onnx.register_custom_op_symbolic(name, operator, OLDEST_OPSET)
    try:
        yield
    finally:
        for name in written:
            torch.onnx.unregister_custom_op_symbolic(name, OLDEST_OPSET)


def _linspace(g, start, end, steps, *others):
    """The exporter's own counts the steps as integers, and so loses a start such as 0.5."""
    one, zero = _constant(g, 1), _constant(g, 0)
    start, end = (g.op("Cast", each, to_i=FLOAT) for each in (start, end))
    gaps = g.op("Cast", g.op("Max", g.op("Sub", steps, one), one), to_i=FLOAT)
    step = g.op("Div", g.op("Sub", end, start), gaps)
    places = g.op("Cast", g.op("Range", zero, steps, one), to_i=FLOAT)
    return g.op("Add", g.op("Mul", places, step), start)


@symbolic_helper.parse_args("v", "is")
def _adaptive_mean(g, maps, sides):
    """Of maps of any size; the exporter's own only pools to sizes that divide it. A product with a matrix per axis."""
    if sides == [1, 1]:
        return g.op("GlobalAveragePool", maps)
    down, across = (
        _shares(g, g.op("Shape", maps, start_i=axis, end_i=axis + 1), side) for axis, side in zip((2, 3), sides)
    )
    return g.op("MatMul", down, g.op("MatMul", maps, g.op("Transpose", across, perm_i=[1, 0])))


def _shares(g, length, side: int):
    """(side, length): what each place is of each mean; mean i of m is of floor(i n / m) to ceil((i + 1) n / m)."""
    pooled = torch.arange(side)[:, None]
    first = g.op("Div", g.op("Mul", _constant(g, pooled), length), _constant(g, side))
    ends = g.op("Add", g.op("Mul", _constant(g, pooled + 1), length), _constant(g, side - 1))
    end = g.op("Div", ends, _constant(g, side))
    places = g.op("Range", _constant(g, 0), g.op("Squeeze", length), _constant(g, 1))
    inside = g.op("And", g.op("GreaterOrEqual", places, first), g.op("Less", places, end))
    return g.op("Div", *(g.op("Cast", each, to_i=FLOAT) for each in (inside, g.op("Sub", end, first))))


def _constant(g, value):
    return g.op("Constant", value_t=torch.as_tensor(value))


def _most_rows(traced: torch.export.ExportedProgram):
    """Up to how many rows a traced program holds, a number of sympy's or torch's own infinity."""
    from torch.utils._sympy.numbers import int_oo

    given = set(traced.graph_signature.user_inputs)
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder" and node.name in given]
    rows = [node.meta["val"].shape[0].node.expr for node in inputs]
    ranges = traced.range_constraints
    return min((ranges[symbol].upper for symbol in rows if symbol in ranges), default=int_oo)


def write_in_8_bits(whole: Path, path: Path, examples: Sequence[Mapping[str, np.ndarray]], activations: int = 8) -> str:
    """A graph in 8 bits: one with convolutions in these, channel by channel, and in what they are given, by ranges that
    this has on examples; others in the weights of their matrix products alone.

    Args:
        whole: the file of the graph in 32 bits.
        examples: inputs to measure ranges on.
        activations: bits of what convolutions are given, 8 or 16.

    Returns:
        What is in how many bits, in words.
    """
    quantization, onnx = library("onnxruntime.quantization"), library("onnx")
    with tempfile.TemporaryDirectory() as folder, replacing(path) as place, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quantization.quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        if has_convolutions(prepared):
            words = f"weights of convolutions in 8 bits, their inputs in {activations}"
            words += " (smaller, not faster)" if activations > 8 else ""
            quantization.quantize_static(
                str(prepared),
                str(place),
                _reader(examples, quantization.CalibrationDataReader),
                per_channel=True,
                op_types_to_quantize=[CONVOLUTION],
                activation_type=getattr(quantization.QuantType, f"QUInt{activations}"),
            )
        else:
            words = "weights of matrix products in 8 bits"
            quantization.quantize_dynamic(str(prepared), str(place), per_channel=True)
        made = onnx.load_model(str(place))
        del made.metadata_props[:]
        made.metadata_props.extend(onnx.load_model(str(whole)).metadata_props)
        onnx.save_model(made, str(place))
    return words


def has_convolutions(path: Path) -> bool:
    """Whether a graph has more of them than the one that cuts a picture into patches."""
    return sum(node.op_type == CONVOLUTION for node in library("onnx").load_model(str(path)).graph.node) > 1


def check_opset(opset: int | None) -> int:
    """The opset to write.

    Raises:
        ConfigError: too old for torch's exporter, or newer than the installed onnx knows.
    """
    if opset is None:
        return OPSET
    newest = library("onnx").defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        why = "too old" if opset < OLDEST_OPSET else "not known to the installed onnx"
        raise ConfigError(f"--opset {opset}: {why}; give {OLDEST_OPSET} to {newest}")
    return opset


def _reader(examples: Sequence[Mapping[str, np.ndarray]], base: type) -> Any:
    """The examples, one after the other, as onnxruntime asks for them."""
    left = iter(examples)
    return type("Reader", (base,), {"get_next": lambda self: next(left, None)})()


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of how they work inside, and print what they could not do; the older one past Python's stdout."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    sys.stdout.flush()
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        stdout = os.dup(1)
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
            logging.disable(level)
