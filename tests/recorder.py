"""Stands for a CUDA graph on a CPU: the operators of a function, and running them again on the memory they had.

A replay runs no Python of the function: decisions stay as they were, and tensors that were replaced since are not seen,
as with a graph.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hf_wgan.training.graphs import HostWaits

CHANGES_OF_SHAPE = {"as_strided_", "detach_", "squeeze_", "t_", "transpose_", "unsqueeze_"}


def memory(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def same_memory(leaf):
    """A tensor that later changes of the original's shape do not reach."""
    return torch.ops.aten.alias(leaf.detach()) if isinstance(leaf, torch.Tensor) else leaf


class Recorder(TorchDispatchMode):
    """Records the operators inside a context. Afterwards nothing has happened: tensors and generators are as before."""

    def __init__(self):
        super().__init__()
        self.operators = []  # (function, arguments, its new tensors), in order
        self._own = {}  # tensors that were made inside, by memory
        self._before = {}  # and copies of those that were changed, likewise
        self._generators = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        if name in HostWaits.WAITING:
            raise RuntimeError(f"{name} is not permitted while a stream is capturing")
        arguments = tree_map(same_memory, (args, kwargs))
        self._keep(function, args, kwargs)
        known = {memory(tensor) for tensor in tensors_of((args, kwargs))}
        result = function(*args, **kwargs)
        new = {index: same_memory(each) for index, each in enumerate(tensors_of(result)) if memory(each) not in known}
        self._own |= {memory(tensor): tensor for tensor in new.values()}
        if name not in CHANGES_OF_SHAPE and (new or function._schema.is_mutable):
            self.operators.append((function, arguments, new))
        return result

    def _keep(self, function, args, kwargs):
        """Copy what this operator is about to change, unless it was made inside or copied already."""
        schema = function._schema.arguments
        values = dict(zip((argument.name for argument in schema), args)) | kwargs
        written = [values[each.name] for each in schema if each.alias_info and each.alias_info.is_write]
        if "batch_norm" in function._overloadpacket.__name__:
            written = values  # the running statistics, of which the schema says nothing
        for tensor in tensors_of(written):
            if memory(tensor) not in self._own and memory(tensor) not in self._before:
                self._before[memory(tensor)] = tensor.untyped_storage(), tensor.untyped_storage().clone()
        for generator in (value for value in values.values() if isinstance(value, torch.Generator)):
            self._generators.setdefault(generator, generator.get_state())

    def __enter__(self):
        self._generators[torch.default_generator] = torch.default_generator.get_state()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for storage, before in self._before.values():
            storage.copy_(before)
        for generator, state in self._generators.items():
            generator.set_state(state)

    @torch.no_grad()
    def replay(self):
        for function, (args, kwargs), new in self.operators:
            results = tensors_of(function(*args, **kwargs))
            for index, tensor in new.items():
                tensor.copy_(results[index])


def recorded(function):
    """What `GraphedStep` takes to capture an iteration."""
    recorder = Recorder()
    with recorder:
        record = function()
    return recorder.replay, record
