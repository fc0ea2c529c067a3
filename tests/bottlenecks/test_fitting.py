"""Fitting codebooks at many sites: what they are fitted to, resuming, refusing."""

import contextlib
import json

import pytest
import torch
from torch import Tensor

from interp import DEFAULT_CODEBOOKS
from interp.bottlenecks import Codebook, CodebookConfig, MetricCodebook
from interp.bottlenecks.attach import attach
from interp.bottlenecks.fit import FitConfig, LayerStream, fit_codebooks
from interp.bottlenecks.metric_codebook import output_map
from interp.bottlenecks.store import PRETRAINED, Codebooks
from interp.errors import InputError
from interp.models import Model, hooked, resolve_site
from interp.text import TextBlocks, load_text

SMALL = FitConfig(n_codes=12, k=2, selection="matching_pursuit")


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def text(model) -> TextBlocks:
    return load_text("stdlib", model, n_tokens=640, context=32)


def seen(model: Model, tokens: Tensor, site: str, books: dict) -> Tensor:
    """What reaches a site with books before it, by an ordinary forward pass."""
    place, found = resolve_site(model, site), []

    def keep(x: Tensor) -> None:
        found.append((x if place.head is None else x[:, :, place.head]).clone())

    with (
        torch.no_grad(),
        hooked(model, {place.hook: keep}),
        attach(model, books, error_term=False) if books else hooked(model, {}),
    ):
        model(tokens)
    return found[0]


def same(first: Codebook, second: Codebook) -> bool:
    return torch.equal(first.codes, second.codes) and torch.equal(first.counts, second.counts)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama", "gemma2"])
def test_each_book_is_fitted_to_what_reaches_it_through_the_earlier_ones(family, tiny_model, tmp_path):
    model = tiny_model(family)
    text = load_text("stdlib", model, n_tokens=640, context=32)
    fit_codebooks(model, ["heads", "m0", "r1"], text, tmp_path, SMALL, batch_size=20)
    books = Codebooks.from_pretrained(tmp_path, model)
    assert list(books) == ["a0", "m0", "a1", "r1"]
    earlier: dict = {}
    for site, book in books.items():
        x = seen(model, text.tokens, site, earlier)
        again = Codebook(book.config) if site[0] != "a" else MetricCodebook(book.config)
        if site[0] == "a":
            again.compare_by(model.blocks[int(site[1])].attn.W_O.detach())
        torch.testing.assert_close(again.fit(x).codes, book.codes, atol=1e-4, rtol=1e-3)
        earlier[site] = book


def test_independent_books_are_fitted_to_the_plain_model(model, text, tmp_path):
    config = FitConfig(n_codes=12, k=2, selection="cosine", sequential=False, by_output=False)
    fit_codebooks(model, ["a1", "m1"], text, tmp_path, config, batch_size=7)
    for site, book in Codebooks.from_pretrained(tmp_path, model).items():
        again = Codebook(book.config).fit(seen(model, text.tokens, site, {}))
        torch.testing.assert_close(again.codes, book.codes, atol=1e-4, rtol=1e-3)


def test_counts_are_of_the_text_it_was_fitted_on(model, text, tmp_path):
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    book = Codebooks.from_pretrained(tmp_path, model)["a0"]
    blocks = len(text.tokens)
    more = book.counts.sum(1) - 2 * (text.tokens.numel() - blocks)  # codes that only the first position has
    assert ((more >= 0) & (more <= 2)).all()


def test_a_single_head_has_a_book_of_its_own(model, text, tmp_path):
    fit_codebooks(model, ["a1.h2"], text, tmp_path, SMALL)
    book = Codebooks.from_pretrained(tmp_path, model)["a1.h2"]
    again = MetricCodebook(book.config).compare_by(model.blocks[1].attn.W_O.detach()[2:3])
    assert torch.equal(again.fit(seen(model, text.tokens, "a1.h2", {})).codes, book.codes)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("after", range(1, 16, 2))
