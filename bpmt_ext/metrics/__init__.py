"""Embeddings or per-probe values in, numbers out: ranking, retrieval protocols, paired bootstrap, yardsticks.

Pure functions over arrays; nothing here knows a network, an engine or a host.
"""
