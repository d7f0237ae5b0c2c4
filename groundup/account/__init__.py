"""What a model costs before it is run: parameters, FLOPs, bytes, time and money, from its ModelConfig alone and without torch."""

from groundup.account.budget import Budget, format_bytes, format_count, format_flops, format_seconds, format_usd, parse_budget
from groundup.account.cost import Component, Cost, Row, Weight, causal_pairs, cost, executed_pairs, prior_gate_parameters
from groundup.account.hardware import (
    DEVICES,
    Device,
    cpu,
    detect,
    find_device,
    peak_process_memory_bytes,
    process_memory_bytes,
    reset_peak_process_memory,
    total_memory_bytes,
    usable_cores,
)
from groundup.account.memory import CPU, GPU, Execution, Memory, training_memory

__all__ = [
    "CPU",
    "DEVICES",
    "GPU",
    "Budget",
    "Component",
    "Cost",
    "Device",
    "Execution",
    "Memory",
    "Row",
    "Weight",
    "causal_pairs",
    "cost",
    "cpu",
    "detect",
    "executed_pairs",
    "find_device",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_seconds",
    "format_usd",
    "parse_budget",
    "peak_process_memory_bytes",
    "prior_gate_parameters",
    "process_memory_bytes",
    "reset_peak_process_memory",
    "total_memory_bytes",
    "training_memory",
    "usable_cores",
]
