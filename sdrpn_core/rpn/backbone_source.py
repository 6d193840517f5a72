"""Where the backbone of an RPN is found: its configuration names it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in __all__

from sdrpn_core.errors import CheckpointError
from sdrpn_core.rpn.config import RPNConfig


def backbone_source(config: RPNConfig, source: str | Path) -> tuple[str, str | None]:
    """Where to load the backbone from that an RPN was trained on.

    A configuration names a backbone of the Hub by its id, and one of a local folder by the folder's
    name alone, since the path before it says nothing elsewhere. Such a folder is looked for beside
    the RPN's own, and nowhere else. An id without an owner is not asked for on the Hub: anybody
    could have taken the name.

    Args:
        config: the RPN's configuration.
        source: the local folder or Hub id that it was read from.

    Returns:
        The backbone's folder or Hub id, and its revision on the Hub if the configuration names one.

    Raises:
        CheckpointError: the configuration names no backbone, or a folder that is not there.
    """
    name, revision = config.backbone.get("name"), config.backbone.get("revision")
    if not isinstance(name, str) or not isinstance(revision, str | None):
        raise CheckpointError(
            f"{source}: its configuration does not name its backbone: give the model, too"
        )
    if is_hub_id(name):
        return name, revision
    beside = Path(source).absolute().parent
    # A part of a path would lead elsewhere.
    if name and Path(name).name == name and name != ".." and Path(source).is_dir():
        folder = beside / name
        if folder.is_dir():
            return str(folder), None
        looked = f"of which there is no folder in {beside}"
    else:
        looked = "a local folder of wherever it was trained"
    raise CheckpointError(
        f"{source}: was trained on the backbone {name!r}, {looked}; name the backbone, "
        f"too: --model BACKBONE, or RoIModel.from_pretrained(BACKBONE, rpn={str(source)!r})"
    )


def is_hub_id(name: str) -> bool:
    """Whether a name is ``owner/name``, as the Hub allows them."""
    if name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
