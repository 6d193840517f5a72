"""Crop policies: from an RoI map and a geometry to the regions that are cropped.

May import ``grid``, ``plugins``, ``util``, ``errors``.
"""
