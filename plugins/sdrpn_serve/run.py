"""Running a server on this machine, or on a cluster, until somebody ends it."""

from __future__ import annotations

import errno
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import ray
import typer
from ray import serve
from ray.serve.config import HTTPOptions

from sdrpn_core.errors import ConfigError, SdrpnError
from sdrpn_core.rpn.checkpoint import read_rpn_config
from sdrpn_ray.address import check_reachable
from sdrpn_serve.deployment import application
from sdrpn_serve.settings import ModelSettings, ReplicaSettings, ServerSettings

__all__ = ["run_server"]

_APPLICATION = "sdrpn"
_EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells report it

_LOCAL_STORE_BYTES = 2**28
"""What a cluster of this machine alone sets aside for objects: requests on their way."""

_SAID_BY_REPLICA = re.compile(r"sdrpn_core\.errors\.\w+: (.+)")


def run_server(
    settings: ServerSettings, *, host: str, port: int, address: str | None, gpus: float | None
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        settings: of the server.
        host: the interface to listen on.
        port: likewise; on a cluster, of every machine that has a replica.
        address: of a Ray cluster; ``None`` for a new one of this machine alone.
        gpus: per replica; ``None``: one if there are any, and the model is not for a CPU.

    Raises:
        SdrpnError: the server cannot be started.
    """
    _check_model(settings.model)
    if address is None:
        _check_free(host, port)
    else:
        check_reachable(address)
    with _ended_once() as install_handlers, _cluster(address):
        install_handlers()  # Ray has put in its own
        if gpus is None:
            gpus = _default_gpus(settings.model)
        plan = replace(settings.replicas, gpus=gpus)
        if address is None:
            _check_room(plan)
        with _serving(replace(settings, replicas=plan), host, port):
            install_handlers()
            typer.echo(f"{settings.name} is served at http://{host}:{port}/v1 (Ctrl-C ends it)")
            threading.Event().wait()


def _check_model(settings: ModelSettings) -> None:
    """Say what is wrong with the RPN, its gate and the policy before anything slow happens.

    Raises:
        SdrpnError: there is no such RPN, no such policy, or no gate for a threshold.
    """
    revision = settings.load_options.get("revision") if settings.rpn is None else None
    config, _ = read_rpn_config(settings.rpn or settings.model, revision=revision)
    config.crop_policy(settings.policy, dict(settings.policy_options))
    config.gate_threshold(settings.gate_threshold)


def _check_free(host: str, port: int) -> None:
    """Find out whether the port can be had; Ray Serve would try again and again.

    Raises:
        SdrpnError: somebody else listens there, or there is no such interface.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        hint = ": choose another --port" if error.errno == errno.EADDRINUSE else ""
        raise SdrpnError(f"cannot listen at {host}:{port} ({error.strerror}){hint}") from error


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Join a cluster; without an address, one of this machine alone, which ends with the block.

    Raises:
        SdrpnError: there is no such cluster.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
    try:
        # Without "local", Ray would join a cluster that it finds.
        ray.init(address or "local", **options)
    except (ConnectionError, ValueError) as error:
        raise SdrpnError(f"cannot join the Ray cluster: {error}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _default_gpus(settings: ModelSettings) -> float:
    on_cpu = str(settings.load_options.get("device", "")).startswith("cpu")
    return 0.0 if on_cpu or not ray.cluster_resources().get("GPU") else 1.0


def _check_room(plan: ReplicaSettings) -> None:
    """Refuse what would wait for ever: a machine alone gets no new processors.

    Raises:
        ConfigError: says what is missing.
    """
    there = ray.cluster_resources()
    for kind, each in (("CPU", plan.cpus), ("GPU", plan.gpus)):
        needed = each * plan.min_replicas
        if needed > there.get(kind, 0):
            raise ConfigError(
                f"{plan.min_replicas} replicas need {needed:g} {kind}s, and there are "
                f"{there.get(kind, 0):g}: choose fewer --replicas, or fewer --{kind.lower()}s each"
            )


@contextmanager
def _serving(settings: ServerSettings, host: str, port: int) -> Iterator[None]:
    """Run the application until the block ends.

    Raises:
        SdrpnError: it cannot be started; says what the replica said.
    """
    serve.start(http_options=HTTPOptions(host=host, port=port))
    try:
        try:
            serve.run(application(settings), name=_APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise SdrpnError(f"the server did not start: {_reason(error)}") from error
        yield
    finally:
        serve.delete(_APPLICATION)


def _reason(error: RuntimeError) -> str:
    """What went wrong in a replica, out of the tracebacks around it."""
    message = serve.status().applications[_APPLICATION]
    said = [
        found
        for one in message.deployments.values()
        for found in _SAID_BY_REPLICA.findall(one.message)
    ]
    return said[-1] if said else str(error).strip().splitlines()[-1]


@contextmanager
def _ended_once() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C or SIGTERM end the block, and nothing interrupt what is cleaned up after it.

    Yields:
        A function that restores this where a library has put in handlers of its own.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGTERM:
            raise SystemExit(_EXIT_TERMINATED)
        raise KeyboardInterrupt

    def install() -> None:
        for number in before:
            signal.signal(number, end)

    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
