import pytest
import torch

from hf_wgan.algorithm.random import Draws

KINDS = {"rand": {}, "randn": {}, "float64": {"dtype": torch.float64}}


def drawn(draws, kind, number):
    name = kind if kind in ("rand", "randn") else "randn"
    return [getattr(draws, name)((number, *shape), **KINDS[kind]) for shape in ((3,), (1, 1, 1), ())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_processes, num_parts", [(2, 1), (1, 3), (2, 3)])
def test_shares_of_a_batch_make_up_the_whole(kind, num_processes, num_parts):
    whole = Draws()
    whole.seed(5)
    whole.begin(0)
    expected = drawn(whole, kind, 12)
    shares = {}
    for process in range(num_processes):
        draws = Draws("cpu", num_processes, process, num_parts)
        draws.seed(5)
        for part in range(num_parts):
            draws.begin(part)
            shares[part, process] = drawn(draws, kind, 12 // num_processes // num_parts)
    for number, tensor in enumerate(expected):
        assert torch.equal(torch.cat([shares[key][number] for key in sorted(shares)]), tensor)


def test_updates_draw_other_numbers_and_a_seed_the_same_ones():
    draws = Draws(num_parts=2)
    seen = []
    for _ in range(2):
        draws.seed(1)
        updates = []
        for _ in range(3):
            for part in range(2):
                draws.begin(part)
                updates.append(draws.rand((4,)))
        seen.append(torch.stack(updates))
    assert torch.equal(*seen)
    assert len(seen[0].unique()) == seen[0].numel()
