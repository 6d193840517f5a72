"""``sdrpn serve``: the model behind an OpenAI-compatible API."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    NamedModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.cli.policy_options import (
    ConfidenceThreshold,
    FirstLookTokens,
    GateThreshold,
    PolicyName,
    PolicyOptions,
    Threshold,
)
from sdrpn_core.errors import ConfigError, MissingExtraError
from sdrpn_serve.settings import (
    Limits,
    ModelSettings,
    ReplicaSettings,
    ServerSettings,
    key_digest,
)

__all__ = ["serve"]

_LIMITS = Limits()
_REPLICAS = ReplicaSettings()
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADER_TEXT = re.compile(r"[!-~]+")
_REPLICA_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def serve(
    rpn: Annotated[str, typer.Option(help="RPN: local folder or Hub ID.")],
    model: NamedModelPath = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    policy_option: PolicyOptions = None,
    first_look_tokens: FirstLookTokens = None,
    gate_threshold: GateThreshold = None,
    confidence_threshold: ConfidenceThreshold = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What requests call the model; default: the last part of "
            "--model, or else of --rpn."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; 0.0.0.0: all of them.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SDRPN_API_KEY",
            show_envvar=True,
            help="Key that requests must bring. Other users of the machine see options.",
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(
            metavar="N | MIN-MAX", help="Copies of the model; a range grows and shrinks with load."
        ),
    ] = "1",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions that go through the model together at most.")
    ] = _REPLICAS.batch_size,
    batch_wait: Annotated[
        float, typer.Option(min=0, help="Seconds that a question waits for others.")
    ] = _REPLICAS.batch_wait_s,
    streams: Annotated[
        int, typer.Option(min=1, help="Streamed answers at a time, per copy, beside the batches.")
    ] = _REPLICAS.n_singles,
    cpus: Annotated[float, typer.Option(min=0, help="Processors per copy.")] = _REPLICAS.cpus,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs per copy; default: 1 if there are any and --device allows."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to run on: auto or HOST:PORT; default: this machine alone."),
    ] = None,
    max_body: Annotated[
        int, typer.Option(min=1, help="Bytes of a request.")
    ] = _LIMITS.max_body_bytes,
    max_images: Annotated[
        int, typer.Option(min=1, help="Images per request.")
    ] = _LIMITS.max_images,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse images with more pixels.")
    ] = _LIMITS.max_pixels,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer that a request may ask for.")
    ] = _LIMITS.max_new_tokens,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests at a time; others get status 429.")
    ] = _LIMITS.max_queue,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a request may take.")
    ] = _LIMITS.timeout_s,
    allow_urls: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Fetch images from this host; repeatable; default: no URL is ever fetched.",
        ),
    ] = None,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
) -> None:
    """Serve a model and its RPN over HTTP, as OpenAI's API, until Ctrl-C."""
    if api_key is not None and not _HEADER_TEXT.fullmatch(api_key):
        raise ConfigError("the API key must be visible ASCII characters without spaces")
    least, most = _replica_range(replicas)
    options = parse_options(policy_option or [], "--policy-option")
    if threshold is not None:
        options = {"threshold": threshold, **options}
    settings = ServerSettings(
        name or os.path.basename(os.path.abspath(model or rpn)),
        ModelSettings(
            model or rpn,
            None if model is None else rpn,
            policy,
            options,
            first_look_tokens,
            gate_threshold,
            confidence_threshold,
            load_options(dtype, device, attn_implementation, revision),
        ),
        Limits(
            max_body_bytes=max_body,
            max_images=max_images,
            max_pixels=max_pixels,
            max_new_tokens=max_new_tokens,
            max_queue=max_queue,
            timeout_s=timeout,
            url_hosts=tuple(allow_urls or ()),
        ),
        ReplicaSettings(
            min_replicas=least,
            max_replicas=most,
            batch_size=batch_size,
            batch_wait_s=batch_wait,
            n_singles=streams,
            cpus=cpus,
        ),
        None if api_key is None else key_digest(api_key),
    )
    try:
        from sdrpn_serve.run import run_server
    except ModuleNotFoundError as missing:
        raise MissingExtraError("sdrpn serve", "serve") from missing
    if api_key is None and host not in _LOOPBACK:
        typer.echo(
            f"warning: whoever reaches {host}:{port} may use the model: set SDRPN_API_KEY", err=True
        )
    run_server(settings, host=host, port=port, address=address, gpus=gpus)


def _replica_range(text: str) -> tuple[int, int]:
    found = _REPLICA_RANGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--replicas {text!r}: write a number, or a range such as 1-4")
    return int(found[1]), int(found[2] or found[1])
