"""Where the second look's regions come from."""

from sdrpn_core.proposers.attention import AttentionProposer
from sdrpn_core.proposers.base import Proposal, Proposer
from sdrpn_core.proposers.rpn import RPNProposer, make_policy

__all__ = ["AttentionProposer", "Proposal", "Proposer", "RPNProposer", "make_policy"]
