"""A stock model and its family's conventions: adapter, prompt, loading, preset.

May import ``crops``, ``labels``, ``data``, ``grid``, ``plugins``, ``util``, ``distributed``,
``errors``.
"""
