"""The Region Proposal Network: configuration, model, heads, losses and checkpoints."""

from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.head import HeadInputs, RPNHead
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.rpn.model import RPN, PicturePlace, RoIScores

__all__ = [
    "LOSS_FUNCTIONS",
    "RPN",
    "HeadInputs",
    "PicturePlace",
    "RPNConfig",
    "RPNHead",
    "RoIScores",
]
