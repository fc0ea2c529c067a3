"""What codes stand for: how many live, how pure they are, how well they tell states.

* Alive: the share of a book's codes that occur at all on held-out sequences.
* Purity: of the codes that occur on all 100 bigrams (states) or all 686 trigrams after BOS, read at the last token, the
  share that occurs on a single one. A single position without context: no statement on longer texts.
* State precision: each state's code, taken as a classifier of "a state just ended here, and it is this one" over every
  position of fresh sequences. The code is chosen on other sequences, by F1.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.tokfsm.coded import Books, Ids
from benchmarks.tokfsm.data import BASE, BOS, N_STATES, Machine
from benchmarks.tokfsm.neox import NeoX

NO_STATE = N_STATES
"""What :func:`state_ending` gives where no state ends."""


@torch.no_grad()
def alive(model: NeoX, books: Books, batches: Iterable[Int[Tensor, "batch pos"]]) -> dict[str, list[float]]:
    """Share of codes that occur, by site, of each head's book; an MLP has one book."""
    seen = {site: torch.zeros(book.counts.shape, dtype=torch.bool) for site, book in books.items()}
    for tokens in batches:
        running = books.run()
        model(tokens.to(model.rotary.device), running)
        for site, ids in running.ids.items():
            flat = ids.cpu().long().reshape(-1, seen[site].shape[0])
            for group, column in enumerate(flat.T):
                seen[site][group, column] = True
    return {site: mask.float().mean(1).tolist() for site, mask in seen.items()}


@torch.no_grad()
def codes_of(model: NeoX, books: Books, tokens: Int[Tensor, "n pos"]) -> Ids:
    """The codes at every position, [n, pos, book], in int64; an MLP has one book."""
    running = books.run()
    model(tokens.to(model.rotary.device), running)
    return {site: ids.cpu().long().reshape(*tokens.shape, -1) for site, ids in running.ids.items()}


def purity(codes: Int[Tensor, "input"]) -> float:
    """Share of the codes that occur that occur on one input only."""
    counts = torch.bincount(codes)
    return float((counts == 1).sum() / (counts > 0).sum())


