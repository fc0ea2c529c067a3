"""Fitting codebooks at many sites: what they are fitted to, resuming, refusing."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp import DEFAULT_CODEBOOKS
from interp.bottlenecks import Codebook, CodebookConfig, MetricCodebook
from interp.bottlenecks.attach import attach
from interp.bottlenecks.fit import FitConfig, LayerStream, fit_codebooks, fit_parts
from interp.bottlenecks.store import PRETRAINED, Codebooks
from interp.errors import InputError
from interp.executor import SERIAL, Shard, Workers
from interp.models import Model, load_model, resolve_site
from interp.text import TextBlocks, load_text
from tests.command_line import tree
from tests.oracles import kept

SMALL = FitConfig(n_codes=12, k=2, selection="matching_pursuit")


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def text(model) -> TextBlocks:
    return load_text("stdlib", model, n_tokens=640, context=32)


def seen(model: Model, tokens: Tensor, site: str, books: dict) -> Tensor:
    """What reaches a site with books before it, by an ordinary forward pass."""
    place = resolve_site(model, site)
    with attach(model, books, error_term=False) if books else contextlib.nullcontext():
        (x,) = kept(model, tokens, place.hook)
    return x if place.head is None else x[:, :, place.head]


@pytest.mark.parametrize(
    ("family", "sites", "change"),
    [
        *((family, ["heads", "m0", "r1"], {}) for family in ("gpt2", "pythia", "llama", "gemma2")),
        ("llama", ["a1.h2"], {}),
        ("llama", ["a1", "m1"], {"selection": "cosine", "sequential": False, "by_output": False}),
    ],
    ids=str,
)
def test_each_book_is_fitted_to_what_reaches_it(family, sites, change, tiny_model, tmp_path):
    """Through the earlier ones, or independently of them."""
    model, config = tiny_model(family), replace(SMALL, **change)
    text = load_text("stdlib", model, n_tokens=640, context=32)
    fit_codebooks(model, sites, text, tmp_path, config, batch_size=7 if change else 20)
    books = Codebooks.from_pretrained(tmp_path, model)
    assert list(books) == (["a0", "m0", "a1", "r1"] if "heads" in sites else sites)
    earlier: dict = {}
    for site, book in books.items():
        x = seen(model, text.tokens, site, earlier)
        by_output = config.by_output and site[0] == "a"
        again = MetricCodebook(book.config) if by_output else Codebook(book.config)
        if by_output:
            weights = model.blocks[int(site[1])].attn.W_O.detach()
            again.compare_by(weights[2:3] if "h" in site else weights)
        torch.testing.assert_close(again.fit(x).codes, book.codes, atol=1e-4, rtol=1e-3)
        earlier |= {site: book} if config.sequential else {}


class Killed(BaseException):
    pass


@pytest.fixture
def killed(model, text, tmp_path, monkeypatch):
    """A folder in which a fit was killed in a later call of what runs the model, and in how many calls."""

    def fit(after: int, config: FitConfig) -> tuple[Path, int]:
        run, calls = LayerStream._run_until, []

        def deadly(*arguments):
            calls.append(1)
            if len(calls) > after:
                raise Killed
            return run(*arguments)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(LayerStream, "_run_until", deadly)
            fit_codebooks(model, ["heads", "mlps"], text, tmp_path / "part", config, batch_size=8)
        return tmp_path / "part", len(calls)

    return fit


@pytest.fixture(scope="module")
def whole(model, text, tmp_path_factory) -> dict[bool, Codebooks]:
    """Fits that nobody killed: with earlier books in place, and without."""
    fitted = {}
    for sequential in (True, False):
        folder, config = tmp_path_factory.mktemp("whole"), replace(SMALL, sequential=sequential)
        fit_codebooks(model, ["heads", "mlps"], text, folder, config, batch_size=8)
        fitted[sequential] = Codebooks.from_pretrained(folder, model)
    return fitted


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("after", [1, 11])
def test_a_killed_fit_goes_on_and_gives_the_same_books(model, text, killed, whole, after, sequential):
    config = replace(SMALL, sequential=sequential)
    part, calls = killed(after, config)
    if calls > after:
        with pytest.raises(InputError, match="not finished; the same command goes on"):
            Codebooks.from_pretrained(part, model)
    fit_codebooks(model, ["heads", "mlps"], text, part, config, batch_size=8)
    again = Codebooks.from_pretrained(part, model)
    assert list(whole[sequential]) == list(again)
    for site, book in whole[sequential].items():
        assert torch.equal(book.codes, again[site].codes) and torch.equal(book.counts, again[site].counts)
    assert sorted(path.name for path in part.iterdir()) == ["a0", "a1", "m0", "m1", "manifest.json"]


def test_a_killed_fit_goes_on_with_smaller_batches(model, text, killed, whole):
    """What a fit does that ran out of memory; residual streams lie in batches, and are made again."""
    sites, (part, _) = ["heads", "mlps"], killed(9, SMALL)
    assert list((part / ".work").glob("layer*/*"))
    with pytest.raises(InputError, match="another fit .n_codes 12, not 20"):
        fit_codebooks(model, sites, text, part, FitConfig(n_codes=20), batch_size=3)
    fitted = fit_codebooks(model, sites, text, part, SMALL, batch_size=3)
    for site, book in whole[True].items():
        torch.testing.assert_close(fitted[site].codes, book.codes, rtol=1e-3, atol=1e-4)
    assert fit_codebooks(model, sites, text, part, SMALL, batch_size=32).manifest == fitted.manifest


@pytest.mark.parametrize(
    "workers", [SERIAL, pytest.param(Workers("ray"), marks=[pytest.mark.ray])], ids=["shards", "ray"]
)
def test_books_of_shards_and_workers_are_the_same_bytes(model, text, whole, tmp_path, workers, request):
    if not workers.serial:
        request.getfixturevalue("ray_cluster")
    arguments = (model, ["heads", "mlps"], text, tmp_path, replace(SMALL, sequential=False))
    if workers.serial:
        with pytest.raises(InputError, match="give --independent, or no workers nor shards"):
            fit_parts(*arguments[:-1], SMALL)
        fit_parts(*arguments, batch_size=8, shard=Shard(2, 2))
        assert {path.name for path in tmp_path.glob("[am]*")} == {"a1", "m1"}
        made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[am]*/*")}
        fit_parts(*arguments, batch_size=8, shard=Shard(1, 2))
        assert {path: path.stat().st_mtime_ns for path in made} == made
    else:
        fit_parts(*arguments, batch_size=8, workers=workers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerStream, "_run_until", None)  # what gathers runs no model
        fit_codebooks(*arguments, batch_size=8)
    files, wanted = (tree(folder) for folder in (tmp_path, whole[False].folder))
    assert {name: files[name] for name in wanted} == wanted and len(wanted) > 8


@pytest.fixture
def of_a0(model, text, tmp_path) -> Path:
    """A folder with the book of a0."""
    fit_codebooks(model, ["a0"], text, tmp_path / "of_a0", SMALL)
    return tmp_path / "of_a0"


def test_a_finished_folder_says_what_was_done_and_is_not_fitted_again(model, text, of_a0, monkeypatch):
    manifest = json.loads((of_a0 / "manifest.json").read_text())
    books = Codebooks.from_pretrained(of_a0, model)
    assert manifest["sites"] == ["a0"] == books.sites
    assert manifest["text"]["n_tokens"] == 640 and manifest["text"]["split"] == "train"
    assert manifest["fit"]["n_codes"] == 12 and manifest["model"]["d_head"] == model.cfg.d_head
    behind = 2 * (text.tokens.numel() - len(text.tokens))
    more = books["a0"].counts.sum(1) - behind  # codes that only the first position has
    assert ((more >= 0) & (more <= 2)).all()
    (of_a0 / ".work").mkdir()  # a leftover, which is cleared
    monkeypatch.setattr(LayerStream, "_run_until", None)
    assert fit_codebooks(model, ["a0"], text, of_a0, SMALL).manifest == books.manifest
    assert not (of_a0 / ".work").exists()


def test_a_folder_of_other_books_is_refused(model, text, of_a0, tiny_model, tiny_model_folder):
    other, llama = tiny_model("gpt2"), str(tiny_model_folder("llama"))
    other_text = load_text("stdlib", model, n_tokens=640, context=32, seed=1)
    for asked in (
        (model, ["a0"], other_text, of_a0, SMALL),
        (model, ["a0"], text, of_a0, FitConfig(n_codes=13)),
        (model, ["a1"], text, of_a0, SMALL),
        (other, ["a0"], load_text("stdlib", other, n_tokens=640, context=32), of_a0, SMALL),
    ):
        with pytest.raises(InputError):
            fit_codebooks(*asked)
    with pytest.raises(InputError, match="holds codebooks of .* not of"):
        Codebooks.from_pretrained(of_a0, other)
    altered = load_model(llama)
    with torch.no_grad():
        for parameter in altered.original_model.parameters():
            parameter.neg_()
    with pytest.raises(InputError, match="weights"):
        Codebooks.from_pretrained(of_a0, altered)
    Codebooks.from_pretrained(of_a0, load_model(llama, dtype="bfloat16"))
    (of_a0 / "manifest.json").unlink()
    with pytest.raises(InputError, match="has codebooks, and does not say what they were made of"):
        fit_codebooks(model, ["a0", "a1"], text, of_a0, FitConfig(n_codes=20, k=4))


def test_fewer_codes_are_the_first_ones_where_lengths_are_right_for_any_k(model, text, of_a0, tmp_path):
    two, single = (Codebooks.from_pretrained(of_a0, model, k=k)["a0"] for k in (2, 1))
    x = seen(model, text.tokens, "a0", {})
    assert torch.equal(single.encode(x).ids[..., 0], two.encode(x).ids[..., 0])
    with pytest.raises(InputError, match="k 3: choose 1 to 2"):
        Codebooks.from_pretrained(of_a0, model, k=3)
    fit_codebooks(model, ["a0"], text, tmp_path, FitConfig(n_codes=12, k=2, selection="cosine"))
    with pytest.raises(InputError, match="lengths of these codes are right for sums of 2"):
        Codebooks.from_pretrained(tmp_path, model, k=1)


def test_a_folder_that_holds_no_codebooks_is_refused(tmp_path):
    manifest = json.loads((PRETRAINED / DEFAULT_CODEBOOKS / "manifest.json").read_text())
    changes = [{"format": 99}, {"sites": ["../a0"]}, {"sites": [7]}]
    changes += [{"fit": {"k": "2"}}, {"text": {"context": 64}}]
    lacking = {key: value for key, value in manifest.items() if key != "model"}
    for text in (None, "{", json.dumps(lacking), *(json.dumps(manifest | change) for change in changes)):
        if text is not None:
            (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError):
            Codebooks.from_pretrained(tmp_path)


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


def test_codebooks_in_memory_are_those_of_a_folder(model, text, tmp_path):
    options = {"n_codes": 12, "k": 2, "selection": "matching_pursuit"}
    stored, here = (fit_codebooks(model, "m1", text, folder, **options) for folder in (tmp_path, None))
    assert here.folder is None and torch.equal(here["m1"].codes, stored["m1"].codes)
    spec = fit_codebooks(model, "m1", "stdlib", n_tokens=text.n_tokens, context=32, **options)
    assert torch.equal(spec["m1"].codes, stored["m1"].codes)


def test_weights_that_are_no_numbers_or_of_another_shape_are_refused():
    for wrong in (torch.full((2, 6, 10), torch.inf), torch.randn(2, 5, 10)):
        with pytest.raises(InputError, match="weights"):
            MetricCodebook(CodebookConfig(d_in=6, n_codes=4, groups=2)).compare_by(wrong)


def test_small_batches_of_more_text_than_fits_are_joined(model, text, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.bottlenecks.fit.IN_MEMORY", 0)
    config = FitConfig(n_codes=48, k=1, selection="matching_pursuit")
    fit_codebooks(model, ["heads", "m1"], text, tmp_path, config, batch_size=1)  # 32 vectors a batch
    for book in Codebooks.from_pretrained(tmp_path, model).values():
        behind = text.tokens[:, 1:].numel()
        assert ((book.counts.sum(-1) - behind) <= 1).all() and (book.counts.sum(-1) >= behind).all()
