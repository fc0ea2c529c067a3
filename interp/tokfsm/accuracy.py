"""Loss, token accuracy, and state accuracy by all three definitions that were published under that name.

=======================  ====================================================================================
``transition_accuracy``  share of consecutive states in sequences sampled from BOS at temperature 1 that the
                         machine allows: the "state accuracy" of the paper's table and of the model card
``first_transition``     the same of each sequence's first pair only
``top10_overlap``        share of a state's ten successors among the ten next states that the model gives most
                         probability after BOS and that state alone, averaged over the 100 states
=======================  ====================================================================================

By chance: 0.1 each.

The first of them is mostly about one thing: does the model know which digits begin a state? It sees no mark between
states. A sampled digit that the machine does not allow is nearly always one that would be right a digit earlier or
later; what follows the model reads in that other phase, and writes a walk that the machine allows. For the metric,
which counts from BOS, it is wrong to the end of the text or the next slip. Two more numbers tell such slips from not
knowing the machine:

=======================  ====================================================================================
``forbidden``            probability of the digits that the machine does not allow, given a true text so far,
                         summed over the two digits of a state: how often a text leaves the phase
``one_digit_off``        share of consecutive states allowed in the sampled texts if they are read from their second
                         digit on; 0.1 where no text ever slips
=======================  ====================================================================================

With h slips a state a text is still, or again, in phase after n states with probability (1 + (1 − 2h)ⁿ) / 2, so that
a small h costs much: .004 takes a tenth of the transitions of 63 states, .025 a third.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.neox import At, NeoX
from interp.tokfsm.coded import Books
from interp.tokfsm.data import BASE, BOS, N_EDGES, N_STATES, Machine, decode, generator_of, sequences

HELD_OUT, SAMPLED = 101, 102
"""Purposes of draws, as in training; training uses others."""
BATCH = 64


def held_out(machine: Machine, n: int, seed: int = 0) -> list[Int[Tensor, "batch n_ctx"]]:
    """Fresh sequences in batches, the same for every model."""
    return list(sequences(machine, n, seed, HELD_OUT).split(BATCH))


@torch.no_grad()
def language_scores(
    model: NeoX, batches: list[Tensor], at: At | None = None
) -> tuple[Float[Tensor, "sequence"], Float[Tensor, "sequence"]]:
    """Mean loss in nats a token, and share of tokens foretold by the most probable, of every sequence."""
    losses, right = [], []
    for tokens in batches:
        tokens = tokens.to(model.rotary.device)
        logits, follows = model(tokens, at)[:, :-1], tokens[:, 1:]
        losses.append(torch.nn.functional.cross_entropy(logits.mT, follows, reduction="none").mean(1))
        right.append((logits.argmax(-1) == follows).float().mean(1))
    return torch.cat(losses).cpu(), torch.cat(right).cpu()


def transitions(machine: Machine, tokens: Int[Tensor, "n n_ctx"]) -> Float[Tensor, "n pair"]:
    """Whether the machine allows each consecutive pair of states."""
    states = decode(tokens)
    return machine.allowed[states[:, :-1], states[:, 1:]].float()


@torch.no_grad()
def forbidden(
    machine: Machine, model: NeoX, batches: list[Tensor], at: At | None = None
) -> Float[Tensor, "sequence"]:
    """See the module's docstring, mean over the states of every sequence but the first, which may be any."""
    begins = torch.zeros(N_STATES, BASE).scatter(1, machine.successors // BASE, 1.0)
    ends = machine.allowed.float().view(N_STATES, BASE, BASE)
    found = []
    for tokens in batches:
        probs = model(tokens.to(model.rotary.device), at)[..., :BASE].softmax(-1).cpu()
        states = decode(tokens)
        last, first = states[:, :-1], states[:, 1:] // BASE
        # BOS at 0, a state's digits at 2i + 1 and 2i + 2, each foretold a position before
        at_first = torch.arange(1, states.shape[1]) * 2
        allowed = (probs[:, at_first] * begins[last]).sum(-1) + (
            probs[:, at_first + 1] * ends[last, first]
        ).sum(-1)
        found.append((2 - allowed).mean(1))
    return torch.cat(found)


def one_digit_off(machine: Machine, tokens: Int[Tensor, "n n_ctx"]) -> Float[Tensor, "n pair"]:
    """Whether the machine allows each consecutive pair of states that are read from the second digit on."""
    return transitions(machine, tokens[:, 1:])


@torch.no_grad()
def next_states(model: NeoX, at: At | None = None) -> Float[Tensor, "state state"]:
    """The model's probability of every next state after BOS and a state."""
    device = model.rotary.device
    state = torch.arange(N_STATES).repeat_interleave(BASE)
    digit = torch.arange(BASE).repeat(N_STATES)
    tokens = torch.stack([torch.full_like(state, BOS), state // BASE, state % BASE, digit], 1)
    probs = model(tokens.to(device), at)[:, 2:, : BASE + 1].softmax(-1).cpu()
    first = probs[torch.arange(len(digit)), 0, digit]
    return (first[:, None] * probs[:, 1, :BASE]).reshape(N_STATES, N_STATES)


def top10_overlap(machine: Machine, model: NeoX, at: At | None = None) -> Float[Tensor, "state"]:
    """See the module's docstring, of every state."""
    best = next_states(model, at).topk(N_EDGES, dim=1).indices
    return machine.allowed.gather(1, best).float().mean(1)


def quick_look(model: NeoX, machine: Machine, books: Books | None) -> dict[str, float]:
    """Loss and accuracies on a hundred sequences: a point of the curve."""
    at = None if books is None else books.run()
    loss, right = language_scores(model, held_out(machine, 100), at)
    sampled = transitions(machine, model.sample(100, generator_of(0, SAMPLED), bos=BOS, at=at))
    return {
        "loss": float(loss.mean()),
        "token_accuracy": float(right.mean()),
        "transition_accuracy": float(sampled.mean()),
        "top10_overlap": float(top10_overlap(machine, model, at).mean()),
    }
