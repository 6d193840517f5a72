"""Pseudo-labels: from grounding and sink maps to RoI targets, and the recipes for that.

May import ``grid``, ``plugins``, ``util``, ``errors``.
"""
