"""Tensors at hook points, kept on their graph, so that gradients can be asked for afterwards."""

from collections.abc import Callable, Iterable

from torch import Tensor


class ActivationTape:
    """Keeps what passes at some hook points, in every forward run with :attr:`hooks` in place.

    ``tape[name]`` is the tensor of the last forward and ``tape.first(name)`` that of the first: within
    :func:`~interp.activations.stream.run_batch` the corrupt prompts run first and the clean ones last.

    Attributes:
        gradients: of the points in ``watch``, kept as a backward pass goes through them.
    """

    def __init__(self, names: Iterable[str], watch: Iterable[str] = ()) -> None:
        self.gradients: dict[str, Tensor] = {}
        self._kept: dict[str, list[Tensor]] = {}
        watched = set(watch)
        self.hooks: dict[str, Callable[[Tensor], Tensor]] = {
            name: self._keeper(name, name in watched) for name in dict.fromkeys([*names, *watched])
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name][-1]

    def first(self, name: str) -> Tensor:
        return self._kept[name][0]

    def _keeper(self, name: str, watched: bool) -> Callable[[Tensor], Tensor]:
        # the hook on the tensor must not hold the tape: tape and tensor would keep each other alive
        kept, gradients = self._kept, self.gradients

        def keep(activation: Tensor) -> Tensor:
            # off the graph a later in-place edit could change the tensor
            on_graph = activation.requires_grad
            kept.setdefault(name, []).append(activation if on_graph else activation.clone())
            if watched and on_graph:
                activation.register_hook(lambda gradient: gradients.__setitem__(name, gradient.detach()))
            return activation

        return keep
