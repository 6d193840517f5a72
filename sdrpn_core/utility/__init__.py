"""The utility stage: what candidate crops are worth, for gates, refinement and reports.

May import ``answering``, ``shards``, ``rpn``, ``gate``, ``taps``, ``runtime``, ``backbone``,
``crops``, ``labels``, ``data``, ``grid``, ``plugins``, ``util``, ``distributed``, ``errors``.
"""
