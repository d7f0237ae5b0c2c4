"""The whole suite runs with types and shapes checked at every call, on one thread."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits sleeps: tests share the machine

from jaxtyping import install_import_hook

import groundup.kernels.ngram  # noqa: F401  numba compiles these functions, and cannot compile a check around them

install_import_hook("groundup", "checking.typechecker")  # before anything else of groundup is imported

import torch  # noqa: E402

torch.set_num_threads(1)  # one order of summation, and no thread to wake for tensors this small
