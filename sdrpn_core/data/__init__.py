"""Records and images: what is asked about what, from files and registered datasets.

May import ``grid``, ``plugins``, ``util``, ``errors``.
"""
