"""The branches of an iteration, on stand-ins for CUDA's streams that notice what reads without having waited."""

import functools
import gc
from collections import defaultdict
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_wgan.algorithm import branches
from hf_wgan.algorithm.augment import OPERATIONS, Augmentation
from hf_wgan.algorithm.branches import Branches
from hf_wgan.algorithm.lipschitz import CONSTRAINTS, build_constraint
from hf_wgan.algorithm.random import SharedRandom
from hf_wgan.algorithm.step import RealBatch, WGANStep
from hf_wgan.models.factory import ARCHITECTURES, NetworkConfig, build_networks

SIZE = 32


class Stream:
    """A stream that knows which operators, counted for each stream, come before its next one.

    By waiting for a stream that is captured it is captured too, and waiting for any other then ends the capture.
    """

    def __init__(self, device=0, is_captured=False):
        self.known, self.is_captured = defaultdict(int, {self: 0}), is_captured

    def wait_stream(self, other):
        assert other.is_captured or not self.is_captured, "CUDA ends a capture that waits for what it does not hold"
        self.is_captured = other.is_captured
        self.wait_event(dict(other.known))

    def record_event(self):
        return dict(self.known)

    def wait_event(self, known):
        for stream, count in known.items():
            self.known[stream] = max(self.known[stream], count)


class Cuda(TorchDispatchMode):
    """Stands for `torch.cuda` while it captures, and sees what every operator reads and writes on which stream."""

    Stream = Stream

    def __init__(self):
        super().__init__()
        self.streams = [Stream(is_captured=True)]
        self.written, self.read, self.races, self.kept = {}, defaultdict(list), [], []
        self.num_beside = 0  # operators of other streams than the first

    def is_available(self):
        return True

    def is_current_stream_capturing(self):
        return True

    def current_device(self):
        return 0

    def current_stream(self):
        return self.streams[-1]

    @contextmanager
    def stream(self, stream):
        self.streams.append(stream)
        yield
        assert self.streams.pop() is stream

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        schema = function._schema.arguments
        values = dict(zip((argument.name for argument in schema), args)) | kwargs
        written = [values[each.name] for each in schema if each.alias_info and each.alias_info.is_write] + [result]
        if "batch_norm" in function._overloadpacket.__name__ and "backward" not in function._overloadpacket.__name__:
            written += [values.get("running_mean"), values.get("running_var")]  # of which the schema says nothing
        if not function.is_view:
            self.see(function, (args, kwargs), written)
        return result

    def see(self, function, read, written):
        stream = self.current_stream()
        stream.known[stream] += 1
        self.num_beside += stream is not self.streams[0]
        for tensor in self.memory(read):
            self.check(function, self.written.get(tensor))
            self.read[tensor].append((stream, stream.known[stream]))
        for tensor in self.memory(written):
            for access in [self.written.get(tensor), *self.read[tensor]]:
                self.check(function, access)
            self.written[tensor], self.read[tensor] = (stream, stream.known[stream]), []

    def check(self, function, access):
        if access and self.current_stream().known[access[0]] < access[1]:
            self.races.append(str(function))

    def memory(self, tree):
        """The memory of tensors, none of which is freed meanwhile and taken for another's."""
        storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        self.kept += storages
        return {storage.data_ptr() for storage in storages if storage.nbytes()}


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(branches, "cuda", cuda)
    monkeypatch.setattr(branches, "streams_of", functools.cache(branches.streams_of.__wrapped__))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    return cuda


