"""The train stage: batches of labels and features, the loop, checkpoints, a feature cache.

May import ``rpn``, ``gate``, ``labeling``, ``taps``, ``runtime``, ``backbone``, ``labels``,
``data``, ``grid``, ``plugins``, ``util``, ``distributed``, ``errors``.
"""
