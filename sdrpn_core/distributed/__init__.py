"""The processes of a run: how they join, wait for each other, and notice when one dies.

May import ``errors`` alone.
"""
