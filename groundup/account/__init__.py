"""What a model costs before it is run: parameters, FLOPs, bytes, time and money, from its ModelConfig alone and without torch."""

from groundup.account.budget import Budget, format_bytes, format_count, format_flops, format_seconds, format_usd, parse_budget
from groundup.account.component import Component, Weight
from groundup.account.cost import Cost, Row, cost
from groundup.account.devices import DEVICES, Device, detect
from groundup.account.execution import CPU, GPU, IDEAL, Execution
from groundup.account.hardware import (
    cpu,
    peak_process_memory_bytes,
    process_memory_bytes,
    reset_peak_process_memory,
    total_memory_bytes,
    usable_cores,
)
from groundup.account.layout import Layout
from groundup.account.measured import find_ceilings, find_device, load_measured
from groundup.account.memory import Memory, training_memory
from groundup.account.roofline import Ceilings, StepTime, step_time
from groundup.account.tree import causal_pairs, executed_pairs, prior_gate_parameters

__all__ = [
    "CPU",
    "DEVICES",
    "GPU",
    "IDEAL",
    "Budget",
    "Ceilings",
    "Component",
    "Cost",
    "Device",
    "Execution",
    "Layout",
    "Memory",
    "Row",
    "StepTime",
    "Weight",
    "causal_pairs",
    "cost",
    "cpu",
    "detect",
    "executed_pairs",
    "find_ceilings",
    "find_device",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_seconds",
    "format_usd",
    "load_measured",
    "parse_budget",
    "peak_process_memory_bytes",
    "prior_gate_parameters",
    "process_memory_bytes",
    "reset_peak_process_memory",
    "step_time",
    "total_memory_bytes",
    "training_memory",
    "usable_cores",
]
