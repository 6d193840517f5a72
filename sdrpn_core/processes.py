"""The processes of a run: one, or as many as ``accelerate launch`` started."""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, tqdm


def processes(device: str | torch.device | None = None) -> PartialState:
    """Join the processes of this run; call it before a model is put on a device.

    accelerate has to be told when the processes share a CPU: without that it takes each of them for
    the only one, and all would do the same work.

    Args:
        device: where the backbone is or will be; by default an accelerator, if there is one and
            ``accelerate launch --cpu`` did not rule it out.
    """
    if device is not None:
        on_cpu = torch.device(device).type == "cpu"
    else:
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def progress_bar(wanted: bool, **options: Any) -> Any:
    """A tqdm bar on the main process, if it is wanted and standard error is a terminal.

    Args:
        wanted: whether to show one at all.
        options: of ``tqdm``: ``total``, ``desc``, ``unit`` ...
    """
    return tqdm(disable=not (wanted and sys.stderr.isatty()), **options)