def all_inputs(machine: Machine) -> dict[str, Int[Tensor, "input pos"]]:
    """BOS and every bigram, BOS and every trigram."""
    state = torch.arange(N_STATES)
    bigrams = torch.stack([state // BASE, state % BASE], 1)
    grams = {"bigram": bigrams, "trigram": machine.trigrams}
    return {name: torch.cat([rows.new_full((len(rows), 1), BOS), rows], 1) for name, rows in grams.items()}


def purities(model: NeoX, books: Books, machine: Machine) -> dict[str, dict[str, list[float]]]:
    """Purity by kind of input, by site, of each head's book."""
    purity_by_kind = {}
    for kind, tokens in all_inputs(machine).items():
        last = {site: ids[:, -1] for site, ids in codes_of(model, books, tokens).items()}
        purity_by_kind[kind] = {site: [purity(column) for column in ids.T] for site, ids in last.items()}
    return purity_by_kind


def state_ending(tokens: Int[Tensor, "n pos"]) -> Int[Tensor, "n pos"]:
    """The state whose second digit stands at each position, :data:`NO_STATE` where there is none."""
    ending = torch.full_like(tokens, NO_STATE)
    ending[:, 2::2] = tokens[:, 1:-1:2] * BASE + tokens[:, 2::2]
    return ending


def contingency(
    codes: Int[Tensor, " position"], states: Int[Tensor, " position"], n_codes: int
) -> Float[Tensor, "code column"]:
    """How often each code met each state; the last column is for no state."""
    width = N_STATES + 1
    return torch.bincount(codes * width + states, minlength=n_codes * width).reshape(n_codes, width).float()


def classify(
    chosen_on: Float[Tensor, "code column"], judged_on: Float[Tensor, "code column"]
) -> tuple[Float[Tensor, " state"], Float[Tensor, " state"], Float[Tensor, " state"]]:
    """Precision and recall of each state's best code on the second table, and the F1 it was chosen by on the first.

    Where that code does not occur in the second, both are 0.
    """
    hits, fired, there = _counts(chosen_on)
    f1 = 2 * hits / (fired[:, None] + there).clamp(min=1)
    best, code = f1.max(0)
    hits, fired, there = _counts(judged_on)
    hit = hits.gather(0, code[None])[0]
    return hit / fired[code].clamp(min=1), hit / there.clamp(min=1), best


def _counts(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return table[:, :N_STATES], table.sum(1), table[:, :N_STATES].sum(0)


def state_precision(
    model: NeoX, books: Books, chosen_on: Int[Tensor, "n pos"], judged_on: Int[Tensor, "m pos"]
) -> dict[str, dict[str, Float[Tensor, " state"]]]:
    """Precision and recall of each state's code, by MLP, and under ``best`` of the MLP chosen for each state."""
    codes = [codes_of(model, books, tokens) for tokens in (chosen_on, judged_on)]
    states = [state_ending(tokens).flatten() for tokens in (chosen_on, judged_on)]
    scores_by_site, f1 = {}, []
    for site in [site for site in books if site.startswith("m")]:
        n_codes = books[site].config.n_codes
        tables = [contingency(c[site].flatten(), s, n_codes) for c, s in zip(codes, states, strict=True)]
        precision, recall, chosen_by = classify(*tables)
        scores_by_site[site] = {"precision": precision, "recall": recall}
        f1.append(chosen_by)
    at = torch.stack(f1).argmax(0)
    every = torch.arange(N_STATES)
    best = {
        name: torch.stack([part[name] for part in scores_by_site.values()])[at, every]
        for name in ("precision", "recall")
    }
    return scores_by_site | {"best": best}


@torch.no_grad()
def neuron_precision(
    model: NeoX,
    books: Books | None,
    chosen_on: Int[Tensor, "n pos"],
    judged_on: Int[Tensor, "m pos"],
    recall: Float[Tensor, " state"],
) -> Float[Tensor, " state"]:
    """Precision of each state's best MLP neuron, thresholded so that its recall is the code's on the first sequences.

    The neuron, of all layers, and its threshold are chosen on the first sequences and judged on the second.
    """
    states = [state_ending(tokens).flatten() for tokens in (chosen_on, judged_on)]
    best, judged = torch.full((N_STATES,), -1.0), torch.zeros(N_STATES)
    activations = [_neurons(model, books, tokens) for tokens in (chosen_on, judged_on)]
    for here, there in zip(*activations, strict=True):
        ordered = here.sort(0).values.T.contiguous()
        for state in range(N_STATES):
            positive = here[states[0] == state]
            # so many of the state's positions must lie on or above the threshold
            count = max(1, round(float(recall[state]) * len(positive)))
            threshold = positive.topk(min(count, len(positive)), 0).values[-1]
            fired = ordered.shape[1] - torch.searchsorted(ordered, threshold[:, None])[:, 0]
            precision, neuron = ((positive >= threshold).sum(0) / fired.clamp(min=1)).max(0)
            if precision > best[state]:
                best[state] = precision
                mask: Bool[Tensor, " position"] = there[:, neuron] >= threshold[neuron]
                judged[state] = (states[1][mask] == state).sum() / mask.sum().clamp(min=1)
    return judged


def _neurons(model: NeoX, books: Books | None, tokens: Tensor) -> list[Float[Tensor, "position neuron"]]:
    """Activations of every layer's MLP neurons at every position."""
    kept: list[Tensor] = []
    hooks = [
        layer.mlp.act.register_forward_hook(lambda _module, _inputs, out: kept.append(out.cpu()))
        for layer in model.layers
    ]
    try:
        model(tokens.to(model.rotary.device), None if books is None else books.run())
    finally:
        for hook in hooks:
            hook.remove()
    kept[0] = kept[0][tokens]  # layer 0 is computed once a word of the vocabulary
    return [activation.flatten(0, 1) for activation in kept]
