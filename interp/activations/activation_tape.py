"""Tensors at hook points, kept on their graph, so that gradients can be asked for afterwards."""

from collections.abc import Callable, Iterable

from torch import Tensor


class ActivationTape:
    """Keeps what passes at some hook points: ``tape[name]`` in a forward with :attr:`hooks` in place.

    Args:
        names: hook points of the clean prompts, or of the only ones.
        watch: those whose gradient is kept, too.
        corrupt: hook points of the corrupt prompts.

    Attributes:
        corrupt: what passed there in the forward with :attr:`corrupt_hooks` in place.
        gradients: of the points in ``watch``, kept as a backward pass goes through them.
    """

    def __init__(self, names: Iterable[str], watch: Iterable[str] = (), corrupt: Iterable[str] = ()) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.corrupt: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        watched = dict.fromkeys(watch)
        self.hooks: dict[str, Callable[[Tensor], Tensor | None]] = {
            name: _keeper(name, self._kept, self.gradients if name in watched else None)
            for name in dict.fromkeys([*names, *watched])
        }
        self.corrupt_hooks = {name: _keeper(name, self.corrupt, None) for name in dict.fromkeys(corrupt)}

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]


def _keeper(
    name: str, kept: dict[str, Tensor], gradients: dict[str, Tensor] | None
) -> Callable[[Tensor], Tensor | None]:
    # the hook on the tensor must not hold the tape: tape and tensor would keep each other alive
    def keep(activation: Tensor) -> Tensor | None:
        # off the graph a later in-place edit could change the tensor
        on_graph = activation.requires_grad
        kept[name] = activation if on_graph else activation.clone()
        if gradients is not None and on_graph:
            activation.register_hook(lambda gradient: gradients.__setitem__(name, gradient.detach()))
        return activation if on_graph else None  # handing it back would cost a copy

    return keep
