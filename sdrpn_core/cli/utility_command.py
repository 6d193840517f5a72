"""``sdrpn utility``: what candidate crops are worth, from the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_core.cli.data_options import (
    DATA_HELP,
    AllowUrls,
    Columns,
    ImageRoot,
    Split,
    read_options,
)
from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    ModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.policy_options import (
    FirstLookTokens,
    PolicyName,
    PolicyOptions,
    Threshold,
    policy_changes,
)
from sdrpn_core.cli.reference_options import ReferenceName, ReferenceTokens, make_reference
from sdrpn_core.cli.run_summary import plain_summary, print_counts, print_skipped
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CANDIDATES,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdrpn_core.utility.summary import SourceSummary

__all__ = ["utility"]


def utility(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"Questions: {DATA_HELP}")],
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    rpn: Annotated[
        str | None,
        typer.Option(
            help="RPN whose regions are judged: local folder or Hub ID; default: only known boxes."
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=0, help="Regions drawn from the RPN's map per record.")
    ] = DEFAULT_CANDIDATES,
    reference: ReferenceName = "own",
    reference_tokens: ReferenceTokens = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    policy_option: PolicyOptions = None,
    first_look_tokens: FirstLookTokens = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Use at most this many records.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for records and for drawn regions.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Records per pass.")] = DEFAULT_BATCH_SIZE,
    shard_size: Annotated[int, typer.Option(min=1, help="Records per shard.")] = DEFAULT_SHARD_SIZE,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Max new tokens per generated response.")
    ] = DEFAULT_MAX_NEW_TOKENS,
    column: Columns = None,
    image_root: ImageRoot = None,
    split: Split = None,
    allow_urls: AllowUrls = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: delete the utility run in OUT.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Judge crops by how much more likely they make a reference response.

    Candidates are the region that the RPN's policy crops, regions drawn from its map, and known
    boxes. No annotation is needed. Run the command again to resume an interrupted run. To use
    several processes, run `accelerate launch -m sdrpn_core utility ...`.
    """
    judged_by = make_reference(reference, reference_tokens, max_new_tokens)
    changes = policy_changes(threshold, policy_option)
    if rpn is None and (policy is not None or changes):
        raise ConfigError("a crop policy needs the map of an RPN: give --rpn")

    from sdrpn_core.backbone.loading import load_for_process
    from sdrpn_core.data.read import read_records
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.rpn.checkpoint import read_rpn_config
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.utility.row import UtilityStatus
    from sdrpn_core.utility.run import UtilityDataset
    from sdrpn_core.utility.stage import default_sampler, judge_crops
    from sdrpn_core.utility.summary import summarize

    records = read_records(
        data, n=n, seed=seed, **vars(read_options(column, image_root, split, allow_urls))
    )
    crop_policy = None
    if rpn is not None:  # what is wrong with it is said before the backbone is loaded
        crop_policy = read_rpn_config(rpn)[0].crop_policy(policy, changes)
    backbone = load_for_process(model, load_options(dtype, device, attn_implementation, revision))
    proposer = None if rpn is None else RPN.from_pretrained(rpn, backbone=backbone)
    sampler = None
    if crop_policy is not None and candidates:
        sampler = default_sampler(crop_policy, candidates, seed)
    summary = judge_crops(
        backbone,
        records,
        out,
        proposer,
        policy=crop_policy,
        reference=judged_by,
        sampler=sampler,
        n_candidates=candidates,
        first_look_tokens=first_look_tokens,
        batch_size=batch_size,
        shard_size=shard_size,
        max_pixels=max_pixels,
        overwrite=overwrite,
        progress=not as_json,
    )
    if not is_main_process():
        return
    found = summarize(UtilityDataset(out))
    if as_json:
        sources = {source: asdict(one) for source, one in found.items()}
        typer.echo(json.dumps({**plain_summary(summary, out), "sources": sources}, indent=2))
    else:
        print_counts(summary, out)
        _print(found)
        print_skipped(summary)
    if not summary.counts[UtilityStatus.OK]:
        raise InputError(f"{out}: no record could be judged: {len(summary.skipped)} skipped")


def _print(found: Mapping[str, SourceSummary]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        return
    table = Table("candidates", "records", "helped", "median, nats")
    for source, one in found.items():
        table.add_row(source, str(one.records), f"{one.helped:.1%}", f"{one.median:+.2f}")
    Console().print(table)