def test_a_killed_fit_goes_on_and_gives_the_same_books(model, text, tmp_path, monkeypatch, after, sequential):
    config = FitConfig(n_codes=12, k=2, selection="matching_pursuit", sequential=sequential)
    sites, whole, part = ["heads", "mlps"], tmp_path / "whole", tmp_path / "part"
    fit_codebooks(model, sites, text, whole, config, batch_size=8)
    run, calls = LayerStream._run_until, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return run(*arguments)

    monkeypatch.setattr(LayerStream, "_run_until", killed)
    with contextlib.suppress(Killed):
        fit_codebooks(model, sites, text, part, config, batch_size=8)
    if len(calls) > after:
        with pytest.raises(InputError, match="not finished; the same command goes on"):
            Codebooks.from_pretrained(part, model)
    monkeypatch.undo()
    fit_codebooks(model, sites, text, part, config, batch_size=8)
    first, second = (Codebooks.from_pretrained(folder, model) for folder in (whole, part))
    assert list(first) == list(second) and all(same(first[site], second[site]) for site in first)
    assert sorted(path.name for path in part.iterdir()) == ["a0", "a1", "m0", "m1", "manifest.json"]


def test_a_finished_folder_is_not_fitted_again(model, text, tmp_path, monkeypatch):
    first = fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    monkeypatch.setattr(LayerStream, "_run_until", None)
    assert fit_codebooks(model, ["a0"], text, tmp_path, SMALL).manifest == first.manifest


def test_a_folder_of_other_books_is_refused(model, text, tmp_path, tiny_model):
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    other_text = load_text("stdlib", model, n_tokens=640, context=32, seed=1)
    with pytest.raises(InputError):
        fit_codebooks(model, ["a0"], other_text, tmp_path, SMALL)
    with pytest.raises(InputError):
        fit_codebooks(model, ["a0"], text, tmp_path, FitConfig(n_codes=13))
    with pytest.raises(InputError):
        fit_codebooks(model, ["a1"], text, tmp_path, SMALL)
    other = tiny_model("gpt2")
    with pytest.raises(InputError):
        fit_codebooks(other, ["a0"], load_text("stdlib", other, n_tokens=640, context=32), tmp_path, SMALL)


def test_another_models_books_are_refused(model, text, tmp_path, tiny_model, tiny_model_folder):
    from interp.models import load_model

    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    with pytest.raises(InputError, match="holds codebooks of .* not of"):
        Codebooks.from_pretrained(tmp_path, tiny_model("gpt2"))
    altered = load_model(str(tiny_model_folder("llama")))
    with torch.no_grad():
        for parameter in altered.original_model.parameters():
            parameter.neg_()
    with pytest.raises(InputError, match="weights"):
        Codebooks.from_pretrained(tmp_path, altered)
    Codebooks.from_pretrained(tmp_path, load_model(str(tiny_model_folder("llama")), dtype="bfloat16"))


def test_fewer_codes_per_vector_are_the_first_ones(model, text, tmp_path):
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    two, one = (Codebooks.from_pretrained(tmp_path, model, k=k)["a0"] for k in (2, 1))
    x = seen(model, text.tokens, "a0", {})
    assert torch.equal(one.encode(x).ids[..., 0], two.encode(x).ids[..., 0])
    with pytest.raises(InputError, match="k 3: this codebook was fitted for 2"):
        Codebooks.from_pretrained(tmp_path, model, k=3)


def test_a_sum_of_similar_codes_is_right_for_one_k_only(model, text, tmp_path):
    fit_codebooks(model, ["a0"], text, tmp_path, FitConfig(n_codes=12, k=2, selection="cosine"))
    with pytest.raises(InputError, match="lengths of these codes are right for sums of 2"):
        Codebooks.from_pretrained(tmp_path, model, k=1)


