"""Threads that share the rows of a batch: how many, what they return, and what becomes of their errors."""

import threading

import pytest
import torch

from groundup.parallel.threads import LEAST_TOKENS, MOST_WORKERS, n_workers, run_together

CPU = torch.device("cpu")


def test_as_many_as_the_work_is_worth(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 16)
    assert n_workers(CPU, 64, LEAST_TOKENS) == MOST_WORKERS
    assert n_workers(CPU, 3, LEAST_TOKENS) == 3
    assert n_workers(CPU, 4, LEAST_TOKENS // 2) == 2
    assert n_workers(CPU, 4, 1) == n_workers(torch.device("cuda"), 64, LEAST_TOKENS) == 1
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert n_workers(CPU, 64, LEAST_TOKENS) == 1


def test_calls_run_at_once_and_answer_in_order():
    meet = threading.Barrier(3, timeout=20)  # broken unless all three are there together

    def call(i: int) -> int:
        meet.wait()
        return i

    assert run_together([lambda i=i: call(i) for i in range(3)]) == [0, 1, 2]


def test_each_call_gets_its_share_of_threads_and_all_come_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert run_together([torch.get_num_threads] * 2) == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_is_raised_once_all_have_ended(which):
    ended = []

    def call(i: int) -> None:
        if i == which:
            raise ZeroDivisionError
        ended.append(i)

    with pytest.raises(ZeroDivisionError):
        run_together([lambda i=i: call(i) for i in range(2)])
    assert ended == [1 - which]
