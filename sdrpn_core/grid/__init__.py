"""The grid of visual tokens: where its cells lie in the image, maps over it, drawings of maps.

May import ``plugins``, ``errors``.
"""
