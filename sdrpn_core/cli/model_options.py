"""How a command loads its model: every command has the same options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["AttnImplementation", "DType", "Device", "ModelPath", "Revision", "load_options"]

ModelPath = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Backbone: local folder or Hub ID."),
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
Revision = Annotated[str | None, typer.Option(help="Revision of the model on the Hub.")]


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
