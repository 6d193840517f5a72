"""The model card of an RPN: what it is, what it was trained on, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.backbone_source import is_hub_id

PAPER = "2509.16944"
"""arXiv id of the method's paper."""

_PAPER_TITLE = (
    "Catching the Details: Self-Distilled RoI Predictors for Fine-Grained MLLM Perception"
)
_TASK = "image-text-to-text"
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CardMetric:
    """One measured figure.

    Attributes:
        dataset: the data set's name, or its id on the Hub.
        name: of the metric, such as ``accuracy``.
        value: of the backbone with this RPN.
        interval: ends of its 95% confidence interval.
        n: number of questions.
        baseline: the value of the backbone alone, if it was measured.

    Raises:
        ConfigError: the value lies outside of its interval, or ``n`` is not positive.
    """

    dataset: str
    name: str
    value: float
    interval: tuple[float, float]
    n: int
    baseline: float | None = None

    def __post_init__(self) -> None:
        low, high = self.interval
        if not low <= self.value <= high:
            raise ConfigError(
                f"model card: {self.name} on {self.dataset} is {self.value}, which lies outside of "
                f"its interval [{low}, {high}]"
            )
        if self.n < 1:
            raise ConfigError(f"model card: n must be 1 or more, not {self.n}")


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides the configuration.

    Attributes:
        license: identifier as on the Hub, such as ``apache-2.0``. The RPN's layers started as
            copies of the backbone's, whose license has a say.
        datasets: names or Hub ids of the data sets that it was trained on.
        metrics: how well it does.
    """

    license: str | None = None
    datasets: tuple[str, ...] = ()
    metrics: tuple[CardMetric, ...] = ()


def make_card(
    config: Mapping[str, Any], facts: CardFacts, source: str = "path/or/hub-id/of/this/rpn"
) -> ModelCard:
    """The card of an RPN.

    Args:
        config: its configuration, as plain values.
        facts: what the configuration does not say.
        source: what to load it from, for the example.

    Raises:
        ConfigError: the facts are no ``CardFacts``.
    """
    if not isinstance(facts, CardFacts):
        raise ConfigError(
            f"the card must be CardFacts, not {type(facts).__name__}: write CardFacts(license=...)"
        )
    name = str(config["backbone"].get("name") or "")
    # A local path says nothing to others, and the Hub rejects it.
    base = name if is_hub_id(name) else None
    data = ModelCardData(
        license=facts.license,
        library_name="sdrpn",
        base_model=base,
        datasets=list(facts.datasets) or None,
        metrics=sorted({metric.name for metric in facts.metrics}) or None,
        eval_results=[_eval_result(metric) for metric in facts.metrics] or None,
        model_name=_model_name(name) if facts.metrics else None,
        pipeline_tag=_TASK,
        tags=["sdrpn", "region-proposal", "roi", f"arxiv:{PAPER}"],
    )
    if base:
        data["base_model_relation"] = "adapter"
    sections = [
        _summary(config, name),
        _results(facts.metrics),
        _training(facts),
        _usage(source, base),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(filter(None, sections)))


def _model_name(backbone: str) -> str:
    return f"RPN for {Path(backbone).name or 'an unnamed backbone'}"


def _eval_result(metric: CardMetric) -> EvalResult:
    return EvalResult(
        task_type=_TASK,
        dataset_type=metric.dataset,
        dataset_name=metric.dataset,
        metric_type=metric.name,
        metric_value=metric.value,
        metric_args={
            "confidence": _CONFIDENCE,
            "interval": list(metric.interval),
            "n": metric.n,
        },
    )


def _summary(config: Mapping[str, Any], name: str) -> str:
    backbone = config["backbone"]
    options = ", ".join(f"{key} = {value}" for key, value in config["policy_options"].items())
    return f"""\
# Region proposal network

Predicts which visual tokens a question is about, from inside a frozen backbone. The method is
SD-RPN: [{_PAPER_TITLE}](https://arxiv.org/abs/{PAPER}).

- backbone: {Path(name).name or "unnamed"} ({backbone.get("model_type")}, \
{backbone.get("num_hidden_layers")} layers of width {backbone.get("hidden_size")})
- branch layer {config["branch"]}, {config["n_layers"]} RPN layers, head `{config["head"]}`, \
loss `{config["loss"]}`
- crop policy `{config["policy"]}`{f" ({options})" if options else ""}
{_gate(config.get("gate"))}\
- versions: {", ".join(f"{key} {value}" for key, value in sorted(config["versions"].items()))}
"""


def _gate(gate: Mapping[str, Any] | None) -> str:
    """Which gate there is; its threshold may be chosen anew, and stands in the configuration."""
    if gate is None:
        return ""
    learned = f", which learned from labels by {gate['labels']}" if gate["labels"] else ""
    return f"- gate `{gate['name']}`{learned}\n"


def _results(metrics: tuple[CardMetric, ...]) -> str:
    if not metrics:
        return ""
    lines = [
        "## Results",
        "",
        f"Intervals cover {_CONFIDENCE:.0%}.",
        "",
        "| data set | metric | backbone alone | with this RPN | questions |",
        "|---|---|---|---|---|",
    ]
    for one in metrics:
        baseline = "" if one.baseline is None else f"{one.baseline:.3f}"
        low, high = one.interval
        value = f"{one.value:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"| {one.dataset} | {one.name} | {baseline} | {value} | {one.n} |")
    return "\n".join([*lines, ""])


def _training(facts: CardFacts) -> str:
    on = f"Trained on {', '.join(facts.datasets)}; the" if facts.datasets else "The"
    license = facts.license or "not stated; the RPN's layers started as copies of the backbone's"
    return f"""\
## Training and license

{on} labels are the backbone's own attention, denoised: no box was annotated.
License: {license}.
"""


def _usage(source: str, base: str | None) -> str:
    if base:
        call = f'RoIModel.from_pretrained("{source}")'
    else:
        call = f'RoIModel.from_pretrained("path/or/hub-id/of/the/backbone", rpn="{source}")'
    return f"""\
## Use

```python
from sdrpn_core import RoIModel

model = {call}
answer = model.answer("photo.jpg", "What is written on the sign?")
print(answer.text, answer.outcome, answer.boxes)
answer.overlay("photo.jpg").save("overlay.png")
```
"""
