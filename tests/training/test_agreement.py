"""What the processes of a run agree on, with another process in this one."""

from types import SimpleNamespace

import pytest
import torch

from hf_wgan.training.agreement import SECONDS_TO_FINISH, Agreement
from hf_wgan.training.callbacks import TrainerControl


@pytest.fixture
def other(monkeypatch):
    """Hold the values that another process sends, in the order of the exchanges; zeros once they are used up."""
    values = []

    def all_reduce(numbers, op, group, async_op):
        outcome = torch.maximum(numbers, torch.tensor(values.pop(0) if values else [0] * len(numbers)))
        numbers.zero_()
        return SimpleNamespace(wait=lambda timeout=None: numbers.copy_(outcome))

    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: object())
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return values


def agreement():
    return Agreement(SimpleNamespace(num_processes=2))


def test_values_are_exchanged_at_once_or_at_the_next_call(other):
    exchange = agreement()
    other += [[15, 0], [0, 0], [0, 2], [0, 0]]
    assert exchange.largest([0, 1]) == [15, 1]
    assert exchange.largest([0, 0], lags=True) == [0, 0]
    assert exchange.largest([0, 0], lags=True) == [0, 0]
    assert exchange.largest([1, 0]) == [1, 2], "what is pending is not lost"
    assert exchange.largest([0, 0]) == [0, 0]


def test_signals_lag_a_step_and_what_is_due_never_does(other):
    exchange, control = agreement(), TrainerControl()
    other += [[15, 0, 0, 0, 0, 0]]
    with exchange.lagging():
        assert exchange.settle(control, 0, lags=True) == 0
        control.should_save = True
        assert exchange.settle(control, 0, lags=True) == 15 and control.should_save
        control.reset()
        assert exchange.settle(control, 2, lags=False) == 2, "callbacks of one's own may differ between processes"
    assert exchange.settle(control, 2, lags=True) == 2, "and so may a loop over iterate"


@pytest.mark.parametrize("ends", [True, False])
def test_a_loop_that_fails_leaves_no_exchange_under_way(ends, other, monkeypatch):
    limits = []

    def wait(limit):
        limits.append(limit.total_seconds())
        if not ends:
            raise RuntimeError("Operation timed out!")

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *values, **options: SimpleNamespace(wait=wait))
    exchange = agreement()
    with pytest.raises(KeyError, match="the loop's own"), exchange.lagging():
        exchange.settle(TrainerControl(), 0, lags=True)
        raise KeyError("the loop's own")
    assert limits == [SECONDS_TO_FINISH]
