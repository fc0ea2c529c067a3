"""Where heads look, and what codes write, are what the model does."""

import json
import shutil

import numpy as np
import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.store import Codebooks
from interp.circuits.references import load_reference
from interp.codesearch import CodeIndex, label_index, labels_of, summarise_heads
from interp.codesearch.layout import MANIFEST
from interp.codesearch.looks import LOOKS, PARTS
from interp.codesearch.patterns import halves
from interp.codesearch.writes import writes, written_vectors
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models import hooked
from interp.models.residual_writes import FinalNorm


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen2"])
def test_the_places_kept_have_the_most_of_attention_and_value(family, tiny_model, text_file, tmp_path):
    model, seen = tiny_model(family), {}
    book = make_book(model)
    index = CodeIndex.build(model, {"a1": book}, str(text_file), tmp_path / "index", n_tokens=400, context=20)
    n_heads, attention = model.cfg.n_heads, "blocks.1.attn.hook_"
    hooks = {f"{attention}{name}": lambda x, n=name: seen.update({n: x.clone()}) for name in ("pattern", "v")}
    with torch.no_grad(), hooked(model, hooks):
        model(torch.from_numpy(np.asarray(index.corpus.tokens).astype(np.int64)).reshape(20, 20))
    checked = 0
    for head in range(n_heads):
        size = seen["v"][:, :, head * seen["v"].shape[2] // n_heads].norm(dim=-1)
        weight = seen["pattern"][:, head] * size[:, None]
        # a token of padding has no value: nothing is looked at there
        share = (weight / weight.sum(-1, keepdim=True)).nan_to_num().reshape(400, 20).numpy()
        place, kept = index.looked_at(f"a1.h{head}")
        for token in range(400):
            best = np.sort(share[token])[::-1]
            seen_at = place[token, place[token] >= 0] - token // 20 * 20
            n = len(seen_at)
            assert n == min(2, (share[token] > 0).sum()) and (seen_at <= token % 20).all()
            assert np.allclose(share[token, seen_at], best[:n], atol=1e-6)
            assert np.abs(kept[token, :n] - best[:n]).max(initial=0) <= 0.5 / PARTS + 1e-6
            checked += best[0] < 0.9
    assert checked > 100


def make_book(model):
    book = Codebook(CodebookConfig(model.cfg.d_head, 8, groups=model.cfg.n_heads)).requires_grad_(False)
    book.codes.copy_(torch.randn(book.codes.shape, generator=torch.Generator().manual_seed(0)))
    return book


def test_an_index_of_before_has_no_looks_and_is_read(index, tmp_path):
    assert index.looked_at("a0.h1") is not None
    assert index.looked_at("m0.g0") is None and index.looked_at("a9.h0") is None
    before = tmp_path / "before"
    shutil.copytree(index.folder, before)
    (before / LOOKS).unlink()
    with pytest.raises(InputError, match=LOOKS):
        CodeIndex.open(before)
    manifest = read_json(before / MANIFEST)
    del manifest["bytes"][LOOKS]
    write_json(before / MANIFEST, manifest)
    opened = CodeIndex.open(before)
    assert opened.looked_at("a0.h1") is None and opened.count("a0.h1", 0) == index.count("a0.h1", 0)


def test_what_a_code_writes_is_judged_by_the_tokens_that_follow(index, model):
    """Codes planted where a token follows that they raise, or lower, say so; codes at random places gain nothing."""
    corpus, rng = index.corpus, np.random.default_rng(0)
    vectors, final = written_vectors(index, model, "a0.h1"), FinalNorm.of(model)
    tokens, half = np.asarray(corpus.tokens).astype(np.int64), halves(corpus, 0)
    place = np.arange(len(tokens)) % corpus.context
    ids = 2 + rng.integers(0, len(vectors) - 2, (len(tokens), 1))
    for _ in range(5):  # what is taken off is the mean of these very codes
        count = torch.from_numpy(np.bincount(ids.ravel(), minlength=len(vectors))).float()
        centred = vectors - (count @ vectors) / count.sum()
        logits = (final.norm.direction(centred) @ final.unembedding).numpy()
        after = np.roll(tokens, -1)
        followed = place < corpus.context - 1
        ids[followed & (logits[0, after] > np.quantile(logits[0, tokens], 0.9))] = 0
        ids[followed & (logits[1, after] < np.quantile(logits[1, tokens], 0.1))] = 1
    words, gain = writes(index, model, "a0.h1", ids, half)
    assert words[0].startswith("raises") and gain[0] > 1
    assert words[1].startswith("lowers") and gain[1] < -1
    words_shuffled, shuffled = writes(index, model, "a0.h1", rng.permutation(ids), half)
    assert np.abs(shuffled[:2]).max() < 0.3
    assert np.mean([bool(text) for text in words_shuffled]) < 0.2
    strongest = [corpus.token_text(i) for i in np.argsort(-logits[0]) if corpus.token_counts[i]][0]
    assert f"“{strongest}”" in words[0]
    expected = writes(index, model, "a0.h1", index.ids.tokens(index.layout.number("a0.h1")), half)
    labels = label_index(index, model=model)
    for code, (words, gain) in enumerate(zip(*expected, strict=True)):
        label = labels.of("a0.h1", code)
        assert (label.writes, label.writes_gain) == (words, gain)


@pytest.fixture(scope="module")
def shipped_heads():
    books = Codebooks.from_pretrained("smollm2-135m-instruct-k1")
    return summarise_heads(labels_of(books), books.manifest["model"]["spec"])


def test_heads_are_told_with_where_they_look_and_their_circuits(shipped_heads):
    """Heads that are known for it look there on ordinary text, too; those of a measured circuit say so."""
    heads = {head.head: head for head in shipped_heads}
    assert len(heads) == 270
    assert all(0.9 < sum(share for _, share in head.looks) < 1.1 for head in shipped_heads)
    previous, induction = dict(heads["a16.h0"].looks), dict(heads["a17.h4"].looks)
    assert max(previous, key=previous.get) == "the token before"
    relation = "what followed the same token"
    assert induction[relation] > np.median([dict(head.looks).get(relation, 0) for head in shipped_heads])
    assert "ioi" in dict(heads["a20.h0"].circuits)
    reference = load_reference("ioi/smollm2-135m-instruct")
    assert sum("ioi" in dict(head.circuits) for head in shipped_heads) == reference.members().sum()


def test_the_command_lists_heads_and_writes_them(command, tmp_path, shipped_heads):
    listed = command("heads", "-n", "270", "--sort", "looks").out
    assert listed.index(max(shipped_heads, key=lambda head: head.looks[0][1]).head) < listed.index("a29.h8")
    of_one_head = command("heads", "--head", "a16.h0").out
    assert "the token before" in of_one_head and "a16.h1" not in of_one_head
    assert command("heads", "--json", str(tmp_path / "heads.json")).code == 0
    written = json.loads((tmp_path / "heads.json").read_text())["heads"]
    assert [head["head"] for head in written] == [head.head for head in shipped_heads]
    assert "a99.h0" in command("heads", "--head", "a99.h0").error


def test_labels_of_mlps_have_no_heads():
    with pytest.raises(InputError, match="heads"):
        summarise_heads(labels_of(Codebooks.from_pretrained("smollm2-135m-instruct-mlps-k1")))
