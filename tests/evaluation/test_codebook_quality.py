"""The cost of codebooks against what a plain loop computes, and the controls against what they claim to be."""

import json

import numpy as np
import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.kinds.vq import ResidualVQ, VQConfig
from interp.bottlenecks.store import Codebooks
from interp.errors import InputError
from interp.evaluation import codebook_quality
from interp.models import Model, hooked
from interp.text import load_text
from tests.oracles import kept

SITES = ("a0", "a1.h2", "m1", "r0")


@pytest.fixture(scope="module")
def texts(model):
    return [load_text("stdlib", model, n_tokens=9 * 16, context=16, split=s) for s in ("heldout", "train")]


@pytest.fixture(scope="module")
def books(model, tmp_path_factory):
    text = load_text("stdlib", model, n_tokens=640, context=32)
    folder = tmp_path_factory.mktemp("books")
    config = FitConfig(n_codes=12, k=3, selection="matching_pursuit")
    return fit_codebooks(model, SITES, text, folder, config)


@pytest.fixture(scope="module")
def by_k(books, model):
    return {k: Codebooks.from_pretrained(books.folder, model, k=k) for k in (1, 3)}


@pytest.fixture(scope="module")
def scored(model, by_k, texts):
    return codebook_quality.evaluate_codebooks(model, by_k, *texts, batch_size=4, control_blocks=6)


def losses(model: Model, tokens: torch.Tensor) -> np.ndarray:
    """Cross-entropy of each block, written out."""
    rows = []
    with torch.no_grad():
        for block in tokens:
            logits = model(block[None])[0]
            rows.append(torch.nn.functional.cross_entropy(logits[:-1], block[1:]).item())
    return np.array(rows)


def test_cross_entropy_is_that_of_a_plain_loop(model, by_k, texts, scored):
    tokens = texts[0].tokens
    np.testing.assert_allclose(scored.plain.ce, losses(model, tokens), rtol=1e-4)
    for k, books in by_k.items():
        with attach(model, books, error_term=False):
            np.testing.assert_allclose(scored.scores[f"codes k={k}"].ce, losses(model, tokens), rtol=1e-3)
    assert not np.allclose(scored.plain.ce, scored.scores["codes k=3"].ce)


def test_kl_accuracy_and_agreement_are_those_of_a_plain_loop(model, by_k, texts, scored):
    block = texts[0].tokens[2:3]
    with torch.no_grad():
        plain = model(block)[0, :-1].log_softmax(-1)
        with attach(model, by_k[3], error_term=False):
            coded = model(block)[0, :-1].log_softmax(-1)
    kl = torch.nn.functional.kl_div(coded, plain, log_target=True, reduction="batchmean")
    scores = scored.scores["codes k=3"]
    assert scores.kl[2] == pytest.approx(kl.item(), rel=1e-3)
    assert scores.right[2] == pytest.approx((coded.argmax(-1) == block[0, 1:]).float().mean().item())
    assert scores.same[2] == pytest.approx((coded.argmax(-1) == plain.argmax(-1)).float().mean().item())
    assert (scored.plain.kl == 0).all() and (scored.plain.same == 1).all()


NAMES = ("0.attn.hook_z", "1.attn.hook_z", "1.hook_mlp_out", "0.hook_resid_post")
HOOKS = dict(zip(SITES, NAMES, strict=True))


def ablated(model, texts, values) -> np.ndarray:
    """Losses with activations at all sites replaced: ``values`` gives first position and rest of a site."""

    def give(site):
        def hook(x):
            x = x.clone()
            part = x[:, :, 2] if site == "a1.h2" else x
            part[:, :1], part[:, 1:] = values[site]
            return x

        return hook

    with hooked(model, {f"blocks.{name}": give(site) for site, name in HOOKS.items()}):
        return losses(model, texts[0].tokens[:6])


def test_zero_ablation_is_zero_at_every_site(model, texts, scored):
    expected = ablated(model, texts, {site: (0.0, 0.0) for site in SITES})
    np.testing.assert_allclose(scored.scores["zero"].ce, expected, rtol=1e-3)


