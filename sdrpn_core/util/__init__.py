"""Small mechanisms without a subject of their own: files, options, manifests, numbers.

May import ``errors`` alone.
"""
