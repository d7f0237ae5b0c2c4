"""Evaluation in bits per byte."""
