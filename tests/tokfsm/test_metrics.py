"""Metrics on a solution that is perfect because it is written down, and on counts done by hand."""

import pytest
import torch
from torch import nn

from benchmarks.tokfsm.accuracy import (
    forbidden,
    language_scores,
    next_states,
    one_digit_off,
    top10_overlap,
    transitions,
)
from benchmarks.tokfsm.coded import Books
from benchmarks.tokfsm.data import BOS, N_STATES, encode, generator_of, make_machine, sequences, walk
from benchmarks.tokfsm.intervention import divergences, jensen_shannon, normalised
from benchmarks.tokfsm.neox import NeoX, NeoXShape
from benchmarks.tokfsm.usage import (
    NO_STATE,
    alive,
    classify,
    contingency,
    purities,
    purity,
    state_ending,
    state_precision,
)

MACHINE = make_machine()
N_INPUTS = 11 + 100 + 686
"""Positions that a perfect solution tells apart: the word alone, a state that ended, a state and a digit."""


class Perfect(NeoX):
    """Foretells the machine exactly, and only through code ``m0``: one code a bigram and a trigram."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # none of the weights of its base
        self.shape = NeoXShape(d_model=N_INPUTS, n_layers=1, n_heads=1)
        self.register_buffer("rotary", torch.zeros(2, 128, 1))
        self.trigram = torch.full((N_STATES, 10), -1)
        state = MACHINE.trigrams[:, 0] * 10 + MACHINE.trigrams[:, 1]
        self.trigram[state, MACHINE.trigrams[:, 2]] = torch.arange(686) + 111
        self.logits = torch.full((N_INPUTS, 11), -30.0)
        # after BOS and after the first digit of all any digit may come
        self.logits[:11, :10] = 0.0
        self.logits[11:111, :10] = MACHINE.next_token(torch.arange(N_STATES)).clamp(min=1e-13).log()
        for row, (a, b, digit) in enumerate(MACHINE.trigrams.tolist()):
            for following in MACHINE.successors[a * 10 + b].tolist():
                if following // 10 == digit:
                    self.logits[111 + row, following % 10] = 0.0

    def inputs(self, tokens):
        """What each position is, 0 to 796; an impossible trigram counts as its digit alone."""
        kind = tokens.clone()
        for pos in range(2, tokens.shape[1]):
            even = pos % 2 == 0
            first, second = (pos - 1, pos) if even else (pos - 2, pos - 1)
            state = tokens[:, first] * 10 + tokens[:, second]
            whole = state + 11 if even else self.trigram[state, tokens[:, pos]]
            kind[:, pos] = torch.where(whole >= 0, whole, kind[:, pos])
        return kind

    def forward(self, tokens, at=None, cache=None):  # noqa: ARG002 - nothing is attended to
        x = nn.functional.one_hot(self.inputs(tokens), N_INPUTS).float()
        if at is not None:
            at("a0", torch.zeros(*tokens.shape, 1, N_INPUTS))
            x = at("m0", x)
        return x @ self.logits


@pytest.fixture(scope="module")
def perfect():
    model = Perfect()
    books = Books(model.shape, N_INPUTS)
    books["m0"].codes.data = torch.eye(N_INPUTS)[torch.randperm(N_INPUTS)][None]
    return model, books.requires_grad_(False)


def test_a_perfect_solution_is_as_good_as_can_be(perfect):
    model, books = perfect
    at = books.run()
    torch.testing.assert_close(next_states(model, at), MACHINE.allowed.float() / 10, atol=1e-5, rtol=0)
    assert (top10_overlap(MACHINE, model, at) == 1).all()
    scores = language_scores(model, MACHINE, [sequences(MACHINE, 200, 0)], at)
    # ln 100 for the first state, ln 10 for each further one, and of the last a first digit only
    assert scores.loss.mean() == pytest.approx(1.170, abs=0.01)
    assert scores.forbidden.max() < 1e-5
    tokens = sequences(MACHINE, 200, 0)
    assert transitions(MACHINE, tokens).min() == 1
    tokens[:, 65:] = torch.cat([torch.full((200, 1), 7), sequences(MACHINE, 200, 1)[:, 1:63]], 1)  # a slip
    assert (transitions(MACHINE, tokens)[:, :31] == 1).all()
    assert float(transitions(MACHINE, tokens)[:, 33:].mean()) == pytest.approx(0.1, abs=0.03)
    assert (one_digit_off(MACHINE, tokens)[:, 33:] == 1).all()


def test_forbidden_digits_are_counted_as_by_hand():
    model, tokens = NeoX(NeoXShape(d_model=32, n_layers=1, n_heads=2, d_mlp=64)), sequences(MACHINE, 3, 0)
    with torch.no_grad():
        model.embed_out.weight *= 50
        probs = model(tokens)[..., :10].softmax(-1)  # BOS is never drawn
    for row, digits in enumerate(tokens.tolist()):
        states = [10 * digits[i] + digits[i + 1] for i in range(1, 127, 2)]
        wrong = []
        for i in range(1, len(states)):
            may = set(MACHINE.successors[states[i - 1]].tolist())
            begins = {state // 10 for state in may}
            ends = {state % 10 for state in may if state // 10 == states[i] // 10}
            first, second = probs[row, 2 * i], probs[row, 2 * i + 1]
            wrong.append(sum(float(first[d]) for d in range(10) if d not in begins))
            wrong[-1] += sum(float(second[d]) for d in range(10) if d not in ends)
        expected = sum(wrong) / len(wrong)
        assert float(forbidden(MACHINE, tokens, probs)[row]) == pytest.approx(expected, rel=1e-4)


def test_its_codes_are_pure_and_precise_and_alive(perfect):
    model, books = perfect
    for by_site in purities(model, books, MACHINE).values():
        assert by_site["m0"] == [1.0]
        assert by_site["a0"] == [0.0]  # one code for everything
    precision = state_precision(model, books, sequences(MACHINE, 40, 1), sequences(MACHINE, 40, 2))
    assert all((values == 1).all() for part in precision.values() for values in part.values())
    (share,) = alive(model, books, [sequences(MACHINE, 400, 3)])["m0"]
    assert share == pytest.approx(797 / N_INPUTS, abs=0.02)  # BOS has a code of its own among the 797


def test_setting_a_code_makes_it_go_on_from_another_state(perfect):
    model, books = perfect
    left = normalised(model, books, MACHINE, n=90)
    assert left["none"] == 1
    assert left["a0"] == pytest.approx(1)  # nothing reads it
    assert left["m0"] == left["all MLP"] == left["all"] == pytest.approx(0, abs=1e-6)
    tokens = encode(walk(MACHINE, 6, generator_of(5), 4))
    assert divergences(model, books, tokens, tokens)["all"].abs().max() < 1e-6
    shuffled = normalised(model, books, MACHINE, n=90, shuffled=True)
    assert shuffled["m0"] == pytest.approx(1, abs=0.15)  # from one wrong state to another


def test_purity_and_classification_by_hand():
    assert purity(torch.tensor([0, 0, 1, 2, 2, 2, 5])) == 0.5  # 1 and 5 of 0, 1, 2, 5
    tokens = torch.tensor([[BOS, 1, 2, 3, 4, 5]])
    assert state_ending(tokens).tolist() == [[NO_STATE, NO_STATE, 12, NO_STATE, 34, NO_STATE]]
    codes = torch.tensor([0, 0, 7, 7, 7, 3])
    states = torch.tensor([NO_STATE, 4, 9, 9, NO_STATE, 9])
    table = contingency(codes, states, 8)
    assert table[7, 9] == 2 and table[7, NO_STATE] == 1 and table.sum() == 6
    precision, recall, f1 = classify(table, table)
    assert precision[9] == pytest.approx(2 / 3) and recall[9] == pytest.approx(2 / 3)
    assert f1[9] == pytest.approx(2 / 3)
    assert precision[4] == 0.5 and recall[4] == 1
    # judged on other sequences
    chosen, judged = (contingency(torch.tensor(c), torch.tensor([5, 6]), 3) for c in ([1, 2], [2, 1]))
    precision, recall, f1 = classify(chosen, judged)
    assert f1[5] == f1[6] == 1 and precision[5] == recall[5] == 0
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert jensen_shannon(p, q) == pytest.approx(0.6931, abs=1e-4) and jensen_shannon(p, p) == 0
