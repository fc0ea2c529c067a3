"""Loss, token accuracy, and state accuracy by all three definitions that were published under that name.

=======================  ====================================================================================
``transition_accuracy``  share of consecutive states in sequences sampled from BOS at temperature 1 that the
                         machine allows: the "state accuracy" of the paper's table and of the model card
``first_transition``     the same of each sequence's first pair only
``top10_overlap``        share of a state's ten successors among the ten next states that the model gives most
                         probability after BOS and that state alone, averaged over the 100 states
``forbidden``            probability of the digits that the machine does not allow, given a true text so far,
                         summed over the two digits of a state: how often a text leaves the phase
``one_digit_off``        share of consecutive states allowed in the sampled texts if they are read from their second
                         digit on; 0.1 where no text ever slips
=======================  ====================================================================================

By chance the first three are 0.1 each. The last two tell slips of the phase, which the first pays for to the end of the
text or the next slip, from not knowing the machine: see the page's *Where state accuracy is lost*.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.tokfsm.data import BASE, BOS, N_EDGES, N_STATES, Machine, decode, sequences
from benchmarks.tokfsm.neox import At, NeoX

HELD_OUT, SAMPLED = 101, 102
"""Purposes of draws, as in training; training uses others."""
BATCH = 64


def held_out(machine: Machine, n: int, seed: int = 0) -> list[Int[Tensor, "batch n_ctx"]]:
    """Fresh sequences in batches, the same for every model."""
    return list(sequences(machine, n, seed, HELD_OUT).split(BATCH))


class LanguageScores(NamedTuple):
    """Of every sequence: mean loss in nats a token; share of tokens predicted by the most probable; ``forbidden``."""

    loss: Float[Tensor, " sequence"]
    right: Float[Tensor, " sequence"]
    forbidden: Float[Tensor, " sequence"]


@torch.no_grad()
def language_scores(model: NeoX, machine: Machine, batches: list[Tensor], at: At | None = None) -> LanguageScores:
    """What one forward pass of each batch tells."""
    scores = []
    for tokens in batches:
        tokens = tokens.to(model.rotary.device)
        logits, follows = model(tokens, at)[:, :-1], tokens[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.mT, follows, reduction="none").mean(1)
        right = (logits.argmax(-1) == follows).float().mean(1)
        outside = forbidden(machine, tokens.cpu(), logits[..., :BASE].softmax(-1).cpu())
        scores.append((loss.cpu(), right.cpu(), outside))
    return LanguageScores(*(torch.cat(parts) for parts in zip(*scores, strict=True)))


def transitions(machine: Machine, tokens: Int[Tensor, "n n_ctx"]) -> Float[Tensor, "n pair"]:
    """Whether the machine allows each consecutive pair of states."""
    states = decode(tokens)
    return machine.allowed[states[:, :-1], states[:, 1:]].float()


def forbidden(
    machine: Machine, tokens: Int[Tensor, "n n_ctx"], probs: Float[Tensor, "n pos digit"]
) -> Float[Tensor, " n"]:
    """See the module's docstring; mean over the states of every sequence but its first, which may be any.

    Args:
        probs: of the digit that follows each position; BOS is never drawn.
    """
    ends = machine.allowed.float().view(N_STATES, BASE, BASE)
    states = decode(tokens)
    last, first = states[:, :-1], states[:, 1:] // BASE
    # BOS at 0, a state's digits at 2i + 1 and 2i + 2, each predicted a position before
    at_first = torch.arange(1, states.shape[1]) * 2
    allowed_first = (probs[:, at_first] * (machine.next_token(last) > 0)).sum(-1)
    allowed_second = (probs[:, at_first + 1] * ends[last, first]).sum(-1)
    return (2 - allowed_first - allowed_second).mean(1)


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


def top10_overlap(machine: Machine, model: NeoX, at: At | None = None) -> Float[Tensor, " state"]:
    """See the module's docstring, of every state."""
    best = next_states(model, at).topk(N_EDGES, dim=1).indices
    return machine.allowed.gather(1, best).float().mean(1)
