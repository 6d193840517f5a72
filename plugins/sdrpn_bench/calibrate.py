"""Calibrate the gate of an RPN: choose its threshold once, on held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.defaults import DEFAULT_MAX_LOSS
from sdrpn_bench.held_out import CalibratedThreshold, HeldOut, check_max_loss
from sdrpn_bench.operating_points import GatedQuestions
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.errors import CheckpointError, InputError
from sdrpn_core.rpn.checkpoint import read_rpn_config, save_gate_threshold

if TYPE_CHECKING:
    from sdrpn_bench.item_store import Row
    from sdrpn_core.data.record import Record

#: Plain answers, after the same first look, are what a closed gate leaves. A threshold of 1 may not
#: close it: a probability can be 1 to the last bit.
_CROPPED, _PLAIN = "sdrpn", "baseline"
_FACT = "gate"


def calibrate_gate(
    rpn: str | Path,
    data: str | Path | Sequence[Record],
    *,
    max_loss: float = DEFAULT_MAX_LOSS,
    certain: bool = False,
    **how: Any,
) -> CalibratedThreshold:
    """Choose the highest threshold that costs no more than a stated accuracy, and save it.

    Every question is answered plainly and with its crop, and the gate is asked. The accuracy behind
    a threshold is then that of the plain answers below it and of the cropped ones above.

    Args:
        rpn: local folder of an RPN with a gate; its ``config.json`` is rewritten.
        data: held-out questions with answers, that neither RPN nor gate were trained on: what
            ``read_records`` accepts.
        max_loss: how far accuracy may lie below that of always cropping.
        certain: hold the far end of the loss's 95% interval to ``max_loss``, so that other
            questions mostly keep within it, too; skips fewer regions.
        how: other fields of :class:`~sdrpn_bench.held_out.HeldOut`.

    Raises:
        CheckpointError: no local RPN there, or one without a gate.
        ConfigError: ``max_loss`` is out of range, no ``out`` for several processes, or ``out``
            holds another run.
        InputError: no question could be answered.
        SdrpnError: see ``run_benchmark``.
    """
    check_max_loss(max_loss)
    if not Path(rpn).is_dir():
        raise CheckpointError(f"{rpn}: no such RPN folder; only a local one can be calibrated")
    config, _ = read_rpn_config(rpn)
    if config.gate is None:
        raise CheckpointError(
            f"{rpn}: this RPN has no gate: train one (`sdrpn train` says how), or calibrate how "
            "sure a plain answer must be (--confidence)"
        )
    held_out = HeldOut(data, **how)
    # The same run whatever was calibrated before.
    uncalibrated = replace(config, gate=replace(config.gate, threshold=0.0, calibration=None))
    options = {"gate_threshold": 0.0, "always_ask_gate": True}
    answers = held_out.answer(rpn, uncalibrated, {_CROPPED: options, _PLAIN: {}})
    best, calibration, shown = answers.best(_questions(answers.rows), max_loss, certain=certain)
    state = processes((held_out.load_options or {}).get("device"))
    if state.is_main_process:
        save_gate_threshold(rpn, best.threshold, calibration)
    wait_for_everyone(state)
    return CalibratedThreshold(
        best.threshold, calibration, shown, answers.left_out(_CROPPED, _FACT)
    )


def _questions(rows: Sequence[Row]) -> GatedQuestions:
    """The questions that the gate was asked about.

    Raises:
        InputError: there are none.
    """
    asked = [row["methods"] for row in rows if _FACT in row.get("methods", {}).get(_CROPPED, {})]
    if not asked:
        raise InputError("the gate could not be asked about any of the questions: see the log")
    return GatedQuestions(
        [methods[_CROPPED][_FACT] for methods in asked],
        [methods[_PLAIN]["score"] for methods in asked],
        [methods[_CROPPED]["score"] for methods in asked],
    )
