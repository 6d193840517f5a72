"""The visual tokens' grid: where its cells lie in the image, maps over it, drawings of these.

May import ``errors`` alone.
"""
