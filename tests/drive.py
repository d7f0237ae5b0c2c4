"""The command line in a process of its own, on one thread and with a machine that is known beforehand instead of measured.

With DRIVE_CLOCK set to seconds, time stands still but for so much whenever the books of the run ask for it.
"""

import itertools
import os
import sys
from types import SimpleNamespace

import torch

from groundup import cli, job, recorder
from groundup.account.rules import Machine
from groundup.rehearsal import Rehearsal

if __name__ == "__main__":
    torch.set_num_threads(1)
    job.measure_machine = lambda device, dtype, most_s: Machine("a known machine", "cpu", 1e-11, 1e-9, 1e11, 2.5e6, 8 << 30)
    if tick := float(os.environ.get("DRIVE_CLOCK", 0)):
        ticks = itertools.count()
        recorder.time = SimpleNamespace(monotonic=lambda: tick * next(ticks))
        job.rehearse = lambda *_: Rehearsal(step=0.5, scored_token=1e-5, written_token=1e-5)
    cli.main(sys.argv[1:])
