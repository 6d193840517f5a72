"""The label stage: questions about images become labeled shards, in any number of processes.

May import ``taps``, ``runtime``, ``backbone``, ``labels``, ``data``, ``grid``, ``plugins``,
``util``, ``distributed``, ``errors``.
"""
