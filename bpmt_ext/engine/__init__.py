"""Settings in, a trained and tested run on disk out: the embedded engine."""
