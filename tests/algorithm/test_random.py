import pytest
import torch

from hf_wgan.algorithm.random import SharedRandom, seed_default

KINDS = {"rand": {}, "randn": {}, "float64": {"dtype": torch.float64}}


def numbers_of(source, kind, number):
    name = kind if kind in ("rand", "randn") else "randn"
    return [getattr(source, name)((number, *shape), **KINDS[kind]) for shape in ((3,), (1, 1, 1), ())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_processes, num_parts", [(2, 1), (1, 3), (2, 3)])
def test_shares_of_a_batch_make_up_the_whole(kind, num_processes, num_parts):
    whole = SharedRandom()
    whole.seed(5)
    whole.begin(0)
    expected = numbers_of(whole, kind, 12)
    shares = {}
    for process in range(num_processes):
        source = SharedRandom("cpu", num_processes, process, num_parts)
        source.seed(5)
        for part in range(num_parts):
            source.begin(part)
            shares[part, process] = numbers_of(source, kind, 12 // num_processes // num_parts)
    for number, tensor in enumerate(expected):
        assert torch.equal(torch.cat([shares[key][number] for key in sorted(shares)]), tensor)


def test_updates_draw_other_numbers_and_a_seed_the_same_ones():
    source = SharedRandom(num_parts=2)
    runs = []
    for _ in range(2):
        source.seed(1)
        updates = []
        for _ in range(3):
            for part in range(2):
                source.begin(part)
                updates.append(source.rand((4,)))
        runs.append(torch.stack(updates))
    assert torch.equal(*runs)
    assert len(runs[0].unique()) == runs[0].numel()


def test_the_default_seed_is_what_pytorch_sets():
    draws = []
    for seed in (torch.manual_seed, lambda number: seed_default(torch.device("cpu"), number)):
        seed(5)
        draws.append(torch.rand(4))
        seed(2**63 - 1)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[2]) and torch.equal(draws[1], draws[3])
