"""RPN checkpoints: ``model.safetensors`` + ``config.json`` + a model card, locally or on the Hub.

Only the RPN is saved, never the backbone, and only safetensors are read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from sdrpn_core.backbone.source import is_source
from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError
from sdrpn_core.rpn.backbone_source import is_hub_id
from sdrpn_core.rpn.card import CardFacts, make_card
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.checksums import json_checksum, tensor_checksum
from sdrpn_core.util.json_files import read_json_object
from sdrpn_core.util.package_versions import package_versions

if TYPE_CHECKING:
    from torch import nn

    from sdrpn_core.gate.config import Calibration

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"

NO_FOLDER = f"no such RPN folder: give the one that holds {CONFIG_NAME} and {WEIGHTS_NAME}"

_WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

#: Checksums in the metadata of the weights: of these, and of the configuration beside them.
_SUMS_KEY = "sdrpn"
_TENSORS_KEY = "sha256"
_CONFIG_KEY = "config_sha256"
#: Fields of a gate's configuration that are chosen once the weights are there.
_CHOSEN_LATER = ("threshold", "calibration")


def save_rpn(
    config: RPNConfig,
    weights: Mapping[str, torch.Tensor],
    folder: str | Path,
    *,
    card: CardFacts | None = None,
    repo_id: str | None = None,
) -> Path:
    """Write an RPN's weights, configuration and card, each file atomically.

    Args:
        config: the RPN's configuration.
        weights: its state dict.
        folder: made if missing.
        card: what the model card says besides the configuration.
        repo_id: what the card loads the RPN from.

    Returns:
        The folder.

    Raises:
        SdrpnError: a file cannot be written (full disk, permissions).
    """
    folder = Path(folder)
    values = {**config.to_dict(), "versions": package_versions()}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}

    named = {} if repo_id is None else {"source": repo_id}
    texts = {
        CONFIG_NAME: _config_text(values),
        CARD_NAME: str(make_card(values, CardFacts() if card is None else card, **named)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SdrpnError(f"cannot create the folder {folder}: {error.strerror}") from error
    sums = {
        _TENSORS_KEY: tensor_checksum(tensors),
        _CONFIG_KEY: _config_checksum(json.loads(texts[CONFIG_NAME])),
    }
    with atomic_write(folder / WEIGHTS_NAME) as file:
        # One entry alone: safetensors writes several in random order, and equal RPNs are to be
        # equal files.
        file.write(to_safetensors(tensors, metadata={_SUMS_KEY: json.dumps(sums)}))
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return folder


def _config_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _config_checksum(values: Mapping[str, Any]) -> str:
    """Of a configuration, less what :func:`save_gate_threshold` may change."""
    gate = values.get("gate")
    if isinstance(gate, Mapping):
        fixed = {name: value for name, value in gate.items() if name not in _CHOSEN_LATER}
        values = {**values, "gate": fixed}
    return json_checksum(values)


def push_rpn(
    config: RPNConfig,
    weights: Mapping[str, torch.Tensor],
    repo_id: str,
    *,
    card: CardFacts | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    **upload: Any,
) -> str:
    """Upload an RPN to the Hugging Face Hub; returns the commit's address.

    Args:
        config: the RPN's configuration.
        weights: its state dict.
        repo_id: ``owner/name``; created if missing.
        card: what the model card says besides the configuration.
        private: visibility of a new repository.
        token: default: that of the environment or of ``hf auth login``.
        upload: further arguments of ``HfApi.upload_folder``.

    Raises:
        ConfigError: ``repo_id`` cannot be one.
        SdrpnError: the Hub cannot be reached or refuses, for example without a token.
    """
    if not is_hub_id(repo_id):
        raise ConfigError(f"{repo_id!r} is no id on the Hub: write owner/name")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_rpn(config, weights, folder, card=card, repo_id=repo_id)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, **upload)
        except (OSError, ValueError) as error:  # requests, and what the Hub answers to them
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SdrpnError(f"cannot push to {repo_id}: {reason}") from error
    return str(commit.commit_url)


def read_rpn_config(source: str | Path, **download: Any) -> tuple[RPNConfig, Path]:
    """An RPN's configuration and the local folder that holds it.

    Args:
        source: a local folder or a hub id.
        download: ``revision``, ``token``, ``cache_dir`` ... of ``snapshot_download``.

    Raises:
        CheckpointError: neither a folder nor a Hub id, no such folder, or its configuration is
            missing, broken or too new.
    """
    if not is_source(source):
        raise CheckpointError(f"the RPN must be a local folder or a Hub id, not {source!r}")
    folder = Path(source)
    if folder.is_dir():
        return _read_config(folder / CONFIG_NAME), folder
    if folder.is_absolute() or str(source).startswith(("./", "../")) or folder.exists():
        raise CheckpointError(f"{source}: {NO_FOLDER}")
    # The weights come after the configuration: other repositories' may be many gigabytes.
    folder = _download(str(source), CONFIG_NAME, **download)
    config = _read_config(folder / CONFIG_NAME)
    # A snapshot's folder is named after its commit, so that both files are of the same one.
    return config, _download(str(source), WEIGHTS_NAME, **{**download, "revision": folder.name})


def _download(repo_id: str, name: str, **download: Any) -> Path:
    """The local snapshot of a repository, with one of its files."""
    try:
        return Path(snapshot_download(repo_id, allow_patterns=[name], **download))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{repo_id}: neither a local RPN folder nor reachable on the Hub ({reason})"
        ) from error


def _read_config(path: Path) -> RPNConfig:
    return RPNConfig.from_json(read_json_object(path, CheckpointError), str(path))


def save_gate_threshold(
    folder: str | Path, threshold: float, calibration: Calibration | None = None
) -> RPNConfig:
    """Write another threshold into the configuration of a saved gate, atomically.

    The weights stay as they are: their checksum of the configuration leaves out what may be chosen
    after training.

    Args:
        folder: of the RPN.
        threshold: see :class:`~sdrpn_core.gate.config.GateConfig`.
        calibration: how it was chosen.

    Returns:
        The RPN's new configuration.

    Raises:
        CheckpointError: no such folder, a broken configuration, or one without a gate.
        ConfigError: the threshold is no probability.
        SdrpnError: the file cannot be written.
    """
    path = Path(folder) / CONFIG_NAME
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder}: {NO_FOLDER}")
    config = _read_config(path)
    if config.gate is None:
        raise CheckpointError(f"{folder}: this RPN has no gate: train one (--objective gate)")
    gate = replace(config.gate, threshold=threshold, calibration=calibration)
    # Everything else as it is in the file: the checksum is of that.
    values = read_json_object(path, CheckpointError)
    chosen = {name: gate.to_dict()[name] for name in _CHOSEN_LATER}
    values["gate"] = {**values["gate"], **chosen}
    with atomic_write(path) as file:
        file.write(_config_text(values).encode())
    return replace(config, gate=gate)


def load_rpn_weights(rpn: nn.Module, folder: Path) -> None:
    """Load ``model.safetensors`` into an RPN of the same shape.

    Raises:
        CheckpointError: the file is missing, broken, or its tensors do not fit.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; an RPN is read from safetensors only")
    try:
        with safe_open(path, framework="pt") as file:
            sums = json.loads((file.metadata() or {}).get(_SUMS_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_sums(sums, tensors, folder)
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error
    assign_rpn_weights(rpn, tensors, str(path))


def _check_sums(sums: Mapping[str, str], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Compare weights and configuration with what was saved.

    Files of earlier versions have no checksums, and are read without.

    Raises:
        CheckpointError: one of them changed.
    """
    expected = sums.get(_TENSORS_KEY)
    if expected is not None and expected != tensor_checksum(tensors):
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME}: is corrupt: it is not what its checksum says; copy or "
            "download it again"
        )
    path = folder / CONFIG_NAME
    expected = sums.get(_CONFIG_KEY)
    if expected is not None and expected != _config_checksum(json.loads(path.read_bytes())):
        raise CheckpointError(
            f"{path}: is not the configuration that was saved with the weights; restore it, or "
            "pass what you want to change (policy, threshold) as options"
        )


def assign_rpn_weights(rpn: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy tensors into an RPN, which must have exactly these.

    Raises:
        CheckpointError: names the first missing, unexpected or misshapen tensors, or the first
            that holds no weights: whole numbers, NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _WEIGHT_DTYPES:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{where}: {name} holds {dtype}, which are no weights")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinity")
    expected = {name: tuple(tensor.shape) for name, tensor in rpn.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if problems := _mismatches(expected, found):
        shown = "; ".join(problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{where}: does not fit the RPN ({shown}{more})")
    rpn.load_state_dict(dict(tensors), strict=True)


def _mismatches(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    report = [f"{name} is missing" for name in expected if name not in found]
    report += [f"{name} is unexpected" for name in found if name not in expected]
    report += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return report
