"""The server on Ray Serve: a gateway that speaks HTTP, and replicas that hold a model each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_serve.app import make_app
from sdrpn_serve.calls import Ask, Located, Look, Refusal, Reply, Unavailable
from sdrpn_serve.runner import ModelRunner
from sdrpn_serve.settings import ServerSettings

__all__ = ["GATEWAY", "REPLICA", "application", "build"]

T = TypeVar("T")

GATEWAY = "gateway"
REPLICA = "model"

_ATTEMPTS = 2
"""How often a call is made whose replica dies. It may be the call that kills them."""

_CONSTRUCTOR_RETRIES = 2
"""A model that cannot be loaded is not tried for long."""

_N_SPARE = 16
"""Requests beyond its limit that the gateway takes at a time, to refuse them itself."""


class ModelReplica:
    """Holds a model; calls that come at about the same time go through it together.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        from sdrpn_serve.served_model import ServedModel  # torch, which the gateway does without

        model = ServedModel.load(settings.model, settings.limits.max_pixels)
        self._runner = ModelRunner(model, settings.replicas.n_singles)
        batched: Any = self.answer
        batched.set_max_batch_size(settings.replicas.batch_size)
        batched.set_batch_wait_timeout_s(settings.replicas.batch_wait_s)

    @serve.batch
    async def answer(self, asks: list[Ask]) -> list[Reply | Refusal]:
        """Answer a batch of questions; callers give one each."""
        return await self._runner.answer_batch(asks)

    async def stream(self, ask: Ask) -> AsyncGenerator[str | Reply | Refusal, None]:
        """Answer a question piece by piece."""
        async with aclosing(self._runner.stream(ask)) as events:
            async for event in events:
                yield event

    async def locate(self, look: Look) -> Located | Refusal:
        """Find the region that a question is about."""
        return await self._runner.locate(look)


class RayEngine:
    """Sends calls to the replicas. A call whose replica dies goes to another one.

    Args:
        replicas: the deployment of the replicas.
    """

    def __init__(self, replicas: DeploymentHandle[Any]) -> None:
        self._replicas = replicas

    async def answer(self, ask: Ask) -> Reply | Refusal:
        """See :class:`~sdrpn_serve.calls.Engine`."""
        return await _persistent(lambda: self._replicas.answer.remote(ask))

    async def locate(self, look: Look) -> Located | Refusal:
        """See :class:`~sdrpn_serve.calls.Engine`."""
        return await _persistent(lambda: self._replicas.locate.remote(look))

    async def stream(self, ask: Ask) -> AsyncGenerator[str | Reply | Refusal, None]:
        """See :class:`~sdrpn_serve.calls.Engine`. What has begun to arrive is not begun again."""
        for attempt in range(1, _ATTEMPTS + 1):
            events: Any = self._replicas.options(stream=True).stream.remote(ask)
            begun = False
            try:
                async for event in events:
                    begun = True
                    yield event
                return
            except (RayActorError, RayServeException) as error:
                if begun or attempt == _ATTEMPTS:
                    raise Unavailable("the replica that was answering is gone") from error
            finally:
                events.cancel()

    async def n_replicas(self) -> int:
        """See :class:`~sdrpn_serve.calls.Engine`."""
        name = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        states: Mapping[Any, int] = status.applications[name].deployments[REPLICA].replica_states
        return states.get("RUNNING", 0)


class Gateway:
    """Speaks HTTP.

    Args:
        replicas: the deployment of the replicas.
        settings: of the server.
    """

    def __init__(self, replicas: DeploymentHandle[Any], settings: ServerSettings) -> None:
        self._replicas = replicas
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray Serve asks for it once the replica is there."""
        return make_app(RayEngine(self._replicas), self._settings)


def application(settings: ServerSettings) -> serve.Application:
    """The server as a Ray Serve application.

    Args:
        settings: what it loads, how much it accepts, on how many replicas it runs.
    """
    plan = settings.replicas
    scale: dict[str, Any] = {"num_replicas": plan.min_replicas}
    if plan.max_replicas > plan.min_replicas:
        scale = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=plan.min_replicas,
                max_replicas=plan.max_replicas,
                target_ongoing_requests=plan.batch_size,
            )
        }
    replicas: Any = serve.deployment(
        ModelReplica,
        name=REPLICA,
        # While one batch runs the next one gathers.
        max_ongoing_requests=2 * plan.batch_size + plan.n_singles,
        max_constructor_retry_count=_CONSTRUCTOR_RETRIES,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        **scale,
    )
    gateway: Any = serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        max_ongoing_requests=settings.limits.max_queue + _N_SPARE,
        ray_actor_options={"num_cpus": 0},
    )
    return gateway.bind(replicas.bind(settings), settings)


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application from plain values: what ``serve deploy`` and KubeRay call.

    Args:
        args: fields of :class:`~sdrpn_serve.settings.ServerSettings`, nested ones as objects.

    Raises:
        ConfigError: an unknown field, or an impossible value.
    """
    return application(read_dataclass(ServerSettings, args, "the server's args"))


async def _persistent(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, and again if its replica dies: answers have no effect that could happen twice.

    Raises:
        Unavailable: no replica could serve it.
    """
    died: Exception | None = None
    for _ in range(_ATTEMPTS):
        response: Any = call()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayActorError, RayServeException) as error:
            died = error
    raise Unavailable("the replica that was answering is gone") from died
