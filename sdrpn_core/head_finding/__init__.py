"""Finding the heads that look at what a question is about, and the layer to branch off at.

May import ``taps``, ``runtime``, ``backbone``, ``labels``, ``data``, ``grid``, ``plugins``,
``util``, ``distributed``, ``errors``.
"""
