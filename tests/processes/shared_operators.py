"""Exports of tests share what torch's exporter makes anew for each, and always the same: the table of ONNX operators,
for which it parses the source of a thousand functions, and the names of torch's own."""

from __future__ import annotations

import functools


def share_operators(graph) -> None:
    """Have the module `vladapt.core.export.graph` make them once."""
    prove = graph.Graph._proved
    if prove.__name__ == "sharing":
        return

    def sharing(self, opset: int):
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        if not isinstance(ONNXRegistry.__dict__["from_torchlib"], staticmethod):
            ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
            utils._materialize_cpp_cia_ops = _while_there_are_as_many(utils._materialize_cpp_cia_ops)
        return prove(self, opset)

    graph.Graph._proved = sharing


def _while_there_are_as_many(name_all):
    import torch

    named = functools.cache(lambda operators: name_all())
    key = "CompositeImplicitAutograd"
    return lambda: named(len(torch._C._dispatch_get_registrations_for_dispatch_key(key)))
