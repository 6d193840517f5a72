"""The gate: whether a question needs a closer look at all, and from which labels that is learned.

May import ``taps``, ``runtime``, ``backbone``, ``labels``, ``grid``, ``plugins``, ``util``,
``errors``.
"""
