"""Poses of body parts in, gait identities and actions out: five parts as five modalities, trained in three stages.

Importing this package does nothing heavy; torch is imported where a network or an array is made.
"""

__version__ = "0.1.0"
