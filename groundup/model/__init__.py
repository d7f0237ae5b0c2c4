"""The decoder: layers as functions of tensors, and the modules that hold their weights."""
