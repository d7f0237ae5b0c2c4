"""Weights as files: read tensor by tensor from what others store them in, and written so that others can read them."""