class OwnStatistics(nn.Module):
    """A critic that passes over the layer with its statistics to a function."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, dtype=torch.float64)
        self.linear = nn.Linear(SIZE * SIZE, 1, dtype=torch.float64)

    def forward(self, images):
        norm = self.norm
        maps = functional.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
        return self.linear(maps.flatten(1)).flatten()


def step_of(architecture="dcgan", lipschitz="clip", num_classes=None, critic=None, augmented=False, **options):
    torch.manual_seed(0)
    widths = {"latent_dim": 4, "generator_width": 8, "critic_width": 8}
    if architecture in ("dcgan", "resnet"):
        has_penalty = CONSTRAINTS[lipschitz].has_penalty
        widths["critic_norm_type"] = "layer" if has_penalty else "none" if lipschitz == "spectral" else "batch"
    config = NetworkConfig(architecture=architecture, **widths)
    networks = build_networks(config, SIZE, 1, num_classes, spectral_norm=lipschitz == "spectral")
    generator, critic = networks[0].double(), critic() if critic else networks[1].double()
    random = SharedRandom()
    random.seed(0)
    return WGANStep(
        generator.train(),
        critic.train(),
        generator_optimizer=torch.optim.RMSprop(generator.parameters(), 1e-3),
        critic_optimizer=torch.optim.RMSprop(critic.parameters(), 1e-3),
        constraint=build_constraint(lipschitz, rand=random.rand),
        sample_latents=lambda number: random.randn((number, 4), dtype=torch.float64),
        augment=Augmentation(",".join(OPERATIONS), rand=random.rand) if augmented else lambda images: images,
        **options,
    )


def batches(num_classes):
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        labels = torch.randint(num_classes, (6,), generator=rng) if num_classes else None
        yield RealBatch(torch.rand(6, 1, SIZE, SIZE, generator=rng, dtype=torch.float64) * 2 - 1, labels)


def iterations(settings, cuda=None):
    """Return the records of two iterations and the state after them."""
    step, records = step_of(**settings), []
    for _ in range(2):
        real = list(batches(settings.get("num_classes")))
        with ExitStack() as contexts:
            for context in (cuda, step.execution.branched()) if cuda else ():
                contexts.enter_context(context)
            records.append(torch.stack(step(iter(real), 3)))
    tensors = [tensor for network in (step.generator, step.critic) for tensor in network.state_dict().values()]
    return torch.stack(records), torch.cat([tensor.flatten().double() for tensor in tensors])


RUNS = {
    **{
        f"{architecture}, {lipschitz}": {"architecture": architecture, "lipschitz": lipschitz}
        for architecture in ARCHITECTURES
        for lipschitz in CONSTRAINTS
    },
    "classes": {"num_classes": 3},
    "classes with a penalty": {"architecture": "resnet", "lipschitz": "gp", "num_classes": 3},
    "more generated images": {"generator_batch_ratio": 2, "num_classes": 3},
    "augmentation": {"augmented": True},
    "lazy penalty": {"lipschitz": "r1r2", "penalty_interval": 2},
    "layers that are not called": {"critic": OwnStatistics},
}


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_read_or_written_before_its_turn(cuda, run):
    plain, branched = iterations(RUNS[run]), iterations(RUNS[run], cuda)
    assert not cuda.races
    assert cuda.num_beside > 0
    assert all(map(torch.equal, branched, plain))


def nodes_of(network):
    """The nodes at which autograd adds up the gradients of a network, which live as long as a graph with them."""
    with torch.enable_grad():
        views = [weight.view_as(weight) for weight in network.parameters() if weight.requires_grad]
        return [view.grad_fn.next_functions[0][0] for view in views]


@pytest.mark.parametrize("run", RUNS)
def test_no_graph_of_autograd_outlives_its_iteration(run):
    """CUDA ends a capture in which such a node waits on the stream of an earlier iteration, on which it stays."""
    step, real = step_of(**RUNS[run]), list(batches(RUNS[run].get("num_classes")))
    networks = step.generator, step.critic

    def mark(layer, *_):
        for node in nodes_of(layer):
            node.metadata["marked"] = True

    def num_marked():
        return sum("marked" in node.metadata for network in networks for node in nodes_of(network))

    for layer in (layer for network in networks for layer in network.modules()):
        layer.register_forward_hook(mark)
    gc.disable()
    try:
        scores = step.critic(*(value for value in real[0] if value is not None))
        assert scores.requires_grad and num_marked() > 0
        del scores
        step(iter(real), 3)
        assert num_marked() == 0
    finally:
        gc.enable()


def test_passes_that_do_not_wait_are_seen(cuda):
    """What the test above would say of passes whose layers with statistics come as they like."""
    layer = nn.BatchNorm2d(1).train()
    images = torch.rand(4, 1, 3, 3)
    with cuda:
        beside, ahead = Branches(), Branches()
        with cuda.stream(cuda.Stream()):
            layer(images)
        layer(images)
        assert "aten.native_batch_norm.default" in " ".join(cuda.races)
        cuda.races.clear()
        beside.beside(layer, lambda: layer(images), lambda: layer(images))
        latents = images + 1
        ahead.ahead(lambda: latents * 2)
    assert cuda.races == ["aten.mul.Tensor"], "an image ahead of what it is made of"


def test_captures_share_the_streams_of_their_branches_and_so_their_memory(cuda):
    used = []

    def passed():
        used.append(cuda.current_stream())
        return torch.ones(1)

    for _ in range(2):
        one = Branches()
        one.ahead(passed)
        one.beside(nn.Identity(), passed, lambda: torch.ones(1))
    ahead, beside = used[:2]
    assert ahead is not beside and used == [ahead, beside] * 2


def test_a_branch_keeps_its_result_from_other_use(cuda, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append((id(tensor), stream)))
    one = Branches()
    image = one.ahead(lambda: torch.ones(2))
    scores, _ = one.beside(nn.Identity(), lambda: image + 1, lambda: image + 2)
    assert kept == [(id(tensor), cuda.current_stream()) for tensor in (image, scores)]
