"""Which RPN made a map: a checksum of the weights that a map depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.util.checksums import tensor_checksum

if TYPE_CHECKING:
    from sdrpn_core.rpn.model import RPN

#: Before the names of a gate's weights.
_GATE = "gate."


def map_checksum(rpn: RPN) -> str:
    """SHA-256 of the trunk's and the head's weights; a gate's are left out.

    Two RPNs that differ in their gate, or of which one has none, propose the same regions.
    """
    weights = rpn.state_dict().items()
    return tensor_checksum({name: value for name, value in weights if not name.startswith(_GATE)})
