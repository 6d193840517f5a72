"""Runs that make one row per record: resumable, in parquet shards, in any number of processes.

May import ``data``, ``grid``, ``util``, ``distributed``, ``errors``.
"""
