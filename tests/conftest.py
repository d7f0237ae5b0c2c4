"""The whole suite runs with types and shapes checked at every call, on one thread."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits sleeps: tests share the machine

from jaxtyping import install_import_hook

install_import_hook("groundup", "checking.typechecker")  # before anything imports groundup

import torch

torch.set_num_threads(1)  # one order of summation, and no thread to wake for tensors this small
