"""``sdrpn demo``: a model and its RPN in a browser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    NamedModelPath,
    Revision,
    load_options,
    load_roi_model,
)
from sdrpn_core.data.limits import MAX_FILE_BYTES, MAX_PIXELS
from sdrpn_core.errors import ConfigError, MissingExtraError

__all__ = ["demo"]

_N_EXAMPLES = 4


def demo(
    model: NamedModelPath = None,
    rpn: Annotated[
        str | None, typer.Option(help="RPN: local folder or Hub ID; default: one that ships.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 7860,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer.")] = (
        DEFAULT_MAX_NEW_TOKENS
    ),
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
) -> None:
    """Try a model and its RPN in a browser, until Ctrl-C; without options, one that ships."""
    if model is not None and rpn is None:
        raise ConfigError("--model alone finds no region: give --rpn, too")
    try:
        from sdrpn_demo.page import make_page, run_page
    except ModuleNotFoundError as missing:
        raise MissingExtraError("sdrpn demo", "demo") from missing
    from sdrpn_core import open_image, read_records
    from sdrpn_glyphs import rpn_dir

    loaded = load_roi_model(
        model,
        rpn or str(rpn_dir()),
        **load_options(dtype, device, attn_implementation, revision),
    )
    with tempfile.TemporaryDirectory(prefix="sdrpn-demo-") as folder:
        examples = []
        for index, record in enumerate(read_records("glyphs/small", n=_N_EXAMPLES)):
            path = Path(folder) / f"{index}.png"
            open_image(record.images[0]).save(path)
            examples.append((str(path), record.question))
        page = make_page(
            loaded,
            examples,
            max_new_tokens=max_new_tokens,
            max_pixels=max_pixels,
            max_bytes=MAX_FILE_BYTES,
        )
        run_page(page, host="127.0.0.1", port=port, max_bytes=MAX_FILE_BYTES)