@pytest.mark.parametrize(
    ("sites", "config", "message"),
    [
        ([], SMALL, "no site"),
        (["b3"], SMALL, "unknown site 'b3'"),
        (["a7"], SMALL, "no site 'a7'"),
        (["a0", "a0.h1"], SMALL, "the second holds the first"),
        (["a0"], FitConfig(n_codes=700), "640 tokens for 700 codes"),
        (["a0"], FitConfig(n_codes=4, k=8), "k 8: it must be 1 to 4"),
    ],
)
def test_what_cannot_be_fitted_is_named(model, text, tmp_path, sites, config, message):
    with pytest.raises(InputError, match=message):
        fit_codebooks(model, sites, text, tmp_path / "books", config)
    assert not (tmp_path / "books" / "manifest.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        None,
        "{",
        {"format": 99},
        {"model": ...},
        {"sites": ["../a0"]},
        {"sites": [7]},
        {"fit": {"k": "2"}},
        {"text": {"context": 64}},
    ],
)
def test_a_folder_that_holds_no_codebooks_is_refused(tmp_path, change):
    manifest = json.loads((PRETRAINED / DEFAULT_CODEBOOKS / "manifest.json").read_text())
    if isinstance(change, dict):
        change = json.dumps({key: value for key, value in (manifest | change).items() if value is not ...})
    if change is not None:
        (tmp_path / "manifest.json").write_text(change)
    with pytest.raises(InputError):
        Codebooks.from_pretrained(tmp_path)


def test_the_manifest_says_what_was_done(model, text, tmp_path):
    found = fit_codebooks(model, ["heads"], text, tmp_path, SMALL)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sites"] == ["a0", "a1"] == Codebooks.from_pretrained(tmp_path).sites == found.sites
    assert manifest["text"]["n_tokens"] == 640 and manifest["text"]["split"] == "train"
    assert manifest["fit"]["n_codes"] == 12 and manifest["model"]["d_head"] == model.cfg.d_head


def test_with_the_metric_the_error_of_the_output_is_smaller(model, text):
    x = seen(model, text.tokens, "a0", {})
    weights = model.blocks[0].attn.W_O.detach().clone()
    weights[:, : weights.shape[1] // 2] *= 0.05  # half of z hardly matters
    config = CodebookConfig(d_in=x.shape[-1], n_codes=8, groups=x.shape[2], selection="matching_pursuit")

    def error(book: Codebook) -> float:
        return float(torch.einsum("bphd,hde->bphe", book(x).detach() - x, weights).square().sum())

    plain, metric = Codebook(config).fit(x), MetricCodebook(config).compare_by(weights).fit(x)
    assert error(metric) < 0.9 * error(plain)


def test_the_metric_compares_what_is_written(model, text):
    x = seen(model, text.tokens, "a1", {})
    weights = model.blocks[1].attn.W_O.detach()
    config = CodebookConfig(d_in=x.shape[-1], n_codes=8, groups=x.shape[2], k=2)
    book = MetricCodebook(config).compare_by(weights).fit(x)
    written = torch.einsum("bphd,hde->bphe", x, weights)
    codes = torch.einsum("hcd,hde->hce", book.codes, weights)
    similar = torch.nn.functional.cosine_similarity(written[..., None, :], codes, dim=-1)
    ids = book.encode(x).ids.long()
    agree = (ids == similar.topk(2, dim=-1).indices).float().mean()
    assert agree > 0.97  # the floor under the metric decides a few
    torch.testing.assert_close(book.similarity(x, ids), similar.gather(-1, ids), atol=0.02, rtol=0)


def test_codebooks_in_memory_are_those_of_a_folder(model, text, tmp_path):
    options = {"n_codes": 12, "k": 2, "selection": "matching_pursuit"}
    there, here = (fit_codebooks(model, "m1", text, folder, **options) for folder in (tmp_path, None))
    assert here.folder is None and torch.equal(here["m1"].codes, there["m1"].codes)
    spec = fit_codebooks(model, "m1", "stdlib", n_tokens=text.n_tokens, context=32, **options)
    assert torch.equal(spec["m1"].codes, there["m1"].codes)


@pytest.mark.parametrize("weights", [torch.full((2, 6, 10), torch.inf), torch.randn(2, 5, 10)])
def test_weights_that_make_no_metric_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        MetricCodebook(CodebookConfig(d_in=6, n_codes=4, groups=2)).compare_by(weights)


def test_an_output_map_keeps_lengths_of_outputs_and_their_units():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 8, 20, generator=generator) * torch.tensor([0.1, 1.0, 30.0])[:, None, None]
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    lengths = (x @ weights.double()).norm(dim=-1)
    torch.testing.assert_close((x @ output_map(weights)).norm(dim=-1), lengths, rtol=1e-3, atol=0)
    weights[1] = 0  # a head that was pruned
    torch.testing.assert_close(output_map(weights)[1], torch.eye(8, dtype=torch.float64))
    weights[2, 0, 0] = float("nan")
    with pytest.raises(InputError, match="weights of group 2 are NaN or infinite"):
        output_map(weights)


