"""Everything that answers with a closer look, as one object: backbone, RPN and crop policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.budgets import check_budgets
from sdrpn_core.answering.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.pruning import may_be_pruned, without_costly_pruning
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.backbone.loading import HUB_OPTIONS, load_backbone
from sdrpn_core.backbone.question import Question, checked_questions
from sdrpn_core.crops.budget import check_budget
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.backbone_source import backbone_source
from sdrpn_core.rpn.checkpoint import read_rpn_config
from sdrpn_core.rpn.model import RPN, check_rpn
from sdrpn_core.rpn.prediction import predict_prompt_roi
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.results import Answer
    from sdrpn_core.answering.stream import OnError
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy


@dataclass(frozen=True, eq=False)
class RoIModel:
    """A frozen multimodal LLM that looks closer where it matters.

    Like the functions that its methods stand for, it may be used by several threads.

    Attributes:
        backbone: the frozen model.
        rpn: predicts the region, attached to that backbone.
        policy: turns RoI maps into crops; the name of one is taken for it.
        first_look_tokens: largest number of visual tokens that each whole image is encoded with, in
            families of dynamic resolution, unless a question or a call says otherwise; crops are
            still cut from the image as it is. ``None``: as many as the processor makes of it.
        gate_threshold: probability from which on an RPN with a gate looks for the region; 0 does
            not ask the gate. ``None``: the gate's own.

    Raises:
        ConfigError: not a backbone, an RPN or a policy; a budget is below 1, the family's
            resolution is fixed and a first look or a crop budget is asked for, the gate's threshold
            is no probability, or one above 0 is given for an RPN without a gate.
        UnknownNameError: no policy of that name.
    """

    backbone: Backbone
    rpn: RPN
    policy: CropPolicy
    first_look_tokens: int | None = None
    gate_threshold: float | None = None

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        check_rpn(self.rpn)
        object.__setattr__(self, "policy", self.rpn.config.crop_policy(self.policy))
        check_budgets(self.backbone, self.policy, self.first_look_tokens)
        self.rpn.config.gate_threshold(self.gate_threshold)

    def __repr__(self) -> str:
        config = self.rpn.config
        given = {"first_look_tokens": self.first_look_tokens, "gate_threshold": self.gate_threshold}
        parts = [
            repr(self.backbone.name),
            f"head={config.head!r}",
            f"branch={config.branch}",
            *([] if config.gate is None else [f"gate={config.gate.name!r}"]),
            f"policy={type(self.policy).__name__}",
            *(f"{name}={value}" for name, value in given.items() if value is not None),
        ]
        return f"RoIModel({', '.join(parts)})"

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | PreTrainedModel,
        *,
        rpn: str | Path | None = None,
        policy: str | CropPolicy | None = None,
        policy_options: dict[str, Any] | None = None,
        first_look_tokens: int | None = None,
        gate_threshold: float | None = None,
        revision: str | None = None,
        rpn_revision: str | None = None,
        **options: Any,
    ) -> RoIModel:
        """Load everything from an RPN, whose configuration names its backbone, or from both.

        Args:
            source: the RPN, or with ``rpn`` the backbone: a local folder or Hub id; the backbone
                may also be a model that is loaded already.
            rpn: the RPN's local folder or Hub id, if ``source`` is the backbone.
            policy: the crop policy, or the name of one; default: the one in the RPN's
                configuration.
            policy_options: options to replace of a policy that is named, such as
                ``{"threshold": 0.2}``.
            first_look_tokens: see the attribute.
            gate_threshold: see the attribute.
            revision: revision of ``source`` on the Hub. The backbone that an RPN names has the
                revision that is named there.
            rpn_revision: revision of ``rpn`` on the Hub.
            options: further arguments of :func:`~sdrpn_core.backbone.loading.load_backbone`:
                ``dtype``, ``device``, ``device_map``, ``attn_implementation``,
                ``quantization_config``, ``processor`` ... Those for the Hub (``cache_dir``,
                ``force_download``, ``local_files_only``, ``token``) hold for the RPN, too.

        Raises:
            CheckpointError: there is no RPN, its files are broken, it belongs to another backbone,
                or the backbone that it names is not there.
            InputError: the backbone cannot be loaded.
            ConfigError: a bad option, of loading or of the policy, a budget for a family of fixed
                resolution, or a gate's threshold for an RPN without a gate.
            UnknownNameError: no policy of that name, or no adapter for the backbone.
            MissingExtraError: flash-attention is asked for and not installed.
        """
        if rpn is None and rpn_revision is not None:
            raise ConfigError("rpn_revision is given, but no rpn; revision is that of the source")
        if rpn is None and isinstance(source, PreTrainedModel):
            raise ConfigError("a loaded model needs an RPN: give rpn")
        download = {key: options[key] for key in HUB_OPTIONS if key in options}
        download["revision"] = revision if rpn is None else rpn_revision
        rpn_source: Any = source if rpn is None else rpn
        # Everything that may be wrong with the RPN is said before the backbone is loaded, which
        # takes longer.
        config, folder = read_rpn_config(rpn_source, **download)
        crop_policy = config.crop_policy(policy, policy_options)
        check_budget(first_look_tokens, "first_look_tokens")
        config.gate_threshold(gate_threshold)
        if rpn is None:
            source, revision = backbone_source(config, rpn_source)
        backbone = load_backbone(source, revision=revision, **options)
        loaded = RPN.from_pretrained(folder, backbone=backbone)
        return cls(backbone, loaded, crop_policy, first_look_tokens, gate_threshold)

    @cached_property
    def proposer(self) -> RPNProposer:
        """What chooses the crops, for functions that take a proposer."""
        return RPNProposer(self.rpn, self.policy, gate_threshold=self.gate_threshold)

    def with_policy(
        self, policy: str | CropPolicy | None = None, policy_options: dict[str, Any] | None = None
    ) -> RoIModel:
        """The same model (nothing is copied) with another crop policy.

        Args:
            policy: the crop policy, or the name of one; default: the one in the RPN's
                configuration.
            policy_options: options to replace of a policy that is named; the others are those in
                the RPN's configuration, or the defaults of another policy.

        Raises:
            UnknownNameError: no policy of that name.
            ConfigError: an option is unknown or out of range, or given along with a policy, or a
                crop budget for a family of fixed resolution.
        """
        return replace(self, policy=self.rpn.config.crop_policy(policy, policy_options))

    def answer(
        self,
        image: str | Path | bytes | Image.Image | Sequence[Any],
        question: str,
        *,
        store: PrefixStore | None = None,
        first_look_tokens: int | None = None,
        confidence_threshold: float | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        **options: Any,
    ) -> Answer:
        """Answer one question about an image, or about several.

        Args:
            image: path, bytes or image, or a list of these.
            question: the question.
            store: as for :func:`~sdrpn_core.answering.answer.answer_batch`, like all that follow.
            first_look_tokens: outweighs the model's own.
            confidence_threshold: look closer only where the plain answer is less sure than this.
            max_new_tokens: upper limit of the response length.
            options: further arguments of ``generate()``, e.g. ``streamer``.

        Raises:
            ConfigError: see :func:`~sdrpn_core.answering.answer.answer_batch`.
            ImageError: an image cannot be read.
            InputError: an empty question, no image, or a prompt that exceeds the model's context.
        """
        return self.answer_batch(
            [Question.about(image, question)],
            store=store,
            first_look_tokens=first_look_tokens,
            confidence_threshold=confidence_threshold,
            max_new_tokens=max_new_tokens,
            **options,
        )[0]

    def answer_batch(
        self,
        questions: Sequence[Question],
        *,
        store: PrefixStore | None = None,
        first_look_tokens: int | None = None,
        confidence_threshold: float | None = None,
        max_padding: float = DEFAULT_MAX_PADDING,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        **options: Any,
    ) -> list[Answer]:
        """Answer a batch: :func:`~sdrpn_core.answering.answer.answer_batch` with the proposer.

        Args:
            questions: the questions; images may differ in number, size and grid.
            store: as for that function, like all that follow.
            first_look_tokens: outweighs the questions' and the model's own.
            confidence_threshold: look closer only where the plain answer is less sure than this.
            max_padding: largest share of a batch that may be padding.
            max_new_tokens: upper limit of the response length.
            options: further arguments of ``generate()``.
        """
        looking = list(map(self._looking, checked_questions(questions)))
        return answer_batch(
            self.backbone,
            looking,
            self.proposer,
            store=store,
            first_look_tokens=first_look_tokens,
            confidence_threshold=confidence_threshold,
            max_padding=max_padding,
            max_new_tokens=max_new_tokens,
            **options,
        )

    def answer_stream(
        self,
        questions: Iterable[Question],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        store: PrefixStore | None = None,
        first_look_tokens: int | None = None,
        confidence_threshold: float | None = None,
        max_padding: float = DEFAULT_MAX_PADDING,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        on_error: OnError | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Answer]]:
        """Answer any number: :func:`~sdrpn_core.answering.stream.answer_stream`, likewise.

        Args:
            questions: any number; read a batch ahead of need.
            batch_size: largest number of questions that go through the model together.
            store: as for that function, like all that follow.
            first_look_tokens: outweighs the questions' and the model's own.
            confidence_threshold: look closer only where the plain answer is less sure than this.
            max_padding: largest share of a batch that may be padding.
            max_new_tokens: upper limit of the response length.
            on_error: called with the number of a question that fails, and the error.
            options: further arguments of ``generate()``.
        """
        looking = map(self._looking, checked_questions(questions))
        return answer_stream(
            self.backbone,
            looking,
            self.proposer,
            batch_size=batch_size,
            store=store,
            first_look_tokens=first_look_tokens,
            confidence_threshold=confidence_threshold,
            max_padding=max_padding,
            max_new_tokens=max_new_tokens,
            on_error=on_error,
            **options,
        )

    def propose(
        self, image: str | Path | bytes | Image.Image | Sequence[Any], question: str
    ) -> list[Proposal]:
        """Where to look, without an answer: one proposal per image.

        Args:
            image: path, bytes or image, or a list of these.
            question: the question.

        Raises:
            ImageError: an image cannot be read.
            InputError: an empty question, no image, or a prompt that exceeds the model's context.
        """
        return self.propose_batch([Question.about(image, question)])[0]

    def propose_batch(self, questions: Sequence[Question]) -> list[list[Proposal]]:
        """As :meth:`propose`, for a batch in one pass; only layers below B and the RPN run.

        Proposals are those of an answer, with two exceptions: crops that the backbone turns out to
        be unable to encode, which only an answer tries, and the RPN's gate, which is not asked.

        Args:
            questions: the questions, all with an image.

        Returns:
            Per question one proposal per image.

        Raises:
            InputError: an empty question, or a prompt that exceeds the model's context.
        """
        looking = list(map(self._looking, checked_questions(questions)))
        prompts = self.backbone.encode(looking)
        maps = iter(
            predict_prompt_roi(
                self.backbone, prompts, self.rpn, wants_question=may_be_pruned(self.policy)
            )
        )
        proposals = []
        for prompt in prompts:
            rois = [next(maps) for _ in prompt.images]
            plans = without_costly_pruning(
                prompt,
                [self.policy.plan(*pair) for pair in zip(rois, prompt.geometries, strict=True)],
                self.backbone.n_layers,
            )
            proposals.append(list(map(Proposal, plans, rois, prompt.geometries)))
        return proposals

    def _looking(self, question: Question) -> Question:
        """The question, with the model's first look if it has none of its own."""
        own = question.first_look_tokens
        return question.with_first_look(self.first_look_tokens if own is None else own)
