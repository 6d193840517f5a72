"""Pseudo-labels: from grounding and sink maps to RoI targets, and the recipes for them.

May import ``grid``, ``plugins``, ``util``, ``errors``.
"""
