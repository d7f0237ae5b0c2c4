"""Inference: the cache, the sampler, generation."""
