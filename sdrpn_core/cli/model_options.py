"""How a command loads its model and its RPN: every command has the same options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sdrpn_core.answering.roi_model import RoIModel

__all__ = [
    "AttnImplementation",
    "DType",
    "Device",
    "ModelPath",
    "NamedModelPath",
    "Revision",
    "load_options",
    "load_roi_model",
]

ModelPath = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Backbone: local folder or Hub ID."),
]
NamedModelPath = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Backbone: local folder or Hub ID; default: the one that the RPN names.",
    ),
]
DType = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16 or auto; default: float32 on CPU, auto on GPU."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: CUDA if available.")
]
AttnImplementation = Annotated[
    str | None, typer.Option(help="sdpa, eager or flash_attention_2; default: the model's.")
]
Revision = Annotated[
    str | None,
    typer.Option(help="Revision of the model on the Hub; of the RPN, if no model is given."),
]


def load_options(
    dtype: str | None, device: str | None, attn_implementation: str | None, revision: str | None
) -> dict[str, Any]:
    """The arguments of ``load_backbone`` that were given."""
    values = {
        "dtype": dtype,
        "device": device,
        "attn_implementation": attn_implementation,
        "revision": revision,
    }
    return {name: value for name, value in values.items() if value is not None}


def load_roi_model(model: str | None, rpn: str, **options: Any) -> RoIModel:
    """Load an RPN, and its backbone from where the command line or else the RPN says.

    Args:
        model: ``--model``.
        rpn: ``--rpn``.
        options: of :meth:`~sdrpn_core.answering.roi_model.RoIModel.from_pretrained`.

    Raises:
        SdrpnError: see there.
    """
    from sdrpn_core.answering.roi_model import RoIModel  # needs torch

    if model is None:
        return RoIModel.from_pretrained(rpn, **options)
    return RoIModel.from_pretrained(model, rpn=rpn, **options)
