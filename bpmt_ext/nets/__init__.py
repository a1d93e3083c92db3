"""Networks: pose (n, t, v, c) and mask (n, t) in, a dict of embeddings and logits, or of losses, out."""
