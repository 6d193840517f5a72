"""Records and images: questions about images, from files and registered datasets.

May import ``grid``, ``plugins``, ``util``, ``errors``.
"""
