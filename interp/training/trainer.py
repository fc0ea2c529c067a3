"""One step of training after another, by Adam for codes; files and text are elsewhere.

*Units.* Activations of one model differ by two orders of magnitude in spread from layer to layer and several-fold
between the heads of a layer: no one step in absolute units suits them. Nor does the codes' own length: where a head's
vectors lie close together far from zero, a hundredth of their length is more than all that tells them apart.

*Use.* A code is in few batches, and there often for a single token. Plain Adam goes on moving it for ten steps by that
one gradient, and codes walk at random, by several tenths of the spread. Here moments are over the steps in which a code
was used, as in "lazy" Adam for sparse embeddings: it moves when it is used, by the mean gradient of its last uses.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Dictionary
from interp.bottlenecks.attach import Attached, attach
from interp.bottlenecks.kinds.layer_norm_codebook import LayerNormCodebook
from interp.bottlenecks.processes import average_gradients, averaged, check_whole, gathered
from interp.errors import InputError
from interp.models import Model, hooked
from interp.models.partial_forward import starting_at
from interp.models.save import trained_weights
from interp.training.config import TrainConfig
from interp.training.trained_codebook import MEASURES, TrainedCodebook

BETAS = (0.9, 0.99)  # of the mean gradient and the mean square, over uses of a code
EPSILON = 1e-8


class RelativeAdam(torch.optim.Optimizer):
    """On codes [group, code, d_in], each group's steps in units of its own."""

    def __init__(self, codes: list[Tensor], lr: float) -> None:
        super().__init__(codes, {"lr": lr})
        for p in codes:
            self.state[p] = _at_rest(p, p.new_zeros(p.shape[:2], dtype=torch.float32))

    @torch.no_grad()
    def step_in(self, units: Sequence[Tensor]) -> None:
        """A step of the codes that have a gradient; of the i-th codes in the i-th units, [group]."""
        (given,) = self.param_groups
        for codes, unit in zip(given["params"], units, strict=True):
            if codes.grad is None:
                continue
            state = self.state[codes]
            group, code = codes.grad.any(-1).nonzero(as_tuple=True)
            gradient = codes.grad[group, code]
            state["step"][group, code] += 1
            used = state["step"][group, code, None]
            moments = []
            for name, new, beta in zip(("exp_avg", "exp_avg_sq"), (gradient, gradient.square()), BETAS, strict=True):
                moment = state[name][group, code].lerp(new, 1 - beta)
                state[name][group, code] = moment
                moments.append(moment / (1 - beta**used))  # as if there had been no zeros at first
            mean, square = moments
            step = given["lr"] * unit[group, None] * mean / (square.sqrt() + EPSILON)
            codes[group, code] -= step.to(codes.dtype)


KEPT = 2**30  # bytes of residual streams that are kept; blocks beyond them go through the whole model every time


class Teacher:
    """The plain model's next-token logits, the same whether a block is seen for the first time or again.

    If blocks come ``again``, what comes to the last layer is kept, and a batch of which all is there starts at that
    layer: of SmolLM2-135M's forward a fifth to a quarter is left. (On a GPU a block may differ in the last digit with
    the batch that it was first in.)
    """

    def __init__(self, model: Model, *, again: bool) -> None:
        self.model = model
        self._last = model.cfg.n_layers - 1
        self._room = KEPT if again else 0
        self._resid: dict[bytes, Float[Tensor, "pos d_model"]] = {}

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "block pos"]) -> Float[Tensor, "block pos vocab"]:
        """A new tensor, which may be written over."""
        blocks = [block.tobytes() for block in tokens.cpu().numpy()]
        if all(block in self._resid for block in blocks):
            resid = torch.stack([self._resid[block] for block in blocks])
            with starting_at(self.model, self._last, resid):
                return self.model(tokens)
        with hooked(self.model, {f"blocks.{self._last}.hook_resid_pre": partial(self._keep, blocks)}):
            return self.model(tokens)

    def _keep(self, blocks: list[bytes], resid: Float[Tensor, "block pos d_model"]) -> None:
        for block, of_block in zip(blocks, resid, strict=True):
            if block not in self._resid and of_block.nbytes <= self._room:
                self._resid[block] = of_block.clone()
                self._room -= of_block.nbytes


