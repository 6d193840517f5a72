"""How sdrpn is extended: hooks, registries, and the manager that loads installed plugins.

May import ``errors`` alone.
"""
