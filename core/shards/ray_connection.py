"""How this process joins a Ray cluster, or starts a Ray of this machine alone: with a token, without Ray's lines."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CapabilityError, ConfigError, VladaptError, one_line
from ..runtime.process import cores, need_package

LOOPBACK = "127.0.0.1"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what Ray's own processes write goes to its files
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_worker_niceness": "0",  # as this process: Ray's 15 leaves them little of a machine with other work
    "RAY_timeout_ms_task_wait_for_death_info": "4000",  # whether a process died or its whole node
}
"""Of the environment, where it has none of its own. That a token is needed is Ray's default, from 2.60 on."""
STORE_BYTES = 128 * 2**20
"""For objects, of which there are none: tasks and reports are small."""
REACH_S = 10.0
SUBMIT = "or hand the command to it by `ray job submit --address http://HOST:8265 -- vladapt ...`"


def connect(address: str, processes: int | None = None, cpus: float | None = None) -> tuple[Any, bool]:
    """Connect this process, unless it is.

    Args:
        address: "auto", HOST:PORT, or "": RAY_ADDRESS, or else a Ray of this machine alone, which nobody else reaches,
            with room for `processes` workers of `cpus` cores.

    Returns:
        The module ray, and whether it was not connected before.

    Raises:
        CapabilityError: Ray is not installed. ConfigError: no such address, no cluster there, one of other versions, or
            another token.
    """
    need_package("--engine ray", "ray", "ray")
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address:
        _check_address(address)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return ray, False
    ray._private.worker._worker_logs_enabled = False  # no option keeps long lines on workers that die off our stdout
    if address:
        _joined(ray, address, address=address)
        return ray, True
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # new, and in no file
    room = {"num_cpus": math.ceil(processes * (cpus or 1)) if processes else cores()}
    inner = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}
    with _loopback(ray):
        _joined(
            ray,
            "",
            address="local",
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _node_ip_address=LOOPBACK,
            _system_config=inner,
            **room,
        )
    return ray, True


def _joined(ray: Any, place: str, **options: Any) -> None:
    with _quiet():
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:  # Ray raises whatever its layers do
            raise _explained(error, place) from error


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """On Linux Ray would take the address of this machine in its network in place of 127.0.0.1, unless it is told that
    there are no clusters, as on other systems."""
    constants, name = ray._private.ray_constants, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    os.environ[name] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]


def head_of(ray: Any) -> tuple[str, int]:
    """Host and port at which the cluster is reached."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _check_address(address: str) -> None:
    """Ray itself would look for a minute, and tell so in many lines."""
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise ConfigError(f"--address {address}: give auto or HOST:PORT on a node of the cluster, {SUBMIT}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address}: give auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--address {address}: no Ray cluster answers there ({reason}); start one with `ray start --head`"
        ) from None


def _explained(error: Exception, address: str) -> VladaptError:
    import ray

    text, place = str(error), f"--address {address}" if address else "--engine ray"
    if "Version mismatch" in text:
        theirs, ours = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)[:2]
        return ConfigError(
            f"{place}: the cluster runs Ray {theirs[0]} and Python {theirs[1]}, this process Ray {ours[0]} and Python "
            f"{ours[1]}; install the same"
        )
    if isinstance(error, ray.exceptions.AuthenticationError) or "Failed to connect to Ray cluster" in text:
        return ConfigError(
            f"{place}: no Ray cluster lets this process in; set RAY_AUTH_TOKEN to what `ray get-auth-token` prints on "
            "its head (RAY_AUTH_MODE=disabled for one without a token), and check the port"
        )
    if not address:
        return CapabilityError(
            f"--engine ray: Ray does not start on this machine ({one_line(error)}); use --engine local --processes N"
        )
    if isinstance(error, ConnectionError) and address == "auto":
        return ConfigError("--address auto: no Ray cluster runs on this machine; start one: `ray start --head`")
    return ConfigError(f"{place}: cannot join the cluster ({one_line(error)}); run this on one of its nodes, {SUBMIT}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray writes of its start on both streams, below Python too, and sets handlers of signals that nobody asked for."""
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if in_main else {}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    streams, nowhere = {number: os.dup(number) for number in (1, 2)}, os.open(os.devnull, os.O_WRONLY)
    try:
        for number in streams:
            os.dup2(nowhere, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, stream in streams.items():
            os.dup2(stream, number)
            os.close(stream)
        os.close(nowhere)
        for number, handler in handlers.items():
            signal.signal(number, handler)