ROWS = 64  # positions at a time: 13 MB a temporary at 49 000 tokens


@torch.no_grad()
def kl_and_gradient(
    logits: Float[Tensor, "*batch vocab"], teacher: Float[Tensor, "*batch vocab"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "*batch vocab"]]:
    """KL(teacher ‖ model) in nats, averaged over positions, and its gradient by the model's logits.

    The gradient, (softmax(logits) − softmax(teacher)) / positions, is written over ``teacher``, which is lost: for use
    with ``logits.backward(gradient)``.
    """
    rows, targets = logits.detach().flatten(0, -2), teacher.flatten(0, -2)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for chunk, target in zip(rows.split(ROWS), targets.split(ROWS), strict=True):
        log_q, log_p = chunk.float().log_softmax(-1), target.float().log_softmax(-1)
        p = log_p.exp()
        total += (p * (log_p - log_q)).sum()
        target.copy_(log_q.exp_().sub_(p).div_(len(rows)))
    return total / len(rows), targets.reshape(logits.shape)


KL_EVERY = 10
"""Steps from one KL to the next where it is not trained on, since it takes the plain model's forward as well."""
REPLACED_UNTIL = 0.8  # share of the run after which no code is replaced: a new one needs time to find its place


@dataclass(frozen=True)
class StepResult:
    """What a step measured, on its own batch and before its update."""

    loss: float  # what was minimised, λ times the reconstruction error included
    # KL(plain ‖ spliced), nats per token; None where not measured (local: every tenth step; joint: never, the plain
    # model is gone)
    kl: float | None
    ce: float | None  # cross-entropy of the spliced model, nats per token (joint only)
    explained: float  # share of variance explained, averaged over groups and sites
    # share of codes not used since codes were last replaced, as counted at the end of the last stretch of
    # `replace_every` steps, and of the books as they came before that. None are replaced in the last fifth of a run, so
    # there it is of more and more text; if none ever are, of all steps so far.
    dead: float
    k: int


