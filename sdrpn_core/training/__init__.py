"""The train stage: batches of labels and features, the loop, checkpoints, a feature cache.

May import ``utility``, ``rpn``, ``gate``, ``labeling``, ``shards``, ``taps``, ``runtime``,
``backbone``, ``crops``, ``labels``, ``data``, ``grid``, ``plugins``, ``util``, ``distributed``,
``errors``.
"""
