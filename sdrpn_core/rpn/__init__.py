"""The Region Proposal Network: configuration, trunk, heads, losses, checkpoints, prediction.

May import ``gate``, ``taps``, ``runtime``, ``backbone``, ``crops``, ``labels``, ``grid``,
``plugins``, ``util``, ``errors``.
"""
