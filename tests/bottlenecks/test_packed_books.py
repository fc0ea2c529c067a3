"""Small files for shipping, and finding them by model."""

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks import store as shipped
from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import (
    CodebookStore,
    codebooks_folder,
    load_codebooks,
    pack_codebooks,
    read_packed,
    write_packed,
)
from interp.errors import InputError
from interp.text import load_text


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory) -> dict[int, CodebookStore]:
    text = load_text("stdlib", model, n_tokens=640, context=32)
    folder = tmp_path_factory.mktemp("fitted")
    return {
        k: fit_codebooks(
            model,
            text,
            ["heads", "m0"],
            folder / f"k{k}",
            FitConfig(n_codes=24, k=k, selection="matching_pursuit"),
        )
        for k in (1, 4)
    }


@pytest.fixture
def no_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.mark.parametrize(("storage", "steps"), [("int8", 254), ("float16", 2048)])
def test_packed_codes_are_off_by_at_most_half_a_step(model, fitted, tmp_path, storage, steps):
    packed = pack_codebooks(fitted[4].folder, tmp_path / "packed", storage)
    assert sorted(p.name for p in packed.folder.iterdir()) == ["codebooks.safetensors", "manifest.json"]
    whole, small = (load_codebooks(folder, model) for folder in (fitted[4].folder, packed.folder))
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


def test_codes_far_from_zero_are_told_apart(tmp_path):
    """Their length, in which a step was measured before, has no part in how far they are off."""
    book = Codebook(CodebookConfig(d_in=8, n_codes=16, k=1))
    with torch.no_grad():
        book.codes += 1000
    write_packed(tmp_path / "far", {"a0": book}, "int8")
    assert (read_packed(tmp_path / "far")["a0"].codes - book.codes).abs().max() < 0.02


def test_one_code_far_from_all_others_leaves_them_told_apart(tmp_path):
    """As of the first position at some MLPs, a thousand times as long as the rest."""
    book = Codebook(CodebookConfig(d_in=8, n_codes=64, k=1))
    with torch.no_grad():
        book.codes[0, 5] = 10_000
    write_packed(tmp_path / "far", {"m0": book}, "int8")
    off = (read_packed(tmp_path / "far")["m0"].codes - book.codes)[0].abs().amax(-1)
    assert (off < 0.02).sum() == 63


def test_codes_too_large_for_half_precision_are_refused_and_int8_holds_them(tmp_path):
    book = Codebook(CodebookConfig(d_in=4, n_codes=3))
    with torch.no_grad():
        book.codes *= 1e6
    with pytest.raises(
        InputError, match="codes of the book at a0 are too large for float16; int8 holds them"
    ):
        write_packed(tmp_path / "far", {"a0": book}, "float16")
    assert not (tmp_path / "far").exists()
    write_packed(tmp_path / "far", {"a0": book}, "int8")
    torch.testing.assert_close(read_packed(tmp_path / "far")["a0"].codes, book.codes, rtol=0, atol=2e4)


def test_a_damaged_or_foreign_file_is_named(model, fitted, tmp_path):
    packed = pack_codebooks(fitted[1].folder, tmp_path / "packed")
    path = packed.folder / "codebooks.safetensors"
    content = path.read_bytes()
    sound = content.decode("latin1")
    for old, new, words in [
        ('\\"kind\\"', '\\"kins\\"', "does not hold the codebook of"),
        ('\\"kind\\": \\"codebook\\"', '\\"kind\\": \\"codebuch\\"', "does not hold the codebook of"),
        ('\\"books\\"', '\\"boots\\"', "does not hold packed codebooks"),
        ('{\\"format\\"', '[\\"format\\"', "cannot read the codebooks"),
        ('"a0/codes"', '"a0/codas"', "does not hold the codebook of a0"),
    ]:
        assert old in sound and len(old) == len(new)
        path.write_bytes(sound.replace(old, new).encode("latin1"))
        with pytest.raises(InputError, match=words):
            load_codebooks(packed.folder, model)
    path.write_bytes(content[:-10])
    with pytest.raises(InputError, match="cannot read the codebooks"):
        load_codebooks(packed.folder, model)
    path.write_bytes((fitted[1].folder / "a0" / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not hold packed codebooks"):
        load_codebooks(packed.folder, model)
    with pytest.raises(InputError, match="storage 'int4'"):
        pack_codebooks(fitted[1].folder, tmp_path / "other", "int4")
    with pytest.raises(InputError, match="holds codebooks already"):
        pack_codebooks(fitted[1].folder, fitted[4].folder)


def test_the_shipped_ones_are_found_by_model(model, fitted, no_shipped, tiny_model):
    with pytest.raises(InputError, match=r"no codebooks come with the package for .* \(none come with"):
        load_codebooks(None, model)
    for k, found in fitted.items():
        pack_codebooks(found.folder, no_shipped / f"tiny-k{k}")
    assert codebooks_folder(model).name == "tiny-k4"
    assert codebooks_folder(model, k=1).name == "tiny-k1"
    assert {book.config.k for book in load_codebooks(None, model, k=2).values()} == {2}
    with pytest.raises(InputError, match="k 5: the codebooks that come with the package have 4"):
        load_codebooks(None, model, k=5)
    with pytest.raises(InputError, match="no codebooks come with the package for .*there are some for"):
        load_codebooks(None, tiny_model("gpt2"))


def test_those_at_mlps_are_asked_for_by_name(model, fitted, no_shipped, tmp_path, monkeypatch):
    text = load_text("stdlib", model, n_tokens=640, context=32)
    mlps = fit_codebooks(model, text, ["mlps"], tmp_path / "fitted-mlps", FitConfig(n_codes=12, k=1))
    pack_codebooks(fitted[1].folder, no_shipped / "tiny-k1")
    with pytest.raises(InputError, match="no codebooks come with the package at MLP outputs for"):
        load_codebooks(shipped.MLPS, model)
    pack_codebooks(mlps.folder, no_shipped / "tiny-mlps-k1")
    assert codebooks_folder(model).name == "tiny-k1"
    assert list(load_codebooks(shipped.MLPS, model)) == [f"m{i}" for i in range(model.cfg.n_layers)]
    # what lies in the working directory has no part in it
    monkeypatch.chdir(tmp_path)
    pack_codebooks(fitted[4].folder, shipped.MLPS)
    assert codebooks_folder(model, shipped.MLPS) == no_shipped / "tiny-mlps-k1"


def test_what_ships_is_whole_and_small():
    sizes = [path.stat().st_size for path in shipped.SHIPPED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 25 * 2**20
    manifests = sorted(shipped.SHIPPED.glob("*/manifest.json"))
    assert manifests
    for manifest in manifests:
        assert CodebookStore.open(manifest.parent).books()
