"""Pickles and partition files in, batches of poses with their masks out: sequences, transforms, batches, pickles."""
