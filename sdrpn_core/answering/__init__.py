"""The two-stage answer: prefix, proposal, crops, response; alone, in batches, as a stream.

May import ``rpn``, ``gate``, ``taps``, ``runtime``, ``backbone``, ``crops``, ``labels``, ``data``,
``grid``, ``plugins``, ``util``, ``errors``.
"""