def test_small_batches_of_more_text_than_fits_are_joined(model, text, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.bottlenecks.fit.IN_MEMORY", 0)
    config = FitConfig(n_codes=48, k=1, selection="matching_pursuit")
    fit_codebooks(model, ["heads", "m1"], text, tmp_path, config, batch_size=1)  # 32 vectors a batch
    for book in Codebooks.from_pretrained(tmp_path, model).values():
        behind = text.tokens[:, 1:].numel()
        assert ((book.counts.sum(-1) - behind) <= 1).all() and (book.counts.sum(-1) >= behind).all()


def test_books_of_a_request_that_is_forgotten_are_not_taken_for_others(model, text, tmp_path):
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match="has codebooks, and no longer says what they were made of"):
        fit_codebooks(model, ["a0", "a1"], text, tmp_path, FitConfig(n_codes=20, k=4))


def test_a_killed_fit_goes_on_with_smaller_batches(model, text, tmp_path, monkeypatch):
    """What a fit does that ran out of memory; residual streams lie in batches, and are made again."""
    sites, part = ["heads", "mlps"], tmp_path / "part"
    run, calls = LayerStream._run_until, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > 9:
            raise Killed
        return run(*arguments)

    monkeypatch.setattr(LayerStream, "_run_until", killed)
    with contextlib.suppress(Killed):
        fit_codebooks(model, sites, text, part, SMALL, batch_size=8)
    monkeypatch.undo()
    assert list((part / ".work").glob("layer*/*"))
    with pytest.raises(InputError, match="another fit .n_codes 12, not 20"):
        fit_codebooks(model, sites, text, part, FitConfig(n_codes=20), batch_size=3)
    found = fit_codebooks(model, sites, text, part, SMALL, batch_size=3)
    whole = fit_codebooks(model, sites, text, tmp_path / "whole", SMALL, batch_size=3)
    for first, second in zip(found.values(), whole.values(), strict=True):
        torch.testing.assert_close(first.codes, second.codes, rtol=1e-3, atol=1e-4)
    again = fit_codebooks(model, sites, text, part, SMALL, batch_size=32)  # at once done
    assert again.manifest == found.manifest


def test_leftovers_of_a_finished_fit_are_cleared(model, text, tmp_path):
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    (tmp_path / ".work").mkdir()
    fit_codebooks(model, ["a0"], text, tmp_path, SMALL)
    assert not (tmp_path / ".work").exists()


def test_activations_that_are_no_numbers_say_where(model, text, tmp_path):
    with (
        hooked(model, {"blocks.1.attn.hook_z": lambda z: z * float("nan")}),
        pytest.raises(InputError, match="^a1: .*NaN"),
    ):
        fit_codebooks(model, ["a0", "a1"], text, tmp_path, SMALL)
