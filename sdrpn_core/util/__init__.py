"""Small mechanisms without a subject of their own: files, settings, manifests, numbers.

May import ``errors`` alone.
"""
