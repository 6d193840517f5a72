"""A loaded backbone and its RPN, as the arguments of ``--model_args`` describe them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdrpn_core import (
    RPN,
    Answer,
    Backbone,
    Proposer,
    Question,
    RPNProposer,
    answer_stream,
    load_backbone,
)
from sdrpn_core.answering.confidence_threshold import check_confidence_threshold
from sdrpn_core.crops.policy import CropPolicy, make_policy
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.checkpoint import read_rpn_config
from sdrpn_core.util.dataclass_reader import read_dataclass

_LOADING = ("device", "device_map", "dtype", "attn_implementation", "revision")


@dataclass(frozen=True)
class ModelArguments:
    """The arguments of ``--model_args``; lmms-eval's cache of answers tells models apart by them.

    Attributes:
        pretrained: backbone: local folder or Hub ID.
        rpn: its RPN: local folder or Hub ID; without one, answers are those of the plain model.
        policy: crop policy; default: the RPN's.
        threshold: threshold of the crop policy; default: the RPN's.
        policy_options: other options of the policy, as a JSON object.
        first_look_tokens: largest number of visual tokens of each whole image; default: what the
            processor makes of it.
        confidence_threshold: how likely every token of a plain answer must be for it to stay;
            default: every question is looked at closer.
        device: where the model runs; default: CUDA if available.
        device_map: as of transformers, for models spread over devices.
        dtype: float32, bfloat16, float16 or auto; default: float32 on a CPU, else auto.
        attn_implementation: sdpa, eager or flash_attention_2; default: the model's.
        revision: of the model on the Hub.
    """

    pretrained: str
    rpn: str | None = None
    policy: str | None = None
    threshold: float | None = None
    policy_options: str | None = None
    first_look_tokens: int | None = None
    confidence_threshold: float | None = None
    device: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    attn_implementation: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        crops = (self.policy, self.threshold, self.policy_options)
        if self.rpn is None and any(value is not None for value in crops):
            raise ConfigError("--model_args: a crop policy needs the map of an RPN: give rpn=")
        if self.confidence_threshold is not None:
            if self.rpn is None:
                raise ConfigError(
                    "--model_args: confidence_threshold decides about a closer look: give rpn="
                )
            check_confidence_threshold(self.confidence_threshold)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ModelArguments:
        """The arguments as lmms-eval has parsed them.

        Raises:
            ConfigError: an unknown argument (names a near one), or one of the wrong type.
        """
        return read_dataclass(cls, values, "--model_args")

    def crop_policy(self) -> CropPolicy | None:
        """Make the crop policy; ``None`` without an RPN.

        Raises:
            SdrpnError: the RPN's configuration cannot be read, or there is no such policy or
                option.
        """
        if self.rpn is None:
            return None
        config, _ = read_rpn_config(self.rpn)
        name = self.policy or config.policy
        options = dict(config.policy_options) if name == config.policy else {}
        if self.threshold is not None:
            options["threshold"] = self.threshold
        return make_policy(name, {**options, **self._policy_options()})

    def _policy_options(self) -> dict[str, Any]:
        try:
            found = json.loads(self.policy_options or "{}")
        except json.JSONDecodeError as error:
            raise ConfigError(f"--model_args: policy_options is no JSON object: {error}") from error
        if not isinstance(found, dict):
            raise ConfigError("--model_args: policy_options is no JSON object")
        return found


@dataclass(frozen=True)
class Session:
    """What answers: no ``nn.Module``, which lmms-eval would delete from its model after a run.

    Attributes:
        backbone: the model.
        proposer: where crops come from; ``None`` for plain answers.
        first_look_tokens: see :class:`ModelArguments`.
        confidence_threshold: see there.
    """

    backbone: Backbone
    proposer: Proposer | None
    first_look_tokens: int | None = None
    confidence_threshold: float | None = None

    def answer_stream(
        self, questions: Iterable[Question], **options: Any
    ) -> Iterator[tuple[int, Answer]]:
        """Answer questions: :func:`sdrpn_core.answer_stream`, as the arguments say.

        Args:
            questions: any number; read a batch ahead of need.
            options: ``batch_size``, ``on_error`` and arguments of ``generate()``.
        """
        return answer_stream(
            self.backbone,
            questions,
            self.proposer,
            first_look_tokens=self.first_look_tokens,
            confidence_threshold=self.confidence_threshold,
            **options,
        )

    @classmethod
    def load(cls, arguments: ModelArguments) -> Session:
        """Load the backbone and its RPN.

        Raises:
            SdrpnError: see ``load_backbone`` and ``RPN.from_pretrained``.
        """
        policy = arguments.crop_policy()  # before the backbone is loaded, which takes longer
        options = {name: getattr(arguments, name) for name in _LOADING}
        given = {name: value for name, value in options.items() if value is not None}
        backbone = load_backbone(arguments.pretrained, **given)
        if arguments.rpn is None:
            return cls(backbone, None, arguments.first_look_tokens)
        rpn = RPN.from_pretrained(arguments.rpn, backbone=backbone)
        proposer = RPNProposer(rpn, policy)
        return cls(backbone, proposer, arguments.first_look_tokens, arguments.confidence_threshold)
