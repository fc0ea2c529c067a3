"""Blocks: packed without padding, deterministic, and no document both trains and is held out."""

import contextlib
import json
from pathlib import Path

import pytest
import torch

from interp.errors import InputError
from interp.text import load_text
from interp.text.blocks import is_heldout


@pytest.fixture
def corpus(tmp_path):
    """Forty documents of a few words."""
    path = tmp_path / "corpus.txt"
    documents = (f"document number {i} tells of {i * 7 % 40}\nin two lines" for i in range(40))
    path.write_text("\n\n".join(documents))
    return str(path)


def documents(model, blocks) -> set[str]:
    """Whole documents in the blocks."""
    stream = blocks.tokens[:, 1:].flatten().tolist()
    text = "".join(model.tokenizer.decode(stream)).split("<|endoftext|>")
    return {part for part in text[:-1] if part.startswith("document")}


def test_every_block_is_bos_and_a_stretch_of_documents_joined_by_eos(model, corpus):
    reports = []

    @contextlib.contextmanager
    def stage(name, total):
        reports.append((name.split()[0], total))
        yield lambda n, *_: reports.append(n)

    blocks = load_text(corpus, model, n_tokens=200, context=20, stage=stage)
    assert reports[0] == ("reading", 190) and sum(reports[1:]) == 190
    assert blocks.tokens.shape == (10, 20) and blocks.n_tokens == 200
    assert (blocks.tokens[:, 0] == model.tokenizer.bos_token_id).all()
    text = model.tokenizer.decode(blocks.tokens[:, 1:].flatten().tolist())
    assert text.startswith("document number ") and "in two lines<|endoftext|>document number" in text
    assert model.tokenizer.pad_token not in text


def test_blocks_are_in_the_order_of_their_seed_and_no_more_than_asked_for(model, corpus):
    short, long, again, other = (
        load_text(corpus, model, n_tokens=n, context=16, seed=seed)
        for n, seed in ((100, 0), (207, 0), (207, 0), (207, 1))
    )
    assert short.tokens.shape == (6, 16) and long.tokens.shape == (12, 16)
    assert torch.equal(long.tokens[:6], short.tokens) and torch.equal(long.tokens, again.tokens)
    assert long.fingerprint() == again.fingerprint() != other.fingerprint()


def test_held_out_documents_never_train_whatever_the_seed_and_context(model, corpus):
    train, heldout = set(), set()
    for seed, context in ((0, 16), (1, 16), (2, 30)):
        options = {"context": context, "seed": seed}
        train |= documents(model, load_text(corpus, model, n_tokens=500, **options))
        heldout |= documents(model, load_text(corpus, model, n_tokens=150, split="heldout", **options))
    assert len(train) > 10 and len(heldout) > 2
    assert not train & heldout
    assert all(is_heldout(text) for text in heldout) and not any(is_heldout(text) for text in train)


def test_spacing_makes_no_second_document(model, tmp_path):
    path = tmp_path / "twice.jsonl"
    texts = [f"the same words {i}" for i in range(40)]
    rows = [json.dumps(text) for text in texts] + [json.dumps({"text": text + " \n"}) for text in texts]
    path.write_text("\n".join(rows))
    assert all(is_heldout(text) == is_heldout(f" {text}\n") for text in texts)
    with pytest.raises(InputError, match="has .* tokens in its split 'train'"):
        load_text(str(path), model, n_tokens=100_000)
    once = tmp_path / "once.jsonl"
    once.write_text("\n".join(rows[:40]))
    both = {load_text(str(file), model, n_tokens=300, context=10).n_documents for file in (path, once)}
    assert len(both) == 1


def test_joined_sources_share_the_tokens_and_alternate(model, corpus):
    joined = load_text(f"{corpus} + stdlib", model, n_tokens=160, context=16)
    corpus_tokens, stdlib = (load_text(spec, model, n_tokens=80, context=16).tokens for spec in (corpus, "stdlib"))
    assert torch.equal(joined.tokens[0::2], corpus_tokens) and torch.equal(joined.tokens[1::2], stdlib)
    assert joined.spec == f"{corpus}+stdlib"


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("wikipedia", {}, "neither a source nor a file"),
        ("stdlib+", {}, "neither a source nor a file"),
        ("stdlib", {"context": 1}, "context 1: it must be 2 to 128"),
        ("stdlib", {"n_tokens": 10}, "at least 1 blocks of 64"),
        ("stdlib+stdlib", {"n_tokens": 100}, "at least 2 blocks"),
        ("stdlib", {"split": "test"}, "choose train, heldout"),
        ("stdlib", {"n_tokens": 10**9}, r"has \d+ tokens in its split 'train', \d+ are needed"),
    ],
)
def test_bad_requests_are_named(model, spec, settings, message):
    with pytest.raises(InputError, match=message):
        load_text(spec, model, **{"n_tokens": 1000, **settings})


def test_a_tokenizer_without_bos_gets_eos_in_front(model, corpus, monkeypatch):
    monkeypatch.setattr(type(model.tokenizer), "bos_token_id", None, raising=False)
    tokens = load_text(corpus, model, n_tokens=100, context=20).tokens
    assert (tokens[:, 0] == model.tokenizer.eos_token_id).all()


def test_a_document_of_two_sources_counts_once(model, corpus, tmp_path):
    twin = tmp_path / "twin.txt"
    more = "".join(f"\n\ndocument number {i} is new\nin two lines" for i in range(100, 140))
    twin.write_text(Path(corpus).read_text() + more)
    blocks = load_text(f"{corpus}+{twin}", model, n_tokens=800, context=20)
    stream = [model.tokenizer.decode(row) for row in blocks.tokens[:, 1:]]
    both = [[part for part, s in zip(stream, blocks.sources, strict=True) if s == which] for which in (0, 1)]
    first, second = (set("".join(half).split("<|endoftext|>")[1:-1]) for half in both)
    assert len(first) > 5 and len(second) > 5 and not first & second
