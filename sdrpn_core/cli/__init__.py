"""The command ``sdrpn``: one small file per command, imported only when that command runs.

May import every room but ``testing``.
"""
