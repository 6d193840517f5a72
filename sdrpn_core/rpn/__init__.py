"""The Region Proposal Network: configuration, trunk, heads, losses, checkpoints, prediction.

May import ``taps``, ``runtime``, ``backbone``, ``crops``, ``labels``, ``grid``, ``plugins``,
``util``, ``errors``.
"""
