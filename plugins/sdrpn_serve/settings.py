"""What a server is told: what it loads, how much it accepts, on how many replicas it runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sdrpn_core.answering.confidence_threshold import check_confidence_threshold
from sdrpn_core.errors import ConfigError

__all__ = ["Limits", "ModelSettings", "ReplicaSettings", "ServerSettings", "key_digest"]

_SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_PIXELS = 2**25
"""Default limit per image: an 8K image (7680 x 4320), 0.1 GB once it is decoded."""


@dataclass(frozen=True)
class ModelSettings:
    """What every replica loads, and how it looks.

    Attributes:
        model: an RPN whose configuration names its backbone, or the backbone: folder or Hub id.
        rpn: the RPN, if ``model`` is the backbone.
        policy: crop policy; default: the RPN's.
        policy_options: options of the policy to replace.
        first_look_tokens: largest number of visual tokens of each whole image; default: what the
            processor makes of it.
        gate_threshold: probability from which on an RPN with a gate looks closer; default: the
            gate's own.
        confidence_threshold: how likely every token of a plain answer must be for it to stay;
            default: every question is looked at closer.
        load_options: ``dtype``, ``device``, ``attn_implementation``, ``revision``.

    Raises:
        ConfigError: the confidence threshold is no probability above 0.
    """

    model: str
    rpn: str | None = None
    policy: str | None = None
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    first_look_tokens: int | None = None
    gate_threshold: float | None = None
    confidence_threshold: float | None = None
    load_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.confidence_threshold is not None:
            check_confidence_threshold(self.confidence_threshold)


@dataclass(frozen=True)
class Limits:
    """How much a server accepts.

    Attributes:
        max_body_bytes: of a request.
        max_images: per request.
        max_pixels: per image, checked before it is decoded.
        max_new_tokens: per answer; a request may ask for less.
        max_queue: requests that wait or are answered at a time; others get status 429.
        timeout_s: seconds for a request, from its first byte to its last.
        url_hosts: hosts (``HOST`` or ``HOST:PORT``) from which images are fetched; none: no URL is.

    Raises:
        ConfigError: a number below 1, or no time.
    """

    max_body_bytes: int = 2**25
    max_images: int = 4
    max_pixels: int = MAX_PIXELS
    max_new_tokens: int = 1024
    max_queue: int = 64
    timeout_s: float = 120.0
    url_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_positive(self)
        # Hosts have no case, and addresses are compared in lower case.
        object.__setattr__(self, "url_hosts", tuple(one.lower() for one in self.url_hosts))


@dataclass(frozen=True)
class ReplicaSettings:
    """How many replicas hold a model each, and how one works.

    Attributes:
        min_replicas: how many there are at least.
        max_replicas: how many there may be under load.
        batch_size: questions that go through the model together at most.
        batch_wait_s: how long a question waits for others.
        n_singles: streamed answers, and calls of ``/v1/roi``, that run beside the batches.
        cpus: processors per replica, which is also its number of threads.
        gpus: GPUs per replica.

    Raises:
        ConfigError: a number is out of range.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    batch_size: int = 8
    batch_wait_s: float = 0.01
    n_singles: int = 2
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self, but=("batch_wait_s", "cpus", "gpus"))
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                f"at most {self.max_replicas} replicas are fewer than at least {self.min_replicas}"
            )


@dataclass(frozen=True)
class ServerSettings:
    """Everything that a server is told.

    Attributes:
        name: what the model is called in requests and in ``/v1/models``.
        model: what replicas load.
        limits: how much is accepted.
        replicas: how many there are, and how they work.
        key_sha256: hexadecimal digest of the API key, see :func:`key_digest`; ``None``: no key is
            asked for.

    Raises:
        ConfigError: the digest is none, so that no key could be the right one.
    """

    name: str
    model: ModelSettings
    limits: Limits = field(default_factory=Limits)
    replicas: ReplicaSettings = field(default_factory=ReplicaSettings)
    key_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.key_sha256 is None:
            return
        object.__setattr__(self, "key_sha256", self.key_sha256.lower())
        if not _SHA256.fullmatch(self.key_sha256):
            raise ConfigError(
                "key_sha256 must be the 64 hexadecimal digits of the key's SHA-256, nothing else"
            )


def key_digest(key: str) -> str:
    """What a server keeps of its API key: it can tell the right one, and give none away."""
    return hashlib.sha256(key.encode()).hexdigest()


def _check_positive(settings: Any, but: tuple[str, ...] = ()) -> None:
    for one in fields(settings):
        value = getattr(settings, one.name)
        if not isinstance(value, (int, float)):
            continue
        least_allowed = 0 if one.name in but else 1 if isinstance(value, int) else 0
        if value < least_allowed or (value == 0 and one.name not in but):
            raise ConfigError(f"{one.name} must be more than 0, not {value}")
