"""``sdrpn label``: the label stage from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_core.labeling.run import LabelSummary

__all__ = ["label"]

_MAX_LISTED = 20


def label(
    data: Annotated[
        str,
        typer.Argument(help="JSONL file, parquet file or folder, or registered dataset."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Backbone: local folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.json", help="Label recipe; default: the preset's first."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="At most this many records.")] = None,
    seed: Annotated[int, typer.Option(help="Selects or generates the records.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Records per forward pass; default 8.")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Records per shard; default 256.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Max new tokens per generated response; default 64.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Registered label engine: local, ray ...")] = "local",
    engine_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the engine; repeatable."),
    ] = None,
    max_pixels: MaxPixels = None,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard the label run in the folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Record where a backbone looks while it answers: shards of attention maps.

    Records with a response are read, the others are answered by the backbone. Run it again to
    continue an interrupted run; `accelerate launch -m sdrpn_core label ...` or `--engine ray` share
    the work.
    """
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.labeling.job import LabelJob
    from sdrpn_core.labeling.row import LabelStatus
    from sdrpn_core.plugins.manager import get_plugins

    options = parse_options(engine_option or [], "--engine-option")
    chosen = get_plugins().label_engines.get(engine).from_options(options)
    sizes: dict[str, Any] = {
        "batch_size": batch_size,
        "shard_size": shard_size,
        "max_new_tokens": max_new_tokens,
        "max_pixels": max_pixels,
    }
    job = LabelJob(
        data,
        model,
        out,
        recipe=recipe,
        n=n,
        seed=seed,
        load_options=load_options(dtype, device, attn_implementation, revision),
        **{name: value for name, value in sizes.items() if value is not None},
    )
    summary = chosen.run(job, overwrite=overwrite, progress=not as_json)
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps(_plain(summary, out), indent=2))
    else:
        _print(summary, out)
    if not summary.counts[LabelStatus.OK]:
        raise InputError(f"{out}: no record could be labeled: {len(summary.skipped)} skipped")


def _plain(summary: LabelSummary, out: Path) -> dict[str, Any]:
    return {
        "folder": str(out),
        "counts": {status.value: count for status, count in summary.counts.items()},
        "skipped": [
            {"index": s.index, "id": s.id, "status": s.status.value, "reason": s.reason}
            for s in summary.skipped
        ],
    }


def _print(summary: LabelSummary, out: Path) -> None:
    counts = ", ".join(f"{n} {status.value}" for status, n in summary.counts.items() if n)
    typer.echo(f"{out}: {counts}")
    for skipped in summary.skipped[:_MAX_LISTED]:
        typer.echo(f"  skipped {skipped.id}: {skipped.status.value}: {skipped.reason}")
    if len(summary.skipped) > _MAX_LISTED:
        typer.echo(f"  and {len(summary.skipped) - _MAX_LISTED} more; --json lists them all")
