"""The processes of a run: how they join, wait for each other, and notice a dead one.

May import ``errors`` alone.
"""
