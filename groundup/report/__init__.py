"""Reports of runs: one self-contained HTML page and PNG plots from the files of a run folder, and comparisons of several runs."""

from groundup.report.compare import RunSummary, compare, list_runs, plot_runs, summarize
from groundup.report.page import write_report

__all__ = ["RunSummary", "compare", "list_runs", "plot_runs", "summarize", "write_report"]
