"""Edits of nodes: every outcome is that of transformer-lens' own whole forward with hooks, bad ones are one line."""

import dataclasses

import pytest
import torch

from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.bottlenecks.store import Codebooks
from interp.contrast import play, replay, why
from interp.contrast.play import Play, parse_edit
from interp.errors import InputError
from tests.contrast.test_why import TINY_A, TINY_B, tokens_of

LONGER_B = "When Mary and Mary and John went to the store, Mary gave a drink to"
N_CODES = 6


@pytest.fixture
def books(monkeypatch) -> Codebooks:
    """Of the heads of two layers, as if they came with the package."""
    made = {f"a{layer}": Codebook(CodebookConfig(6, N_CODES, groups=4, k=1, seed=layer)) for layer in (0, 1)}
    stored = Codebooks(None, {"sites": [*made]}, made)
    monkeypatch.setattr(play, "shipped_codebooks", lambda _model: [(stored, None)])
    return stored


def in_whole_forward(model, a, b, edits, books) -> torch.Tensor:
    """Logits of A with all edits, each taken from a whole forward, by transformer-lens alone."""
    cache, hooks = model.run_with_cache(torch.tensor([b]))[1], []
    for edit in edits:

        def hook(x, edit=edit, **_):
            x = x.clone()
            at = (0, edit.position) if edit.site.head is None else (0, edit.position, edit.site.head)
            if edit.to == "b":
                x[at] = cache[edit.site.hook][(0, edit.position + len(b) - len(a), *at[2:])]
            else:
                x[at] = 0 if edit.to == "0" else books[f"a{edit.site.layer}"].codes[edit.site.head, edit.to]
            return x

        hooks.append((edit.site.hook, hook))
    return model.run_with_hooks(torch.tensor([a]), fwd_hooks=hooks)[0, -1]


@pytest.mark.parametrize("family", ["llama", "pythia"])
@pytest.mark.parametrize("b", [TINY_B, LONGER_B])
def test_each_outcome_is_that_of_a_whole_forward(family, b, tiny_model, books):
    model = tiny_model(family)
    explanation = why(model, TINY_A, b)
    ids = [tokens_of(model, text) for text in (TINY_A, b)]
    end = len(ids[0]) - 1
    first = Play(model, explanation).first
    texts = [f"a1.h2@{end}=b", f"a0.h1@{first}=0", f"m1@{end}=b", f"a0.h3@{end}=c5", f"m0@{end - 1}=0"]
    texts += [f"a0.h3@{end}=c1", f"a0.h0@{first}=b"]
    edits = [parse_edit(text) for text in texts]
    assert [str(edit) for edit in edits] == texts
    answers = [explanation.answers[name]["id"] for name in ("answer", "instead")]
    outcomes = replay(model, explanation, texts)
    assert [outcome.edit for outcome in outcomes] == [None, *texts]
    with torch.no_grad():
        for n, outcome in enumerate(outcomes):
            logits = in_whole_forward(model, *ids, edits[:n], books)
            p = logits.softmax(-1)
            assert [outcome.answer, outcome.instead] == pytest.approx(p[answers].tolist(), abs=1e-4)
            difference = float(logits[answers[0]] - logits[answers[1]])
            assert outcome.difference == pytest.approx(difference, abs=1e-3)
            assert outcome.p_top == pytest.approx(float(p.max()), abs=1e-4)
            assert outcome.top == model.tokenizer.decode([int(logits.argmax())])
    assert len({round(outcome.difference, 3) for outcome in outcomes}) > len(edits) - 1
    assert outcomes[0].answer == pytest.approx(explanation.answers["answer"]["a"], abs=1e-4)
    [unedited] = replay(model, explanation, [])
    assert unedited.difference == pytest.approx(outcomes[0].difference, abs=1e-4)


BAD = [
    ("a1.h2@-1=0", "write a23.h3@15=b"),
    ("a1.h2@٣=0 <b>", "write a23.h3@15=b"),
    ("a1@3=0", "a1 is no node"),
    ("a9.h0@3=0", "the model has no site 'a9.h0'"),
    ("a1.h2@99=0", "A has positions 0 to"),
    ("a1.h2@1=b", "compared from position"),
    ("a1.h2@3=c6", "c0 to c5"),
    ("m1@3=c1", "no codebook for m1"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
@pytest.mark.usefixtures("books")
def test_a_bad_edit_is_one_line(text, words, model):
    explanation = why(model, TINY_A, TINY_B)
    with pytest.raises(InputError) as error:
        replay(model, explanation, [text])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_played_is_one_line(model):
    explanation = why(model, TINY_A, TINY_B)
    end = len(explanation.tokens) - 1
    for edits, message in (([f"a1.h2@{end}=c1"], "no codebook for a1.h2"), ([f"m1@{end}=0"] * 65, "at most 64")):
        with pytest.raises(InputError, match=message):
            replay(model, explanation, edits)
    other = dataclasses.replace(explanation, tokens=["x", *explanation.tokens[1:]])
    with pytest.raises(InputError, match="in other tokens"):
        replay(model, other, [])
