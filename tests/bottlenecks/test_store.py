"""Small files for shipping, and finding them by model."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch

from interp import DEFAULT_CODEBOOKS
from interp.bottlenecks import Codebook, CodebookConfig, store
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import Codebooks, pretrained_names, read_packed, write_packed
from interp.errors import InputError
from interp.text import load_text

CONFIG = FitConfig(n_codes=24, selection="matching_pursuit")


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory) -> dict[int, Codebooks]:
    text = load_text("stdlib", model, n_tokens=640, context=32)
    folder = tmp_path_factory.mktemp("fitted")
    sites, configs = ["heads", "m0"], {k: replace(CONFIG, k=k) for k in (1, 4)}
    return {k: fit_codebooks(model, sites, text, folder / f"k{k}", fit) for k, fit in configs.items()}


@pytest.mark.parametrize(("storage", "steps"), [("int8", 254), ("float16", 2048)])
def test_packed_codes_are_off_by_at_most_half_a_step(model, fitted, tmp_path, storage, steps):
    packed = fitted[4].pack(tmp_path / "packed", storage)
    assert sorted(p.name for p in packed.folder.iterdir()) == ["codebooks.safetensors", "manifest.json"]
    whole, small = (Codebooks.from_pretrained(folder, model) for folder in (fitted[4].folder, packed.folder))
    assert list(whole) == list(small)
    for site, book in whole.items():
        assert small[site].config == book.config and torch.equal(small[site].counts, book.counts)
        middle = book.codes.median(1, keepdim=True).values
        apart = book.codes - middle if storage == "int8" else book.codes
        most = apart.abs().amax(-1, keepdim=True)
        assert ((small[site].codes - book.codes).abs() <= most / steps * 1.001).all()
        x = torch.randn(50, book.config.groups, book.config.d_in)
        x = x if book.config.groups > 1 else x[:, 0]
        same = (small[site].encode(x).ids == book.encode(x).ids).float().mean()
        assert same > 0.95
    assert (packed.folder / "codebooks.safetensors").stat().st_size < 0.6 * sum(
        path.stat().st_size for path in fitted[4].folder.glob("*/weights.safetensors")
    )


def test_codes_far_from_zero_or_from_one_another_are_told_apart(tmp_path):
    """As at some MLPs, where the first position is a thousand times as long as the rest."""

    def packed(change, storage: str = "int8", **size) -> tuple[Codebook, torch.Tensor]:
        book = Codebook(CodebookConfig(d_in=8, **size))
        with torch.no_grad():
            change(book.codes[0])
        write_packed(tmp_path / "far", {"a0": book}, storage)
        return book, (read_packed(tmp_path / "far")["a0"].codes - book.codes)[0].abs().amax(-1)

    with pytest.raises(InputError):  # too large for half precision
        packed(lambda codes: codes.mul_(1e6), "float16", n_codes=3)
    assert not (tmp_path / "far").exists()
    assert (packed(lambda codes: codes.mul_(1e6), n_codes=3)[1] < 2e4).all()
    assert (packed(lambda codes: codes.add_(1000), n_codes=16)[1] < 0.02).all()
    assert (packed(lambda codes: codes[5].fill_(10_000), n_codes=64)[1] < 0.02).sum() == 63


def test_a_damaged_or_foreign_file_is_named(model, fitted, tmp_path):
    packed = fitted[1].pack(tmp_path / "packed")
    path = packed.folder / "codebooks.safetensors"
    content = path.read_bytes()
    sound = content.decode("latin1")
    damaged = [content[:-10], (fitted[1].folder / "a0" / "weights.safetensors").read_bytes()]
    for old, new in [
        (r"\"kind\"", r"\"kins\""),
        (r"\"kind\": \"codebook\"", r"\"kind\": \"codebuch\""),
        (r"\"books\"", r"\"boots\""),
        ('"a0/codes"', '"a0/codas"'),
    ]:
        assert old in sound and len(old) == len(new)
        damaged.append(sound.replace(old, new).encode("latin1"))
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(InputError):
            Codebooks.from_pretrained(packed.folder, model)
    with pytest.raises(InputError):
        fitted[1].pack(fitted[4].folder)


def test_codebooks_are_a_mapping_by_any_name_of_a_site(model, fitted):
    books = fitted[4]
    assert list(books) == books.sites == ["a0", "m0", "a1"] and len(books) == 3
    head = books["a1.h2"]
    assert head.config.groups == 1 and torch.equal(head.codes[0], books["a1"].codes[2])
    x = torch.randn(5, model.cfg.n_heads, model.cfg.d_head)
    assert torch.equal(head.encode(x[:, 2]).ids, books["a1"].encode(x).ids[:, 2])
    assert "a1.h2" in books
    for missing in ("a1.h99", "a7", "r0", "nonsense"):
        assert missing not in books


def test_those_of_the_package_are_found_by_name_and_model(model, fitted, tmp_path, monkeypatch, tiny_model):
    monkeypatch.setattr(store, "PRETRAINED", tmp_path / "package")
    assert pretrained_names() == []
    for k, books in fitted.items():
        books.pack(tmp_path / "package" / f"tiny-k{k}")
    assert pretrained_names() == pretrained_names(model) == ["tiny-k1", "tiny-k4"]
    assert pretrained_names(tiny_model("gpt2")) == []
    books = Codebooks.from_pretrained("tiny-k4", model, k=2)
    assert {codebook.config.k for codebook in books.values()} == {2}
    gpt2 = tiny_model("gpt2")
    for name, owner, k in (("tiny-k4", model, 5), ("tiny-k1", gpt2, None), ("tiny-k9", model, None)):
        with pytest.raises(InputError):
            Codebooks.from_pretrained(name, owner, k)


@pytest.mark.usefixtures("hub")
def test_what_is_saved_or_pushed_is_what_is_read(model, fitted, tmp_path):
    fitted[4].pack(tmp_path / "packed").save_pretrained(tmp_path / "saved")
    fitted[1].push_to_hub("someone/codes")
    for folder, k in ((tmp_path / "saved", 4), ("someone/codes", 1)):
        again = Codebooks.from_pretrained(folder, model)
        assert again.sites == fitted[k].sites and again.manifest["fit"]["k"] == k
    assert torch.equal(again["a0"].codes, fitted[1]["a0"].codes)
    with pytest.raises(InputError):
        fitted[1].save_pretrained(tmp_path / "saved")


def test_without_sae_lens_its_adapter_says_what_is_missing(monkeypatch):
    """As beside transformer-lens 4."""
    name = "interp.bottlenecks.interop.sae_lens"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(InputError, match="need the package sae-lens"):
        importlib.import_module(name)


def test_what_the_package_brings_is_whole_and_small():
    sizes = [path.stat().st_size for path in store.PRETRAINED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 25 * 2**20 and DEFAULT_CODEBOOKS in pretrained_names()
    for name in pretrained_names():
        assert all(codebook.counts.any() for codebook in Codebooks.from_pretrained(name).values())
