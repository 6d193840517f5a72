"""The label stage: from questions about images to labeled shards, in any number of processes.

May import ``shards``, ``taps``, ``runtime``, ``backbone``, ``labels``, ``data``, ``grid``,
``plugins``, ``util``, ``distributed``, ``errors``.
"""
