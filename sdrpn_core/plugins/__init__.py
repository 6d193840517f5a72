"""How sdrpn is extended: hooks, registries, and the manager that loads what is installed.

May import ``errors`` alone.
"""
