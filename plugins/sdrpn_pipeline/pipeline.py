"""The pipeline: transformers' way to call, over ``RoIModel``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import Pipeline, PreTrainedModel

from sdrpn_core import Answer, CropPolicy, Question, RoIModel
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_pipeline.inputs import as_inputs, as_question

_RPN_FOLDER = "rpn"
"""Where ``save_pretrained`` puts the RPN, inside of the model's folder."""


class RoIImageTextToTextPipeline(Pipeline):
    """Answers questions about images, with a closer look at the region that matters.

    Args:
        model: the backbone, which ``transformers.pipeline`` has loaded.
        rpn: the RPN's local folder or Hub id.
        rpn_revision: its revision on the Hub.
        policy: the crop policy, or the name of one; default: the one in the RPN's configuration.
        policy_options: options to replace of a policy that is named, such as
            ``{"threshold": 0.2}``.
        first_look_tokens: largest number of visual tokens of each whole image, in families of
            dynamic resolution.
        gate_threshold: probability from which on an RPN with a gate looks for the region.
        local_files_only: download nothing.
        kwargs: ``processor``, ``device``, ``batch_size``, and default arguments of
            :meth:`__call__`.

    Attributes:
        roi_model: what answers.

    Raises:
        ConfigError: no RPN is given, or a bad option.
        SdrpnError: see :meth:`RoIModel.from_pretrained`.
    """

    # Optional: of a model that is loaded already, the processor is found by the model's name.
    _load_processor = None
    _load_tokenizer = False  # type: ignore[assignment]  # declared as None, which is the default
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rpn: str | Path | None = None,
        rpn_revision: str | None = None,
        policy: str | CropPolicy | None = None,
        policy_options: dict[str, Any] | None = None,
        first_look_tokens: int | None = None,
        gate_threshold: float | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> None:
        if rpn is None:
            raise ConfigError("the pipeline needs an RPN: give rpn, a local folder or Hub id")
        super().__init__(model, **kwargs)
        # Only now is the model on its device, where the RPN's layers follow it.
        self.roi_model = RoIModel.from_pretrained(
            self.model,
            rpn=rpn,
            rpn_revision=rpn_revision,
            policy=policy,
            policy_options=policy_options,
            first_look_tokens=first_look_tokens,
            gate_threshold=gate_threshold,
            processor=self.processor,
            local_files_only=local_files_only,
        )
        self.processor = self.roi_model.backbone.processor

    # As transformers' own pipeline for images and text, which takes two inputs as well.
    def __call__(  # type: ignore[override]
        self, images: Any = None, text: Any = None, **kwargs: Any
    ) -> Any:
        """Answer one question, several, or a stream of them.

        Args:
            images: an image (path, bytes or PIL image), or a list of them that one question is
                about; with several questions, a list that has one of these for each. Alternatively
                whole inputs, without ``text``: a dict ``{"images": ..., "text": ...}``, a chat (a
                list of messages), or a list, generator or data set of these.
            text: the question, or a list of questions.
            kwargs: ``batch_size`` and arguments of
                :func:`~sdrpn_core.answering.answer.answer_batch`, such as ``max_new_tokens``.

        Returns:
            A dict for one input, a list for a list, an iterator for a generator or a data set.
            Each dict has ``input_text``, ``generated_text``, ``outcome``, ``boxes`` (crops of all
            images, source pixels, half-open) and ``answer``, the
            :class:`~sdrpn_core.answering.results.Answer` with everything else.

        Raises:
            ImageError: an image cannot be read.
            InputError: a bad input, or a prompt that exceeds the model's context.
            ConfigError: an argument of ``generate()`` that cannot be passed on.
        """
        inputs = as_inputs(images, text)
        # The base class looks at the first entry of a list without checking that there is one.
        return [] if inputs == [] else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, generate_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if clash := sorted((generate_kwargs or {}).keys() & options.keys()):
            raise ConfigError(f"{', '.join(clash)} is given twice, also in generate_kwargs")
        return {}, {**(generate_kwargs or {}), **options}, {}

    def preprocess(self, input_: Any, **preprocess_parameters: Any) -> dict[str, Any]:
        """Open the images of one input."""
        return {"question": as_question(input_)}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        question = input_tensors["question"]
        (answer,) = self.roi_model.answer_batch([question], **options)
        return {"question": question, "answer": answer}

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> dict[str, Any]:
        """The result of one input."""
        question: Question = model_outputs["question"]
        answer: Answer = model_outputs["answer"]
        return {
            "input_text": question.text,
            "generated_text": answer.text,
            "outcome": str(answer.outcome),
            "boxes": answer.boxes,
            "answer": answer,
        }

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Answer many inputs in batches of similar length, in the order of the inputs.

        Inputs are read as they are needed, in this process: ``num_workers`` has no effect.
        """
        asked: dict[int, Question] = {}

        def questions() -> Iterator[Question]:
            for index, one in enumerate(_items(inputs)):
                try:
                    asked[index] = self.preprocess(one)["question"]
                except InputError as error:
                    raise type(error)(f"input {index}: {error}") from error
                yield asked[index]

        answers = self.roi_model.answer_stream(questions(), batch_size=batch_size, **forward_params)
        for index, answer in answers:
            yield self.postprocess({"question": asked.pop(index), "answer": answer})

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model and processor, and the RPN in the folder ``rpn`` inside.

        Args:
            save_directory: made if missing; ``pipeline(..., model=save_directory,
                rpn=f"{save_directory}/rpn")`` loads it.
            kwargs: further arguments of the model's ``save_pretrained``.
        """
        # Left there by transformers, which loads the processor with the model's options.
        processor = self.roi_model.backbone.processor
        processor.tokenizer.init_kwargs.pop("dtype", None)
        self.model.save_pretrained(save_directory, **kwargs)
        processor.save_pretrained(save_directory)
        self.roi_model.rpn.save_pretrained(Path(save_directory) / _RPN_FOLDER)


def _items(inputs: Any) -> Iterator[Any]:
    """One by one; a data set of torch has a length and entries, and need not be iterable."""
    if hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        for index in range(len(inputs)):
            yield inputs[index]
