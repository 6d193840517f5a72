"""Running the decoder: blocks of sequences, their KV cache, ``generate()``, time per stage.

May import ``backbone``, ``grid``, ``util``, ``errors``.
"""
