"""A host's base model in, our networks under its contract out. The only place that knows a host."""
