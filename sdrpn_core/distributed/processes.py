"""The processes of a run: one, or as many as ``accelerate launch`` started."""

from __future__ import annotations

import functools
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, tqdm
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.distributed.heartbeat import Heartbeat

__all__ = [
    "TIMEOUT_VARIABLE",
    "is_main_process",
    "process_timeout",
    "processes",
    "progress_bar",
    "wait_for_everyone",
]

TIMEOUT_VARIABLE = "SDRPN_PROCESS_TIMEOUT"
"""Environment variable: seconds after which a process that sends no heartbeat counts as dead."""

RESTART_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable that the launcher sets: how often it has started the processes again."""

DEFAULT_TIMEOUT = 600.0
"""Seconds; longer than a full disk array, a swapping machine or a slow network stall a process."""


def process_timeout() -> float:
    """Seconds after which a silent process counts as dead.

    Raises:
        ConfigError: the environment variable holds no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, not {text!r}")
    return seconds


def processes(device: str | torch.device | None = None) -> PartialState:
    """Join the processes of this run; call it before a model is put on a device.

    accelerate has to be told when the processes share a CPU: without that it takes each of them for
    the only one, and all would do the same work.

    Args:
        device: where the backbone is or will be; by default an accelerator, if there is one and
            ``accelerate launch --cpu`` did not rule it out.

    Raises:
        ConfigError: see :func:`process_timeout`.
    """
    timeout = process_timeout()
    if device is not None:
        on_cpu = torch.device(device).type == "cpu"
    else:
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    limit = timedelta(seconds=timeout)
    state = PartialState(cpu=on_cpu, timeout=limit, **_store_after_restart(limit))
    if state.num_processes > 1:
        _heartbeat(state.process_index, state.num_processes, timeout)  # the heartbeat starts here
    return state


def _store_after_restart(timeout: timedelta) -> dict[str, Any]:
    """Arguments that form the process group of a restarted job apart from that of the dead one.

    With its default rendezvous the launcher keeps one store over all restarts (``--max_restarts``),
    and in it the addresses of processes that are dead: their successors would try to reach those
    until they give up.

    Args:
        timeout: of the store.
    """
    attempt = os.environ.get(RESTART_VARIABLE, "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return {}  # its own way of joining takes no store
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timeout,
        wait_for_workers=False,
    )
    return {
        "store": PrefixStore(f"sdrpn/attempt/{attempt}", store),
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
    }


def is_main_process() -> bool:
    """Whether this is the process that prints."""
    return bool(PartialState().is_main_process)


def wait_for_everyone(state: PartialState) -> None:
    """Wait until every process has come here, however long they work, unless one of them dies.

    Args:
        state: what :func:`processes` returned.

    Raises:
        SdrpnError: a process died; names it.
    """
    if state.num_processes > 1:
        _heartbeat(state.process_index, state.num_processes, process_timeout()).wait()
    # All are here. Nobody may go on, and perhaps end, before the others have seen that.
    state.wait_for_everyone()


def progress_bar(wanted: bool, **options: Any) -> Any:
    """A tqdm bar on the main process, if it is wanted and standard error is a terminal.

    Args:
        wanted: whether to show one at all.
        options: of ``tqdm``: ``total``, ``desc``, ``unit`` ...
    """
    return tqdm(disable=not (wanted and sys.stderr.isatty()), **options)


@functools.cache
def _heartbeat(rank: int, world_size: int, timeout: float) -> Heartbeat:
    from sdrpn_core.distributed.heartbeat import Heartbeat

    return Heartbeat(rank, world_size, timeout)
