"""Counts the kernels that a GPU would be sent, as operators that are no views."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNELS = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "promote_types",
}


class Launches(TorchDispatchMode):
    """Collects the operators inside a context. A `_foreach` operator counts once, as on a GPU."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        is_view = function.is_view or name in ("detach", "alias", "_unsafe_view", "_reshape_alias")
        if not is_view and name not in NO_KERNELS and not name.startswith("_record_function"):
            self.operators[name] += 1
        return result

    @property
    def number(self):
        return self.operators.total()