def test_mean_ablation_takes_the_means_of_other_text_with_the_first_position_apart(model, texts, scored):
    other, means = texts[1].tokens, {}
    for site, name in HOOKS.items():
        (x,) = kept(model, other, f"blocks.{name}")
        x = x[:, :, 2] if site == "a1.h2" else x
        means[site] = (x[:, 0].mean(0), x[:, 1:].flatten(0, 1).mean(0))
    for site, mean in codebook_quality.mean_activations(model, SITES, other, batch_size=2).items():
        torch.testing.assert_close(mean, torch.stack(means[site]), atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(scored.scores["mean"].ce, ablated(model, texts, means), rtol=1e-3)


def test_random_directions_have_the_codes_lengths_and_nothing_else(by_k):
    similar = []
    for book in by_k[3].values():
        drawn = codebook_quality.random_directions(book, seed=1)
        assert type(drawn) is type(book) and drawn.config == book.config
        torch.testing.assert_close(drawn.codes.norm(dim=-1), book.codes.norm(dim=-1))
        similar.append(torch.nn.functional.cosine_similarity(drawn.codes, book.codes, dim=-1).flatten())
    assert torch.cat(similar).abs().mean() < 0.45  # of directions in 6 to 24 dimensions


def test_a_model_whose_vectors_are_all_in_the_books_loses_nothing(model, texts):
    (x,) = kept(model, texts[0].tokens, "blocks.1.hook_mlp_out")
    rows = x.flatten(0, 1)
    book = Codebook(CodebookConfig(d_in=rows.shape[-1], n_codes=len(rows), selection="matching_pursuit"))
    book.codes.data = rows[None].clone()
    scored = codebook_quality.evaluate_codebooks(model, {1: {"m1": book}}, *texts, control_blocks=0, batch_size=9)
    np.testing.assert_allclose(scored.scores["codes k=1"].ce, scored.plain.ce, atol=1e-5)
    usage = scored.usage[1]
    assert usage["variance_explained_min"] == pytest.approx(1, abs=1e-4)
    assert usage["active_codes"] == 1 and usage["n_groups"] == 1


def test_usage_counts_codes_and_explained_variance(model, by_k, texts, scored):
    tokens, usage = texts[0].tokens, scored.usage[3]
    # a0 comes first: what reaches it is what the plain model has there
    (x,), book = kept(model, tokens, "blocks.0.attn.hook_z"), by_k[3]["a0"]
    coded = book(x).detach()[:, 1:].flatten(0, 1)
    x = x[:, 1:].flatten(0, 1)
    error = (x - coded).square().sum()
    variance = (x - x.mean(0)).square().sum()
    assert usage["variance_explained_sites"]["a0"] == pytest.approx(1 - float(error / variance), abs=1e-4)

    alone = codebook_quality.evaluate_codebooks(model, {3: {"m1": by_k[3]["m1"]}}, *texts, control_blocks=0).usage[3]
    with torch.no_grad(), attach(model, {"m1": by_k[3]["m1"]}, error_term=False) as attached:
        model(tokens)
    ids = attached.ids["m1"].flatten(0, 1)
    share = torch.bincount(ids.flatten().long(), minlength=12) / ids.numel()
    entropy = float(-(share[share > 0] * share[share > 0].log2()).sum())
    assert alone["entropy_bits"] == pytest.approx(entropy, rel=1e-4)
    assert alone["bits_per_token"] == pytest.approx(3 * entropy, rel=1e-4)
    assert alone["bits_per_token_most"] == pytest.approx(3 * np.log2(12))
    assert alone["dead_on_text"] == pytest.approx(float((share == 0).float().mean()))
    different = np.mean([len(set(row)) for row in ids.tolist()])
    assert alone["active_codes"] == pytest.approx(different)
    assert alone["dead_when_fitted"] == float((by_k[3]["m1"].counts == 0).float().mean())


def test_slots_with_codes_of_their_own_have_entropies_of_their_own():
    x = torch.randn(8, 50, 6, generator=torch.Generator().manual_seed(0))
    book = ResidualVQ(VQConfig(d_in=6, codes=8, slots=3)).fit(x)
    meter = codebook_quality.UsageMeter({"m0": book})
    watched = meter.watching({"m0": book})["m0"]
    codes = watched.encode(x)
    watched.decode(codes)
    watched.count(codes)
    shares = [torch.bincount(ids.flatten().long()) / ids.numel() for ids in codes.ids.unbind(-1)]
    entropies = [float(-(s[s > 0] * s[s > 0].log2()).sum()) for s in shares]
    scored = meter.summary()
    assert scored["bits_per_token"] == pytest.approx(sum(entropies), rel=1e-4) and sum(entropies) > 6
    assert scored["entropy_bits"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert scored["bits_per_token_most"] == pytest.approx(9)


def test_variance_explained_of_vectors_close_together_and_far_from_zero():
    generator = torch.Generator().manual_seed(0)
    x = 100 + 0.05 * torch.randn(6, 40, 4, generator=generator)
    book = Codebook(CodebookConfig(d_in=4, n_codes=16, selection="matching_pursuit")).fit(x)
    watched = codebook_quality.UsageMeter({"m0": book}).watching({"m0": book})["m0"]
    for part in x.split(2):
        decoded = watched.decode(watched.encode(part))
    exact, coded = (y[:, 1:].double().flatten(0, 1) for y in (x, book(x).detach()))
    error = (exact - coded).square().sum() / (exact - exact.mean(0)).square().sum()
    assert decoded.shape == (2, 40, 4) and 0 < error < 1
    assert float(watched.explained()) == pytest.approx(1 - float(error), abs=1e-4)


def test_rows_hold_the_increase_with_an_interval_over_the_same_blocks(scored):
    rows = {row["condition"]: row for row in scored.rows()}
    assert rows["plain"]["ce_increase"] == 0
    zero = rows["zero"]
    increase = scored.scores["zero"].ce - scored.plain.ce[:6]
    assert zero["ce_increase"] == pytest.approx(increase.mean())
    assert zero["ce_increase_low"] < zero["ce_increase"] < zero["ce_increase_high"]
    json.dumps(list(rows.values()), allow_nan=False)


def test_a_folder_is_evaluated_on_each_text_apart(model, books, tmp_path):
    (tmp_path / "own.txt").write_text("\n\n".join(f"a document with number {i} in it" for i in range(200)))
    specs = ["stdlib", str(tmp_path / "own.txt")]
    result = codebook_quality.quality_of_folder(model, books, specs, ks=[1, 3], n_tokens=300, control_blocks=2)
    assert [text["spec"] for text in result["texts"]] == specs
    assert list(result["texts"][0]["usage"]) == ["1", "3"]
    assert result["fitted_on"]["n_tokens"] == 640 and result["sites"] == books.sites
    json.dumps(result, allow_nan=False)


def test_too_little_to_evaluate_is_refused(model, by_k, texts):
    short = load_text("stdlib", model, n_tokens=16, context=16)
    with pytest.raises(InputError, match="one block of text"):
        codebook_quality.evaluate_codebooks(model, by_k, short, texts[1])
    with pytest.raises(InputError, match="no codebooks"):
        codebook_quality.evaluate_codebooks(model, {}, *texts)
    with pytest.raises(InputError, match="controls on 1 block"):
        codebook_quality.evaluate_codebooks(model, by_k, *texts, control_blocks=1)


@pytest.mark.slow
def test_codes_of_all_heads_of_smollm2_beat_the_controls(smollm2, tmp_path):
    text = load_text("stdlib", smollm2, n_tokens=1024, context=64)
    config = FitConfig(n_codes=64, k=4, selection="matching_pursuit", sequential=False)
    folder = fit_codebooks(smollm2, ["heads"], text, tmp_path, config)
    result = codebook_quality.quality_of_folder(smollm2, folder, ["stdlib"], n_tokens=256, control_blocks=2)
    rows = {row["condition"]: row for row in result["texts"][0]["rows"]}
    assert rows["plain"]["ce"] < 5.0
    assert rows["codes k=4"]["ce_increase"] < 2
    for name in codebook_quality.CONTROLS:
        assert rows[name]["ce"] > rows["codes k=4"]["ce"] + 1, name
    assert result["texts"][0]["usage"]["4"]["n_groups"] == 270
