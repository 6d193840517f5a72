"""How to read a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_bench.bootstrap import N_RESAMPLES
from sdrpn_bench.curve_report import NOTES
from sdrpn_bench.report_cells import CROP_HITS, MAP_HITS
from sdrpn_core.util.wilson import Z95

_INTERVALS = (
    f"Accuracies have Wilson score intervals (z = {Z95:.2f}); differences are paired by item, "
    "with Newcombe's interval (1998, method 10). Where scores lie between 0 and 1, and for totals "
    f"such as F1, items are resampled instead ({N_RESAMPLES} times, percentile intervals), and "
    "there is no McNemar test. All of these reflect how much the choice of items may matter, not "
    "the effect of another training run or another prompt, and they are not corrected for multiple "
    "comparisons."
)
_CONTROLS = (
    "`random` and `oracle` know the true box (its size, and all of it): they are controls, not "
    "practical methods. `full` takes its number of visual tokens from an answer that is no part of "
    "its cost. `attention` takes an entire plain answer before its second pass. Where only the "
    "policy changes in a sweep, maps are computed once, and each point is charged for them."
)
_POINTING = (
    f"{MAP_HITS.capitalize()}: of the questions with true boxes for which the method made a map, "
    "cropped or not, how many have its highest cell in such a box. "
    f"{CROP_HITS.capitalize()}: of all questions with true boxes, how many have a crop with the "
    "center of one. A question that was not cropped counts as a miss in the second, whatever the "
    "reason; where there was no map, as behind a gate or a sure answer of `cascade`, it does not "
    "count in the first. Neither counts items on which the method failed."
)


def notes(results: Mapping[str, Any]) -> list[str]:
    """A list in Markdown: what the numbers mean, and what they do not show.

    Args:
        results: what ``run_benchmark`` returned.
    """
    errors = {
        f"{method} ({name})": values["errors"]
        for name, model in results["models"].items()
        for method, values in model["methods"].items()
        if values["errors"]
    }
    failed = ": " + ", ".join(f"{k} {v}" for k, v in errors.items()) if errors else ""
    items = (
        "Items whose image cannot be read are skipped for all methods; an item on which only one "
        f"method fails counts as wrong for that method{failed}."
    )
    costs = (
        f"Wall times are per question, in batches of {results['batch_size']}, and exclude opening "
        "the images. The methods take turns on every batch, so that a busy machine slows down all "
        "of them: ratios mean more than seconds. By stage: `vision` encodes the image. In a plain "
        "answer, `prefill` runs the prompt; otherwise, `prefix` runs it up to the end of "
        "the image, `question` runs the rest up to the branch layer, `proposal` scores the map and "
        "chooses the crops, `crop` encodes them, and `roi_prefill` runs them and the question. "
        "`decode` generates the response."
    )
    found = [_INTERVALS, items, costs, *NOTES, _CONTROLS]
    if any(
        any(values["pointing"].values())
        for model in results["models"].values()
        for values in model["methods"].values()
    ):
        found.append(_POINTING)
    options = {name: values for name, values in results["method_options"].items() if values}
    if options:
        listed = "; ".join(
            f"{name}: " + ", ".join(f"{key} = {value}" for key, value in values.items())
            for name, values in options.items()
        )
        found.append(f"Options (None: the default of the model): {listed}.")
    return [f"- {note}" for note in found]
