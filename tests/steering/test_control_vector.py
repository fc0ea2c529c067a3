"""Control vectors: what codes add, summed behind each block, in files that other programs read."""

from dataclasses import replace

import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import save_file

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.errors import InputError
from interp.models import load_model
from interp.steering import AddCode, ControlVector, ForbidCode, SetCode, SteeringRequest, WeightedCode
from interp.steering.continuations import continue_prompts

TOKENS = torch.tensor([[3, 5, 8, 13, 21, 34]])


def _books(model, *sites):
    torch.manual_seed(0)
    groups = {"a": model.cfg.n_heads, "m": 1, "r": 1}
    sizes = {"a": model.cfg.d_head, "m": model.cfg.d_model, "r": model.cfg.d_model}
    books = {}
    for site in sites:
        book = Codebook(CodebookConfig(d_in=sizes[site[0]], n_codes=5, groups=groups[site[0]]))
        book.requires_grad_(False).codes.copy_(torch.randn_like(book.codes))
        books[site] = book
    return books


@torch.no_grad()
def _logits(model, within):
    with within:
        return model(TOKENS)


@pytest.mark.parametrize(("family", "sites"), [("llama", ("m1", "r1")), ("pythia", ("a1", "m1"))])
def test_what_is_written_behind_the_mlp_is_exported_exactly(tiny_model, family, sites):
    """In a block whose MLP reads beside its heads, theirs too."""
    model = tiny_model(family)
    books = _books(model, *sites)
    edits = [AddCode(f"{site}.h2" if site[0] == "a" else site, 3, 0.7) for site in sites]
    vector = ControlVector.from_edits(model, books, edits)
    native = _logits(model, attach(model, books, read=False).edit(*edits, positions="all"))
    exported = _logits(model, vector.attached(model))
    assert vector.layers == [1]
    torch.testing.assert_close(exported, native, atol=1e-4, rtol=1e-4)
    assert (native - model(TOKENS)).abs().max() > 0.01


def test_heads_that_write_before_the_mlp_are_moved(model):
    books = _books(model, "a1")
    edits = [AddCode("a1.h0", 2, 1.0), AddCode("a1.h1", 4, -0.5, from_mean=True)]
    vector = ControlVector.from_edits(model, books, edits, shift=0)
    codes, weight = books["a1"].codes, model.blocks[1].attn.W_O
    mean = books["a1"].means()[1, 4]
    expected = codes[0, 2] @ weight[0] - 0.5 * (codes[1, 4] - mean) @ weight[1]
    torch.testing.assert_close(vector.directions[1], expected)
    assert not vector.directions[0].any()
    # behind block 0 nothing can be added, and behind the last block there is none
    for shift in (-1, 1):
        assert ControlVector.from_edits(model, books, edits, shift=shift).layers == [1]


def test_heads_are_moved_one_block_earlier_unless_told_otherwise():
    model = load_model("planted-inhibition")
    books, last = _books(model, f"a{model.cfg.n_layers - 1}"), model.cfg.n_layers - 1
    edits = [AddCode(f"a{last}.h0", 2)]
    vectors = [ControlVector.from_edits(model, books, edits, shift=shift) for shift in (None, 0)]
    assert [vector.layers for vector in vectors] == [[last - 1], [last]] and last > 1
    torch.testing.assert_close(vectors[0].directions[last - 1], vectors[1].directions[last])


def test_what_llama_cpp_cannot_add_is_not_written(model, tmp_path):
    vector = ControlVector(torch.ones(model.cfg.n_layers, model.cfg.d_model))
    with pytest.raises(InputError, match=r"v\.gguf"):
        vector.save(tmp_path / "v.gguf")
    vector.save(tmp_path / "v.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_file_is_read_back(model, tmp_path, suffix):
    edits = [AddCode("a1.h0", 2)]
    vector = ControlVector.from_edits(model, _books(model, "a1"), edits, made_of="a1.h0=2")
    vector.save(path := tmp_path / f"vector{suffix}")
    read = ControlVector.load(path, model)
    assert torch.equal(read.directions, vector.directions)
    assert (read.model_type, read.made_of) == ("llama", "a1.h0=2")
    if suffix == ".gguf":
        reader = GGUFReader(path)
        assert [tensor.name for tensor in reader.tensors] == ["direction.1"]
        assert reader.tensors[0].data.dtype == "float32"
        assert reader.get_field("general.architecture").contents() == "controlvector"
        assert reader.get_field("controlvector.layer_count").contents() == model.cfg.n_layers


def test_what_cannot_be_exported_is_refused(tiny_model):
    model = tiny_model("llama")
    books = _books(model, "a1")
    for edit in (SetCode("a1.h0", 2), ForbidCode("a1.h0", 2)):
        with pytest.raises(InputError):
            ControlVector.from_edits(model, books, [edit])
    gemma = tiny_model("gemma3")
    with pytest.raises(InputError):
        ControlVector.from_edits(gemma, _books(gemma, "a1"), [AddCode("a1.h0", 2)])


def test_files_that_fit_no_model_are_refused(model, tmp_path):
    width = model.cfg.d_model

    def gguf(name, architecture="controlvector", tensor="direction.1", size=width):
        writer = GGUFWriter(path := tmp_path / name, architecture)
        writer.add_tensor(tensor, torch.ones(size).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def tensors(name, **held):
        save_file(held, path := tmp_path / name)
        return path

    (empty := tmp_path / "empty.gguf").write_bytes(b"")
    (text := tmp_path / "text.safetensors").write_text("no tensors")
    bad = [
        gguf("model.gguf", architecture="llama"),
        gguf("name.gguf", tensor="blk.1"),
        gguf("width.gguf", size=width + 1),
        gguf("late.gguf", tensor=f"direction.{model.cfg.n_layers}"),
        tensors("name.safetensors", other=torch.ones(model.cfg.n_layers, width)),
        tensors("nan.safetensors", control_vector=torch.full((model.cfg.n_layers, width), torch.nan)),
        empty,
        text,
        tmp_path / "missing.gguf",
    ]
    for path in bad:
        with pytest.raises(InputError, match=path.name):
            ControlVector.load(path, model)
    assert ControlVector.load(gguf("good.gguf"), model).layers == [1]


def test_texts_are_written_under_a_vector_beside_others(tiny_model_folder, tmp_path):
    model = load_model(str(tiny_model_folder("llama")))
    books = _books(model, "a0", "a1")
    codes = (WeightedCode("a0.h1", 3), WeightedCode("a1.h2", 4, 0.5))
    request = SteeringRequest(("John went to", "Mary"), codes, "added", scale=8, n_tokens=5, temperature=0)
    edits = request.edits(codes, [0])
    vector = ControlVector.from_edits(model, books, [replace(edit, rows=None) for edit in edits])
    vector.save(path := tmp_path / "v.gguf")
    beside_codes = replace(request, vector=str(path)).run(model, books)
    alone = replace(request, codes=(), vector=str(path)).run(model, books)
    expected = continue_prompts(model, request.prompts, 5, within=vector.attached(model), temperature=0)
    without = request.run(model, books)
    assert [*beside_codes] == ["base", "steered", "control vector"] and [*alone] == ["base", "control vector"]
    for texts in (beside_codes, alone):
        assert [text.tokens for text in texts["control vector"]] == [text.tokens for text in expected]
        assert [text.tokens for text in texts["base"]] == [text.tokens for text in without["base"]]
    assert [text.tokens for text in beside_codes["steered"]] == [text.tokens for text in without["steered"]]
    assert [text.tokens for text in beside_codes["base"]] != [text.tokens for text in expected]
