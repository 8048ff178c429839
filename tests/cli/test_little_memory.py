"""No memory left, under a limit or on a small machine: one line that says what to lower, and nothing half-written."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from vladapt.adapters.cache.proker import ProKeR

FAILED = 1
OF_TORCH = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
ERRORS = (
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(float)),
    RuntimeError(OF_TORCH),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
)


def raising(error):
    def call(*args, **how):
        raise error

    return call


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_method_that_finds_no_memory(fit, colours, tmp_path, monkeypatch, error):
    monkeypatch.setattr(ProKeR, "_fit", raising(error))
    outcome = fit("--data", colours, "--adapter", "proker")
    line = outcome.err.strip().splitlines()[-1]
    assert outcome.code == FAILED and outcome.out == "" and "Traceback" not in outcome.err
    assert line.startswith("vladapt: ") and "memory" in line and "lower --batch-size or --workers" in line
    assert not list((tmp_path / "runs").glob("*"))
    assert "Traceback" in fit("--data", colours, "--adapter", "proker", "--debug").err
