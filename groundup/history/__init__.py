"""The road from Shannon's counts to today's decoders: each stop a real implementation, scored on the same held-out bytes."""
