"""A gated edit acts where its condition holds and nowhere else, token by token as on the whole prompt."""

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.codesearch import Labels
from interp.errors import InputError
from interp.models.generate import generate
from interp.steering import AddCode, ForbidCode, SetCode, WeightedCode, steer
from interp.steering.continuations import step_divergences
from interp.steering.request import gate_of
from tests.bottlenecks import test_edits
from tests.bottlenecks.test_edits import activation, logits, under

model, tokens, books = test_edits.model, test_edits.tokens, test_edits.books  # fixtures
EDITS = {"add": AddCode("m1", 4, scale=30), "set": SetCode("m1", 7, slots=2)}
EDITS |= {"same hook": AddCode("a0.h2", 3, scale=30)}


def read(model, books, tokens) -> Tensor:
    """Codes of head 1 of layer 0 without any edit, [batch, pos, k]."""
    return books["a0"].encode(activation(model, "blocks.0.attn.hook_z", tokens)).ids[:, :, 1]


def rare(ids: Tensor) -> int:
    """A code that is on at some positions and not at the first."""
    shares = {c: (ids == c).any(-1) for c in ids.unique().tolist()}
    return next(c for c, on in shares.items() if not on[:, 0].any() and 2 <= on.sum() <= on.numel() // 2)


def text_of(model, token: int) -> str:
    return model.tokenizer.decode([token, token]).removeprefix(model.tokenizer.decode([token]))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_acts_at_exactly_the_positions_where_the_code_is(model, books, tokens, edit):
    ids = read(model, books, tokens)
    code = rare(ids)
    on = (ids == code).any(-1)
    hook = "blocks.0.attn.hook_z" if edit.site == "a0.h2" else "blocks.1.hook_mlp_out"
    before = activation(model, hook, tokens)
    gated = attach(model, books, read=False).edit(edit, positions="all", when=f"a0.h1={code}")
    with gated:
        after, steered = activation(model, hook, tokens), logits(model, tokens)
    changed = (after != before).flatten(2).any(-1)
    assert torch.equal(changed, on) and 0 < on.sum() < on.numel()
    assert torch.equal(gated.edited_positions(*tokens.shape), on)
    plain = logits(model, tokens)
    for row in range(len(tokens)):
        first = int(on[row].float().argmax()) if on[row].any() else tokens.shape[1]
        assert torch.equal(steered[row, :first], plain[row, :first])
        assert first == tokens.shape[1] or not torch.allclose(steered[row, first], plain[row, first])
    with attach(model, books, read=False).edit(edit, positions="all"):
        everywhere = activation(model, hook, tokens)
    assert torch.equal(after[on], everywhere[on])


def test_a_token_is_read_with_the_space_in_front_and_any_of_several_codes_will_do(model, books, tokens):
    token = int(tokens[1, 4])
    on = tokens == token
    _, gated = under(model, books, tokens, EDITS["add"], when=f"token:^{text_of(model, token)}$")
    same = [i for i in tokens.unique().tolist() if text_of(model, i) == text_of(model, token)]
    assert torch.equal(gated.edited_positions(3, 9), torch.isin(tokens, torch.tensor(same)))
    assert on.any() and not on.all()
    ids = read(model, books, tokens)
    two = ids.unique()[:2].tolist()
    _, gated = under(model, books, tokens, EDITS["add"], when=",".join(f"a0.h1={c}" for c in two))
    assert torch.equal(gated.edited_positions(3, 9), torch.isin(ids, torch.tensor(two)).any(-1))


@pytest.mark.parametrize("edit", [*EDITS.values(), ForbidCode("m1", 2)], ids=[*EDITS, "forbid"])
def test_a_gate_that_never_holds_edits_nothing_and_one_that_always_does_is_none(model, books, tokens, edit):
    never, gated = under(model, books, tokens, edit, when="token:no such token")
    assert torch.equal(never, logits(model, tokens)) and not gated.edited_positions(3, 9).any()
    everywhere = ",".join(f"a0.h1={code}" for code in range(12))
    ungated, _ = under(model, books, tokens, edit)
    for always in ("token:(?s).*", everywhere):
        assert torch.equal(under(model, books, tokens, edit, when=always)[0], ungated)
    assert not torch.equal(ungated, never)


def test_a_strength_that_follows_is_the_cosine_with_what_is_there(model, books, tokens):
    hook = "blocks.0.attn.hook_z"
    before = activation(model, hook, tokens)
    z, codes = before[:, :, 2], books["a0"].codes[2].detach()
    along = (z @ codes.mT > 0)[:, 2:7].float().mean((0, 1))
    code = int((along - 0.5).abs().argmin())
    edit, added = AddCode("a0.h2", code, scale=30), 30 * codes[code]
    with attach(model, books, read=False).edit(edit, positions=[2, 3, 4, 5, 6], when="firing") as following:
        after = activation(model, hook, tokens)
    share = ((z @ added) / z.norm(dim=-1) / added.norm()).clamp(min=0)
    share[:, [0, 1, 7, 8]] = 0
    assert 0 < (share > 0).sum() < 15
    torch.testing.assert_close(after[:, :, 2] - z, share[..., None] * added, rtol=1e-4, atol=1e-5)
    after[:, :, 2] = z
    assert torch.equal(after, before)
    assert following.edited_positions(*tokens.shape).sum() == 15, "where it may act"
    for other in (SetCode("m1", 7), ForbidCode("m1", 2)):
        with pytest.raises(InputError, match="gate 'firing' at m1"):
            attach(model, books).edit(other, when="firing")


def test_gates_of_several_calls_stand_each_for_their_own(model, books, tokens):
    ids, word = read(model, books, tokens), text_of(model, int(tokens[0, 5]))
    edited = attach(model, books, read=False)
    edited.edit(AddCode("a0.h2", 3, 5), positions="all", when=f"a0.h1={rare(ids)}")
    edited.edit(AddCode("a0.h0", 1, 5), positions=[5], when=f"token:{word}")
    with edited:
        after = activation(model, "blocks.0.attn.hook_z", tokens)
    changed = (after != activation(model, "blocks.0.attn.hook_z", tokens)).any(-1)
    assert torch.equal(changed[:, :, 2], (ids == rare(ids)).any(-1))
    others = [0, 1, 2, 3, 4, 6, 7, 8]
    assert changed[0, 5, 0] and not changed[:, others, 0].any() and not changed[:, :, 1].any()


def test_token_by_token_is_as_the_whole_text_and_its_marks_and_costs_are(model, books, tokens):
    """With a cache, without one, and read again at once: the same tokens are edited."""
    code = rare(read(model, books, tokens))
    edit = AddCode("m1", 4, scale=20)
    gate = {"positions": "generated", "when": f"a0.h1={code},a0.h1=0,a0.h1=5"}
    runs = []
    for cached in (True, False):
        with attach(model, books, read=False).edit(edit, **gate) as gated:
            out = generate(model, tokens, 12, use_cache=cached)
        runs.append((out, gated.edited_positions(*out.shape)))
    (out, marks), (again, others) = runs
    assert torch.equal(out, again) and torch.equal(marks, others)
    codes = torch.tensor([code, 0, 5])
    on = torch.isin(read(model, books, out), codes).any(-1)
    on[:, :8], on[:, -1] = False, False  # the prompt, and the last token, which is not read
    assert torch.equal(marks, on) and 0 < on.sum() < 3 * 12
    row = next(i for i in range(3) if on[i].any())
    prompt, continued = tokens[row].tolist(), out[row, 9:].tolist()
    divergence = step_divergences(model, books, [edit], prompt, [continued], **gate)
    first = int(on[row, 8:].float().argmax())
    assert abs(divergence[0][:first]).max(initial=0) < 1e-6 < divergence[0][first]
    ungated = steer(model, books, [edit], ["Mary and John"], 8)
    assert steer(model, books, [edit], ["Mary and John"], 8, when="token:(?s).*") == ungated
    assert steer(model, books, [edit], ["Mary and John"], 8, when="token:no such") != ungated


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("", "write codes"),
        ("a0.h1=3*2", "write codes"),
        ("token:", "regular expression"),
        ("token:(", "gate 'token:\\('"),
        ("token:(?=a)", "look-around"),
        ("a0.h1=12", "0 to 11"),
        ("a0=1", "per head"),
        ("m0=1", "no codebook at m0"),
        ("m1=3", "it is read after a0.h2 is edited"),
        ("a1.h0=3", "it is read after a0.h2 is edited"),
    ],
)
def test_a_gate_that_cannot_be_is_told_in_one_line_and_nothing_is_edited(model, books, tokens, when, message):
    attached = attach(model, books, read=False)
    with pytest.raises(InputError, match=message) as error:
        attached.edit(EDITS["same hook"], when=when)
    assert "\n" not in str(error.value)
    with attached:
        assert torch.equal(logits(model, tokens), model(tokens))


def test_a_label_is_its_clearest_code_that_is_read_in_time(books, monkeypatch):
    names = {"a0.h0": (0, 2), "a0.h1": (2, 2), "a1.h0": (4, 2)}
    columns = {"text": np.array(["digits", "mixed"] * 3, object), "f1": np.array([0.4, 0.9, 0.6, 0.2, 0.8, 1.0])}
    labels, coded = Labels({}, names, columns), Codebooks(None, {"sites": [*books]}, books)
    early, late = [WeightedCode("m1", 4), WeightedCode("a0.h2", 1)], "label:digits"
    assert gate_of("a0.h1=3", coded, early) == "a0.h1=3" and gate_of(None, coded, early) is None
    with pytest.raises(InputError, match="no labels"):
        gate_of(late, coded, early)
    monkeypatch.setattr("interp.steering.request.labels_of", lambda _books: labels)
    assert gate_of(late, coded, early) == "a0.h1=0"
    assert gate_of(late, coded, early[:1]) == "a1.h0=0"
    with pytest.raises(InputError, match="no code of that label"):
        gate_of("label:letters", coded, early)
