"""The utility stage: what candidate crops are worth, for gates, refinement and reports.

May import ``answering``, ``labeling``, ``shards``, ``rpn``, ``gate``, ``runtime``, ``backbone``,
``crops``, ``data``, ``grid``, ``plugins``, ``util``, ``distributed``, ``errors``.
"""
