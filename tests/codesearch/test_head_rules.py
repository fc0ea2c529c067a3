"""Planted attention is told by a rule from the tokens, also on text that it was not fitted on."""

import pytest
import torch

from benchmarks.head_rules import HeadRules, Reading, common_tokens, fit_rules

N_VOCAB, CONTEXT, STEPS = 30, 12, 120


def attention(tokens: torch.Tensor) -> torch.Tensor:
    """[head, block, q, k]: the token before; the same token's latest place, else the first; the last of class 1, else
    itself; and the first for class 0 but itself for class 1."""
    n = len(tokens)
    pattern = torch.zeros(4, n, CONTEXT, CONTEXT)
    for block in range(n):
        for q in range(CONTEXT):
            row = tokens[block, :q].tolist()
            same = [k for k in range(1, q) if row[k] == tokens[block, q]]
            marks = [k for k in range(1, q) if row[k] % 2]
            pattern[0, block, q, max(q - 1, 0)] = 1
            pattern[1, block, q, same[-1] if same else 0] = 1
            pattern[2, block, q, marks[-1] if marks else q] = 1
            pattern[3, block, q, q if tokens[block, q] % 2 else 0] = 1
    return pattern


@pytest.fixture(scope="module")
def fitted() -> tuple[HeadRules, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, N_VOCAB, (160, CONTEXT), generator=generator)
    classes = torch.arange(N_VOCAB) % 2
    common = common_tokens(tokens, N_VOCAB)
    (rules,) = fit_rules([attention(tokens).half()], tokens, classes, common, steps=STEPS)
    return rules, classes, common


def test_planted_attention_is_told_on_other_text(fitted):
    rules, classes, common = fitted
    other = torch.randint(1, N_VOCAB, (40, CONTEXT), generator=torch.Generator().manual_seed(1))
    attended = rules(Reading.of(other, classes, common)).exp()
    torch.testing.assert_close(attended.sum(-1), torch.ones(4, 40, CONTEXT))
    assert (attended.triu(1) == 0).all()
    right = (attended * attention(other)).sum(-1).mean((1, 2))
    # of several marks the last is told by distance and class alone
    assert right[[0, 3]].min() > 0.95 and right[1] > 0.85 and right[2] > 0.6
    uniform = (attention(other) / (1 + torch.arange(CONTEXT))[:, None]).sum(-1).mean((1, 2))
    assert (right > 2 * uniform).all()
