"""The residual stream of many texts at the entrance of one layer, on disk, carried on layer by layer.

What codebooks are fitted to is needed one layer at a time. So the texts go through the model in that order: all of
them through block 0, then all through block 1, …, each block run once (and its attention once more, where a book must
be fitted in the middle of it). Nothing but the residual streams between two layers is ever stored, whatever the number
of sites; they lie in shards of one batch, as safetensors in the model's own dtype, so that a killed run goes on with
the same numbers.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.files import atomic_path
from interp.models import Model, Site, hooked
from interp.models.start import starting_at
from interp.tasks.errors import InputError


class LayerStream:
    """
    Args:
        tokens: blocks of equal length.
        folder: where the shards lie; those that an earlier process left are used.
        batch_size: blocks per forward pass and shard.
        at_most: the layer that must not have been passed.

    Attributes:
        layer: the texts are at the entrance of this one.
    """

    def __init__(
        self, model: Model, tokens: Int[Tensor, "block pos"], folder: Path, *, batch_size: int, at_most: int
    ) -> None:
        self.model, self.folder = model, folder
        self.batches = tokens.split(batch_size)
        reached = [layer for layer in range(1, at_most + 1) if self._whole(layer)]
        self.layer = max(reached, default=0)

    @torch.no_grad()
    def collect(
        self, site: Site, books: Mapping[Site, Bottleneck], done: Callable[[int], None]
    ) -> list[Tensor]:
        """What passes at a site of this layer, per batch in float32, with ``books`` in place before it.

        Blocks are run only as far as the site.
        """
        seen: dict[Site, list[Tensor]] = {site: []}
        hooks = _hooks(books, seen)
        for i in range(len(self.batches)):
            self._run_until(site.hook, i, hooks)
            done(1)
        return seen[site]

    @torch.no_grad()
    def advance(
        self,
        books: Mapping[Site, Bottleneck],
        done: Callable[[int], None],
        watched: tuple[Site, ...] = (),
    ) -> dict[Site, list[Tensor]]:
        """Run this layer with ``books`` in place and keep what leaves it; returns what passed at the watched sites.

        The texts are at the next layer after :meth:`step`.
        """
        seen: dict[Site, list[Tensor]] = {site: [] for site in watched}
        last, out = f"blocks.{self.layer}.hook_resid_post", []
        hooks = _hooks(books, seen)
        hooks[last] = [*hooks.get(last, ()), lambda x: out.append(x.clone())]
        for i in range(len(self.batches)):
            path = self._path(self.layer + 1, i)
            if watched or not path.exists():
                self._run_until(last, i, hooks)
                with atomic_path(path) as temporary:
                    save_file({"resid": out.pop().cpu().contiguous()}, temporary)
            done(1)
        return seen

    def step(self) -> None:
        """Go on to the next layer; what entered this one is deleted."""
        shutil.rmtree(self._path(self.layer, 0).parent, ignore_errors=True)
        self.layer += 1

    def _run_until(
        self, last: str, i: int, hooks: Mapping[str, list[Callable[[Tensor], Tensor | None]]]
    ) -> None:
        """A forward pass of one batch from this layer on, given up once the hook ``last`` has been passed."""

        def give_up(_: Tensor) -> None:
            raise _ReachedError

        chains = {name: _chain([*some, *([give_up] if name == last else [])]) for name, some in hooks.items()}
        resid = self._resid(i)
        start = contextlib.nullcontext() if resid is None else starting_at(self.model, self.layer, resid)
        with contextlib.suppress(_ReachedError), start, hooked(self.model, chains):
            self.model(self.batches[i].to(next(self.model.parameters()).device))
            raise RuntimeError(f"nothing passed at {last}: unsupported model")

    def _resid(self, i: int) -> Float[Tensor, "batch pos d_model"] | None:
        if self.layer == 0:
            return None
        path = self._path(self.layer, i)
        try:
            return load_file(path)["resid"].to(next(self.model.parameters()).device)
        except (SafetensorError, KeyError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}): delete {path.parent}") from None

    def _whole(self, layer: int) -> bool:
        return all(self._path(layer, i).exists() for i in range(len(self.batches)))

    def _path(self, layer: int, i: int) -> Path:
        return self.folder / f"layer{layer:03}" / f"{i:05}.safetensors"


class _ReachedError(Exception):
    """The rest of the forward pass, final norm and unembedding included, is not needed."""


def _hooks(
    books: Mapping[Site, Bottleneck], seen: Mapping[Site, list[Tensor]]
) -> dict[str, list[Callable[[Tensor], Tensor | None]]]:
    hooks: dict[str, list[Callable[[Tensor], Tensor | None]]] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        def hook(x: Tensor) -> None:
            x = x if site.head is None else x[:, :, site.head]
            seen[site].append(x.float().cpu().clone())

        return hook

    def splice(site: Site, book: Bottleneck) -> Callable[[Tensor], Tensor]:
        def hook(x: Tensor) -> Tensor:
            if site.head is None:
                return book.decode(book.encode(x)).to(x.dtype)
            x = x.clone()
            x[:, :, site.head] = book.decode(book.encode(x[:, :, site.head])).to(x.dtype)
            return x

        return hook

    for site in seen:
        hooks.setdefault(site.hook, []).append(keep(site))
    for site, book in books.items():
        hooks.setdefault(site.hook, []).append(splice(site, book))
    return hooks


def _chain(functions: list[Callable[[Tensor], Tensor | None]]) -> Callable[[Tensor], Tensor | None]:
    """Functions of one hook point one after the other."""

    def hook(x: Tensor) -> Tensor | None:
        result = None
        for function in functions:
            new = function(x if result is None else result)
            result = result if new is None else new
        return result

    return hook
