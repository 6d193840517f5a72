"""Choose how sure a plain answer must be to stay, on held-out questions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.defaults import DEFAULT_MAX_LOSS
from sdrpn_bench.held_out import CalibratedThreshold, HeldOut, check_max_loss
from sdrpn_bench.operating_points import GatedQuestions, OperatingPoint
from sdrpn_bench.sweep import Sweep
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import InputError
from sdrpn_core.rpn.checkpoint import read_rpn_config

if TYPE_CHECKING:
    from sdrpn_bench.item_store import Row
    from sdrpn_core.data.record import Record

#: With the least threshold there is, every plain answer stays; with 1, none does.
_LEAST = 5e-324
_STAYING = Sweep("cascade", "confidence_threshold", (_LEAST,))
_LOOKING, (_PLAIN,) = _STAYING.method, _STAYING.variants({})
_FACT = "confidence"
#: What the loss is measured against: of a cascade's two answers the surer one stays.
_CROPPED = "sdrpn"


def calibrate_confidence(
    rpn: str | Path,
    data: str | Path | Sequence[Record],
    *,
    max_loss: float = DEFAULT_MAX_LOSS,
    certain: bool = False,
    **how: Any,
) -> CalibratedThreshold:
    """Choose the lowest ``confidence_threshold`` that costs no more than a stated accuracy.

    Every question is answered plainly, and again with its crops. The accuracy behind a threshold is
    then that of the plain answers that reach it, and of what
    :func:`~sdrpn_core.answering.answer.answer_batch` makes of the others. If even a threshold of 1
    costs more than it may, it is 1. Nothing is saved: the threshold is an argument of each call.

    Args:
        rpn: local folder or Hub id. A gate that it has is asked behind unsure answers.
        data: held-out questions with answers, that the RPN was not trained on: what
            ``read_records`` accepts.
        max_loss: how far accuracy may lie below that of always cropping.
        certain: hold the far end of the loss's 95% interval to ``max_loss``, so that other
            questions mostly keep within it, too; skips fewer regions.
        how: other fields of :class:`~sdrpn_bench.held_out.HeldOut`.

    Raises:
        ConfigError: ``max_loss`` is out of range, no ``out`` for several processes, or ``out``
            holds another run.
        InputError: no question could be answered.
        SdrpnError: see ``run_benchmark``.
    """
    check_max_loss(max_loss)
    config, _ = read_rpn_config(rpn)
    options = {_LOOKING: {"confidence_threshold": 1.0}, _CROPPED: {"gate_threshold": 0.0}}
    answers = HeldOut(data, **how).answer(rpn, config, options, [_STAYING])
    best, calibration, shown = answers.best(_questions(answers.rows), max_loss, certain=certain)
    points = tuple(replace(point, threshold=_confidence(point)) for point in shown)
    left_out = answers.left_out(_PLAIN, _FACT)
    return CalibratedThreshold(_confidence(best), calibration, points, left_out)


def _confidence(point: OperatingPoint) -> float:
    """How sure an answer is that is needed as little as the point's threshold says."""
    return max(round(1 - point.threshold, sys.float_info.dig), _LEAST)


def _questions(rows: Sequence[Row]) -> GatedQuestions:
    """The questions; the less sure a plain answer, the more a closer look is needed.

    Raises:
        InputError: there are none.
    """
    asked = [row["methods"] for row in rows if _FACT in row.get("methods", {}).get(_PLAIN, {})]
    if not asked:
        raise InputError("no question with an image could be answered: see the log")
    # An empty answer is sure of nothing and right about nothing: it never stays.
    stays = [methods[_PLAIN]["outcome"] == Outcome.NOT_NEEDED.value for methods in asked]
    pairs = [*zip(stays, (methods[_PLAIN] for methods in asked), strict=True)]
    return GatedQuestions(
        [1 - plain[_FACT] if is_kept else 1.0 for is_kept, plain in pairs],
        [plain["score"] if is_kept else 0.0 for is_kept, plain in pairs],
        [methods[_LOOKING]["score"] for methods in asked],
        [methods[_CROPPED]["score"] for methods in asked],
    )
