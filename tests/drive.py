"""The command line in a process of its own, on one thread and with a machine that is known beforehand instead of measured."""

import sys

import torch

from groundup import cli, job
from groundup.account.rules import Machine

if __name__ == "__main__":
    torch.set_num_threads(1)
    job.measure_machine = lambda device, dtype: Machine("a known machine", "cpu", 1e-11, 1e-9, 1e11, 2.5e6, 8 << 30)
    cli.main(sys.argv[1:])