class Trainer:
    """Trains books at their sites, in place, and in joint training the model too.

    Args:
        books: by site; their codes are trained where they are.
        n_steps: of the whole run, which the step sizes follow.
        same_start: whether all texts begin with the same token, so that its codes can be held (frozen models).

    Of several processes (:mod:`interp.bottlenecks.processes`) each gives :meth:`step` its share of the batch.
    """

    def __init__(
        self,
        model: Model,
        books: Mapping[str, Dictionary],
        config: TrainConfig,
        n_steps: int,
        *,
        same_start: bool = True,
    ) -> None:
        self.same_start = same_start
        check_whole(model)
        if next(model.parameters()).dtype == torch.float16:
            raise InputError("a model in float16: most of the gradient is 0 there; load it in float32 or bfloat16")
        for site, book in books.items():
            if isinstance(book, LayerNormCodebook):
                raise InputError(f"the book at {site} is a {book.kind}: those are for reading, as they were trained")
            if not book.trains:
                raise InputError(f"the book at {site} is a {book.kind}: its codes stay as they were fitted")
        config = config.for_books(books)
        assert config.lr is not None
        self.model, self.books, self.config, self.n_steps = model, dict(books), config, n_steps
        self._wrappers = {
            site: TrainedCodebook(book, alone=config.objective == "local", joint=config.objective == "joint")
            for site, book in books.items()
        }
        attach(model, self._wrappers, error_term=False)  # checks that they fit
        self._teacher = Teacher(model, again=config.objective == "distilled" and config.epochs > 1)
        self.ks = {site: book.config.k for site, book in books.items()}
        if config.nested:
            for book in books.values():
                book.with_k(1)  # refuses where fewer are no prefix
            if max(self.ks.values()) == 1:
                raise InputError("nested: these books have one code a vector, so there is no number to draw")
        self.optimizer = RelativeAdam([book.codes for book in books.values()], config.lr)
        self.weights: Mapping[str, Tensor] = {}
        self.model_optimizer: torch.optim.Optimizer | None = None
        if config.objective == "joint":
            self.weights = trained_weights(model)
            self.model_optimizer = torch.optim.AdamW(self.weights.values(), lr=config.model_lr, weight_decay=0.0)
            for weight in self.weights.values():
                self.model_optimizer.state[weight] = _at_rest(weight, torch.zeros(()))
        self.dead = self._dead()
        for book in books.values():
            book.counts.zero_()

    def step(self, number: int, tokens: Int[Tensor, "block pos"]) -> StepResult:
        """The update of step ``number``, counted from 0, on a batch, or on this process's share of it."""
        frozen = self.config.objective != "joint"
        if frozen and number == 0 and self.same_start:
            self._anchor(tokens[:1, :1])
        k = self._set_k(number)
        factor = self.config.step_size(number, self.n_steps)
        for optimizer, lr in ((self.optimizer, self.config.lr), (self.model_optimizer, self.config.model_lr)):
            if optimizer is not None and lr is not None:
                optimizer.param_groups[0]["lr"] = lr * factor
                optimizer.zero_grad()
        for tensor in self.weights.values():
            tensor.requires_grad_(True)
        try:
            loss, kl, ce, attached = self._gradients(number, tokens)
        finally:
            for tensor in self.weights.values():
                tensor.requires_grad_(False)
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss}")
        average_gradients([*(book.codes for book in self.books.values()), *self.weights.values()])
        if frozen:
            for book in self._wrappers.values():
                book.hold()
        self.optimizer.step_in([book.spread for book in self._wrappers.values()])
        for codes in self.books.values():
            codes.constrain()
        if self.model_optimizer is not None:
            # a frozen parameter keeps its gradient, which is all the optimizer asks for
            self.model_optimizer.step()
        for site, ids in attached.ids.items():
            self.books[site].count_text(gathered(ids.int()))
        self._replace(number + 1)
        explained = torch.stack([book.explained for book in self._wrappers.values()]).mean()
        return StepResult(loss, kl, ce, float(explained), self.dead, k)

    def state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on."""
        tensors = {"dead": torch.tensor(self.dead, dtype=torch.float64)}
        moments: list[tuple[str, torch.optim.Optimizer, Tensor]] = []
        for site, book in self.books.items():
            wrapper = self._wrappers[site]
            tensors |= {f"{site}/codes": book.codes, f"{site}/counts": book.counts}
            tensors |= {f"{site}/{name}": getattr(wrapper, name) for name in (*MEASURES, "held")}
            if book.unrounded is not None:
                tensors[f"{site}/unrounded"] = book.unrounded
            moments.append((site, self.optimizer, book.codes))
        for name, weight in self.weights.items():
            tensors[f"model/{name}"] = weight
            if self.model_optimizer is not None:
                moments.append((f"model/{name}", self.model_optimizer, weight))
        for name, optimizer, parameter in moments:
            tensors |= {f"{name}/{part}": tensor for part, tensor in optimizer.state[parameter].items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`; refuses tensors that are missing or of another shape."""
        state = self.state()
        for name, tensor in state.items():
            if name not in tensors:
                raise InputError(f"the checkpoint lacks {name}")
            if (stored := tensors[name].shape) != tensor.shape:
                raise InputError(f"the checkpoint has {name} of shape {list(stored)}, not {list(tensor.shape)}")
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
        self.dead = float(tensors["dead"])
        for wrapper in self._wrappers.values():
            wrapper.measured = True

    def finish(self) -> None:
        """Give the books the number of codes per vector that they came with, and the gradients' memory back."""
        for site, book in self._wrappers.items():
            book.set_k(self.ks[site])
        for optimizer in (self.optimizer, self.model_optimizer):
            if optimizer is not None:
                optimizer.zero_grad()

    def _gradients(
        self, number: int, tokens: Int[Tensor, "block pos"]
    ) -> tuple[float, float | None, float | None, Attached]:
        """One forward and backward pass: loss, KL, cross-entropy, and what was attached."""
        objective = self.config.objective
        measured = objective == "distilled" or (objective == "local" and number % KL_EVERY == 0)
        with self._precision(tokens):
            teacher = self._teacher.logits(tokens) if measured else None
        with attach(self.model, self._wrappers, error_term=False) as attached, self._precision(tokens):
            logits = self.model(tokens)
            error = attached.loss() / len(self._wrappers)
        kl = ce = gradient = None
        if teacher is not None:
            kl, gradient = kl_and_gradient(logits, teacher)
        if objective == "local":
            loss = error
            error.backward()
        elif kl is not None:
            loss = kl + self.config.mse_weight * error
            # the KL's gradient is made already, and by the logits alone
            torch.autograd.backward([logits, self.config.mse_weight * error], [gradient, None])
        else:
            predicted = logits[:, :-1].flatten(0, 1).float()
            ce = torch.nn.functional.cross_entropy(predicted, tokens[:, 1:].flatten())
            loss = ce + self.config.mse_weight * error
            loss.backward()
        return (
            float(averaged(loss.detach())),
            None if kl is None else float(averaged(kl)),
            None if ce is None else float(averaged(ce.detach())),
            attached,
        )

    @torch.no_grad()
    def _anchor(self, first: Int[Tensor, "1 1"]) -> None:
        """Codes for what stands at the first position of every text, layer by layer in one forward pass; in float32, as
        it may be so long that bfloat16 rounds by more than codes are apart."""
        for book in self._wrappers.values():
            book.anchors = True
        with attach(self.model, self._wrappers, error_term=False):
            self.model(first)
        for book in self._wrappers.values():
            book.anchors = False

    def _precision(self, tokens: Tensor) -> torch.autocast:
        """Of the model's products; codes and similarities are float32 all the same."""
        device, wanted = tokens.device.type, self.config.precision
        half = device == "cuda" if wanted == "auto" else wanted == "bfloat16"
        return torch.autocast(device, torch.bfloat16, enabled=half)

    def _set_k(self, number: int) -> int:
        most = max(self.ks.values())
        k = most
        if self.config.nested:
            choices = sorted({*(2**i for i in range(most.bit_length()) if 2**i < most), most})
            drawn = torch.randint(len(choices), (), generator=drawn_from(self.config.seed, "k", number))
            k = choices[int(drawn)]
        for site, book in self._wrappers.items():
            book.set_k(min(k, self.ks[site]))
        return k

    def _replace(self, done: int) -> None:
        """At the end of a stretch see which codes were not used in it, and replace them."""
        every = self.config.replace_every
        # a short stretch of one code a vector may not need all that are held
        for watched in self._wrappers.values():
            watched.book.counts[watched.held] = watched.book.counts[watched.held].clamp(min=1)
        if not every or not done % every:
            self.dead = self._dead()
        if not every or done % every or done > REPLACED_UNTIL * self.n_steps:
            return
        device = next(iter(self.books.values())).codes.device
        generator = drawn_from(self.config.seed, "replace", done, device)
        for site, book in self.books.items():
            # where one code is all of a vector, a new one is the vector that it is for
            x, alone = gathered(self._wrappers[site].x)[:, 1:], self.ks[site] == 1
            book.replace_dead(x, self.optimizer, generator=generator, own_length=alone)

    def _dead(self) -> float:
        return float(torch.cat([book.counts.eq(0).flatten() for book in self.books.values()]).float().mean())


def drawn_from(seed: int, purpose: str, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one thing at one step: nothing but these numbers decides what it gives."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{number}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def _at_rest(parameter: Tensor, step: Tensor) -> dict[str, Tensor]:
    """The state of Adam before its first step."""
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
