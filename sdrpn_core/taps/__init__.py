"""What is read from a running decoder: hidden states at a layer, attention rows of heads.

May import ``runtime``, ``backbone``, ``labels``, ``grid``, ``util``, ``errors``.
"""
