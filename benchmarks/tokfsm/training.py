"""Training from scratch, in two parts, resumable at any moment with the same losses."""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tokfsm.coded import Books, Running
from benchmarks.tokfsm.data import make_machine, sequences
from benchmarks.tokfsm.neox import NeoX
from benchmarks.tokfsm.recipe import Recipe
from interp.errors import InputError
from interp.files import atomic_path
from interp.progress import Stage, silent

OBJECTIVE = 2
"""Raised whenever the same recipe trains on something else; since 2 the pull on a head is by its own spread."""
TEXT, FIT = 1, 2
"""What a draw is for: part of the key of its generator."""
PARTS = ("model", "books", "means")


REST = 0.5
"""Rate of what is no matrix of a layer, as a share of Muon's, whose steps are scaled to be as long as Adam's."""


def optimizers_of(model: NeoX) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, Adam for all else.

    A group's ``of_rate`` is its share of the recipe's rate.
    """
    matrices = [p for name, p in model.named_parameters() if name.startswith("layers") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon([{"params": matrices, "of_rate": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": rest, "of_rate": REST}], weight_decay=0.0, foreach=True),
    ]


class Training:
    """A run: model, books, optimizer, and what was seen on the way.

    Attributes:
        step: done so far.
        losses: cross-entropy of every step.
        means: what the codes follow, by site.
        plain: the model as it was just before the codebooks, its state dict; None before.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe, self.device = recipe, device
        self.machine = make_machine(recipe.machine_seed)
        self.model = NeoX(recipe.shape, recipe.seed).to(device)
        self.books = Books(recipe.shape, recipe.n_codes, recipe.seed).to(device)
        self.means = self.books.running_means(recipe.memory).to(device)
        self.optimizers = optimizers_of(self.model)
        self._teacher: NeoX | None = None
        self.step = 0
        self.losses: list[float] = []
        self.plain: dict[str, Tensor] | None = None

    @property
    def coded(self) -> bool:
        """Whether the codebooks are in."""
        return self.plain is not None

    def advance(self) -> float:
        """One step; returns its cross-entropy."""
        recipe = self.recipe
        if self.step == recipe.plain_steps and not self.coded:
            self.plain = {name: value.clone() for name, value in self.model.state_dict().items()}
            text = sequences(self.machine, recipe.fit_sequences, recipe.seed, FIT)
            self.books.fit(self.model, text.to(self.device))
            self.optimizers = optimizers_of(self.model)
        tokens = sequences(self.machine, recipe.batch, recipe.seed, TEXT, self.step).to(self.device)
        running = self.books.run() if self.coded else None
        logits = self.model(tokens, running)
        ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss = ce if running is None else self._coded_loss(tokens, logits, running)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = recipe.lr_at(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["of_rate"]
            optimizer.step()
        if running is not None:
            for site, book in self.books.items():
                self.means[site].memory = recipe.memory_at(self.step)
                self.means[site].follow(book, running.x[site], running.ids[site])
                book.count(running.ids[site][..., None])
        self.step += 1
        self.losses.append(ce.item())
        return self.losses[-1]

    def _coded_loss(self, tokens: Tensor, logits: Tensor, running: Running) -> Tensor:
        """Cross-entropy with what the model without codebooks predicts, and the pull of activations to their codes.

        In the mean the same as with the text's next digit, as far as that model is right, with less noise.
        """
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), self._predicted(tokens).flatten(0, 1))
        return loss + self.recipe.commitment * torch.stack(running.commitment).sum()

    @torch.no_grad()
    def _predicted(self, tokens: Tensor) -> Tensor:
        """Probabilities of every next token by the model without codebooks."""
        if self._teacher is None:
            self._teacher = self.plain_model()
        return self._teacher(tokens)[:, :-1].softmax(-1)

    def run(self, checkpoint: Path, *, every: int, until: int | None = None, stage: Stage = silent) -> None:
        """Train to a step, or to the end, with a checkpoint after every so many.

        Raises:
            InputError: the loss is no longer finite.
        """
        until = self.recipe.steps if until is None else until
        with stage("training, steps", until) as done:
            done(self.step)
            while self.step < until:
                if not math.isfinite(self.advance()):
                    raise InputError(f"the loss is not finite at step {self.step}: try another --seed")
                last = self.step in (self.recipe.plain_steps, self.recipe.steps)
                if last or self.step % every == 0:
                    self.save(checkpoint)
                done(1)

    def save(self, path: Path) -> None:
        """Everything that the next step depends on, in one file, whole or not at all."""
        stored = {part: getattr(self, part).state_dict() for part in PARTS}
        stored |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        stored |= {"plain": self.plain, "losses": self.losses}
        with atomic_path(path) as temporary:
            torch.save({"recipe": _asked(self.recipe), **stored}, temporary)

    @classmethod
    def load(cls, path: Path, recipe: Recipe, device: str = "cpu") -> "Training":
        """Go on from a checkpoint.

        Raises:
            InputError: a damaged one, or one of another recipe.
        """
        self = cls(recipe, device)
        try:
            stored = torch.load(path, map_location=device, weights_only=True)
            made_by = stored["recipe"]
        except Exception as error:  # whatever the bytes of a damaged file make of it
            raise InputError(f"cannot read the checkpoint {path}: {error}") from None
        for key, value in _asked(recipe).items():
            if made_by.get(key) != value:
                raise InputError(f"{path} is of a run with {key} {made_by.get(key)}, not {value}: name another --out")
        for part in PARTS:
            getattr(self, part).load_state_dict(stored[part])
        for optimizer, state in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.plain, self.losses = stored["plain"], stored["losses"]
        self.step = len(self.losses)
        return self

    def plain_model(self) -> NeoX:
        """The model as it was just before the codebooks: the control without any."""
        model = NeoX(self.recipe.shape).to(self.device)
        model.load_state_dict(self.plain or self.model.state_dict())
        return model


def _asked(recipe: Recipe) -> dict:
    return asdict(recipe) | {"objective": OBJECTIVE}
