"""Pose files and videos in, who walks there out: a gallery of enrolled people, distances and a calibrated unknown."""
