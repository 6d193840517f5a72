"""What the core itself brings, registered through the same hooks as any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdrpn_core.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

SDRPN_API = 1


@hookimpl
def sdrpn_register_rpn_heads(registry: Registry[Any]) -> None:
    """The paper's head, and a convolutional one."""
    registry.add(
        "qk",
        "sdrpn_core.rpn.qk_head:QKHead",
        help="query-key products of the last prompt token and the visual tokens (the paper's)",
    )
    registry.add(
        "conv",
        "sdrpn_core.rpn.conv_head:ConvHead",
        help="convolutions over the grid of RPN features",
    )


@hookimpl
def sdrpn_register_gates(registry: Registry[Any]) -> None:
    """The published gate, and two that cost next to nothing."""
    registry.add(
        "decoder",
        "sdrpn_core.gate.gate:DecoderGate",
        help="decoder layers of its own and a linear layer, before the RPN (Q-Zoom's)",
    )
    registry.add(
        "linear",
        "sdrpn_core.gate.region_gates:LinearGate",
        help="a linear layer on what leaves the RPN's trunk",
    )
    registry.add(
        "mlp",
        "sdrpn_core.gate.region_gates:MlpGate",
        help="two linear layers on what leaves the RPN's trunk",
    )


@hookimpl
def sdrpn_register_geometries(registry: Registry[Any]) -> None:
    """The ways to preprocess an image that several families share."""
    module = "sdrpn_core.grid.geometry"
    registry.add("padded_square", f"{module}:PaddedSquare", help="padded to a square, then scaled")
    registry.add("letterboxed", f"{module}:Letterboxed", help="scaled, then padded to a square")
    registry.add("resized", f"{module}:Resized", help="stretched to whole cells")
    registry.add(
        "resized_with_breaks",
        f"{module}:ResizedWithBreaks",
        help="stretched to all columns of cells but the last, which holds row breaks",
    )


@hookimpl
def sdrpn_register_crop_policies(registry: Registry[Any]) -> None:
    """The paper's two policies."""
    registry.add("bbox", "sdrpn_core.crops.bbox:BboxPolicy", help="one crop per connected region")
    registry.add(
        "mask",
        "sdrpn_core.crops.mask:MaskPolicy",
        help="one enclosing crop; tokens outside the regions are dropped",
    )


@hookimpl
def sdrpn_register_pseudo_labelers(registry: Registry[Any]) -> None:
    """The paper's rule."""
    registry.add(
        "threshold",
        "sdrpn_core.labels.pseudo:ThresholdLabeler",
        help="sinks dropped, then foreground, background and ignored cells by threshold",
    )


@hookimpl
def sdrpn_register_label_engines(registry: Registry[Any]) -> None:
    """The processes that are there already."""
    registry.add(
        "local",
        "sdrpn_core.labeling.engine:LocalEngine",
        help="this process, or the processes that `accelerate launch` started",
    )


@hookimpl
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """The stages of the method, and the list of plugins."""
    registry.add(
        "plugins",
        "sdrpn_core.cli.plugins_command:plugins",
        help="List plugins, their status, and what each one registers.",
    )
    registry.add(
        "doctor",
        "sdrpn_core.cli.doctor_command:doctor",
        help="Check this installation: what works here, and what to install for the rest.",
    )
    registry.add(
        "heads",
        "sdrpn_core.cli.heads_command:heads",
        help="Find a backbone's grounding heads and branch layer, on images with known boxes.",
    )
    registry.add(
        "label",
        "sdrpn_core.cli.label_command:label",
        help="Turn questions about images into pseudo-labels, without annotations.",
    )
    registry.add(
        "utility",
        "sdrpn_core.cli.utility_command:utility",
        help="Judge crops by how much more likely they make a reference response.",
    )
    registry.add(
        "ladder",
        "sdrpn_core.cli.ladder_command:ladder",
        help="Answer questions at several budgets of visual tokens, for the labels of a gate.",
    )
    registry.add(
        "train",
        "sdrpn_core.cli.train_command:train",
        help="Train an RPN for a frozen backbone.",
    )
    registry.add(
        "refine",
        "sdrpn_core.cli.refine_command:refine",
        help="Refine a trained RPN by what its regions bring.",
    )
    registry.add(
        "ask",
        "sdrpn_core.cli.ask_command:ask",
        help="Answer a question about an image, with a closer look at the region that matters.",
    )
    registry.add(
        "roi",
        "sdrpn_core.cli.roi_command:roi",
        help="Show where the RPN would look, without answering.",
    )
