"""Experiment trackers: those of accelerate, which get every entry of the training log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from sdrpn_core.errors import ConfigError, MissingExtraError, SdrpnError, UnknownNameError
from sdrpn_core.training.run_folder import TRACKER_FOLDER

NO_TRACKER = "none"
"""Stands for no tracker on the command line."""

PROJECT = "sdrpn"
"""What trackers call the project, and TensorBoard the run."""

#: Packages whose name on PyPI is not that of the tracker.
_PACKAGES = {"comet_ml": "comet-ml"}
#: Trackers that an extra of sdrpn installs.
_EXTRAS = {"tensorboard": "tensorboard"}


def check_trackers(names: Iterable[str]) -> tuple[str, ...]:
    """The trackers to start: known to accelerate, and installed.

    Args:
        names: accelerate's names; that of a class given to ``accelerate``'s
            ``register_tracker_class`` counts, too. ``none`` stands for no tracker.

    Returns:
        The names without repetitions; empty for ``none``.

    Raises:
        UnknownNameError: accelerate knows no such tracker.
        ConfigError: ``none`` among others.
        MissingExtraError: sdrpn's extra for the tracker is not installed.
        SdrpnError: the tracker's package is not installed.
    """
    chosen = tuple(dict.fromkeys(names))
    if NO_TRACKER in chosen:
        if len(chosen) > 1:
            raise ConfigError(f"{NO_TRACKER} stands for no tracker, but others are given, too")
        return ()
    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in chosen:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UnknownNameError("tracker", name, [NO_TRACKER, *LOGGER_TYPE_TO_CLASS])
        ships_with_accelerate = LOGGER_TYPE_TO_CLASS[name].__module__ == "accelerate.tracking"
        if name in installed or not ships_with_accelerate:
            continue
        if name in _EXTRAS:
            raise MissingExtraError(f"the tracker {name!r}", _EXTRAS[name])
        raise SdrpnError(
            f"the tracker {name!r} needs a package that is not installed: pip install "
            f"{_PACKAGES.get(name, name)}"
        )
    return chosen


def start_trackers(
    accelerator: Accelerator, out_dir: Path, first_step: int, settings: Mapping[str, Any]
) -> None:
    """Start an accelerator's trackers; what they hold of an interrupted session's end is replaced.

    Args:
        accelerator: of the run.
        out_dir: folder of the run, after which the tracked run is named.
        first_step: steps done before.
        settings: shown as hyperparameters.

    Raises:
        SdrpnError: a tracker cannot be started, for example without a login.
    """
    name = out_dir.absolute().name
    folder = out_dir / TRACKER_FOLDER
    options = {
        "tensorboard": {"purge_step": first_step + 1},
        "trackio": {"name": name},
        "wandb": {"name": name, "dir": str(folder)},
    }
    # Trackers take scalars alone.
    config = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in settings.items()
    }
    try:
        if accelerator.log_with and accelerator.is_main_process:
            folder.mkdir(exist_ok=True)  # some trackers write elsewhere if it is not there
        accelerator.init_trackers(PROJECT, config=config, init_kwargs=options)
    except Exception as error:  # of any of the packages
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        names = ", ".join(str(tracker) for tracker in accelerator.log_with)
        raise SdrpnError(f"cannot start the tracker ({names}): {reason}") from error
