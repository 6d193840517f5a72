"""Finding the grounding heads, the sinks and the branch layer of a backbone without a preset.

May import ``taps``, ``runtime``, ``backbone``, ``labels``, ``data``, ``grid``, ``plugins``,
``util``, ``distributed``, ``errors``.
"""
