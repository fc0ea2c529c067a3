"""Released checkpoints: synthetic ones in the authors' format, against their forward pass written out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from interp.bottlenecks import Bottleneck
from interp.bottlenecks.attach import attach
from interp.bottlenecks.interop.codebook_features import export_language_model, load_codebook_features
from interp.errors import InputError
from interp.models import load_model

N_CODES, HEADS = 20, {"gpt2": 3, "pythia": 4}
BLOCKS = {"gpt2": "transformer.h", "pythia": "gpt_neox.layers"}
ATTENTION = {"gpt2": "attn", "pythia": "attention"}
TOKENS = torch.arange(3, 40).reshape(1, -1).repeat(2, 1)
TOKENS[1] = TOKENS[1].flip(0)


class Reference(nn.Module):
    """One codebook layer: LayerNorm, similarity = inner product over the code's length, mean of the k codes."""

    def __init__(self, d_in: int, k: int, *, nearest: bool = False) -> None:
        super().__init__()
        self.codebook = nn.Embedding(N_CODES, d_in)
        self.ln = nn.LayerNorm(d_in, eps=1e-5)
        nn.init.normal_(self.ln.weight, 1, 0.3)
        nn.init.normal_(self.ln.bias, 0, 0.3)
        self.k, self.nearest = k, nearest

    def forward(self, x: Tensor) -> Tensor:
        normed, codes = self.ln(x), self.codebook.weight
        similar = normed @ codes.T / codes.norm(dim=-1)
        if self.nearest:
            similar = -torch.cdist(normed, codes)
        return self.codebook(similar.topk(self.k).indices).sum(-2) / self.k


class GroupReference(nn.Module):
    """A layer per equal stretch of the vector."""

    def __init__(self, d_model: int, groups: int, k: int) -> None:
        super().__init__()
        self.codebook = nn.ModuleList(Reference(d_model // groups, k) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.codebook), dim=-1)
        return torch.cat([book(part) for book, part in zip(self.codebook, parts, strict=True)], -1)


def write_checkpoint(base: Path, folder: Path, family: str, *, pickled: bool = False) -> Tensor:
    """Heads with k = 2 and MLPs with k = 3, and what the model with them says."""
    model = AutoModelForCausalLM.from_pretrained(base)
    weights, layers = {}, model.get_submodule(BLOCKS[family])
    for name, tensor in model.state_dict().items():
        weights["model." + name.replace(".mlp.", ".mlp.module_layer.")] = tensor.clone()
    for number, layer in enumerate(layers):
        heads, mlp = GroupReference(24, HEADS[family], 2), Reference(24, 3)
        attention = layer.get_submodule(ATTENTION[family])
        projection = attention.c_proj if family == "gpt2" else attention.dense
        projection.register_forward_pre_hook(lambda _, args, book=heads: (book(args[0]),))
        layer.mlp.register_forward_hook(lambda _module, _args, out, book=mlp: book(out))
        for place, book in ((ATTENTION[family], heads), ("mlp", mlp)):
            for name, tensor in book.state_dict().items():
                key = f"model.{BLOCKS[family]}.{number}.{place}.codebook_layer.{name}"
                weights[key] = tensor.clone()
    folder.mkdir()
    config = {"model_type": "codebook", "codebook_at": ["attn_preproj", "mlp"], "k_codebook": [2, 3]}
    config |= {"codebook_type": ["group", "vanilla"], "num_codes": [N_CODES, N_CODES]}
    (folder / "config.json").write_text(json.dumps(config | {"similarity_metric": "inner_product"}))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.fixture(params=["gpt2", "pythia"])
def family(request) -> str:
    return request.param


def test_a_checkpoint_says_what_the_authors_forward_says(family, tiny_model_folder, tmp_path):
    base = tiny_model_folder(family)
    expected = write_checkpoint(base, tmp_path / "released", family, pickled=family == "gpt2")
    books = load_codebook_features(tmp_path / "released")
    assert list(books) == ["a0", "m0", "a1", "m1"]
    assert [book.config.k for book in books.values()] == [2, 3, 2, 3]
    export_language_model(tmp_path / "released", base=base, out=tmp_path / "language")
    model = load_model(str(tmp_path / "language"))
    with attach(model, books, error_term=False) as attached, torch.no_grad():
        logits = model(TOKENS)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert attached.ids["a0"].shape == (*TOKENS.shape, HEADS[family], 2)
    books["a0"].save_pretrained(tmp_path / "book")
    again = Bottleneck.from_pretrained(tmp_path / "book")
    assert torch.equal(again.decode(attached.codes["a0"]), books["a0"].decode(attached.codes["a0"]))


@pytest.mark.parametrize("nearest", [False, True])
def test_one_layer_equals_the_formula(nearest, tmp_path):
    layer = Reference(24, 1 if nearest else 3, nearest=nearest)
    weights = {f"model.transformer.h.4.mlp.codebook_layer.{k}": v for k, v in layer.state_dict().items()}
    metric = "euclidean" if nearest else "inner_product"
    write(tmp_path, weights, k_codebook=layer.k, similarity_metric=metric)
    (book,) = load_codebook_features(tmp_path).values()
    x = 3 * torch.randn(5, 7, 24)
    torch.testing.assert_close(book(x), layer(x), atol=1e-5, rtol=1e-5)
    expected = (layer(x) - layer.ln(x)).square().sum(-1).mean()
    torch.testing.assert_close(book.loss(x, book(x)), expected)


def write(folder: Path, weights: dict[str, Tensor], **config) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "codebook", "codebook_at": "mlp"} | config))
    save_file(weights, folder / "model.safetensors")


def layer_weights(place: str = "mlp.codebook_layer") -> dict[str, Tensor]:
    stored = Reference(24, 1).state_dict()
    return {f"model.transformer.h.0.{place}.{key}": value for key, value in stored.items()}


WEIGHTS = {
    "no codebooks": {"model.transformer.wte.weight": torch.ones(2)},
    "'mlp.act'": layer_weights("mlp.act.codebook_layer"),
    "not whole": {key: value for key, value in layer_weights().items() if "ln.bias" not in key},
    "codebook_layer.x": layer_weights() | {"model.transformer.h.0.mlp.codebook_layer.x": torch.ones(2)},
    "do not fit": {key: value[:-1] if ".ln." in key else value for key, value in layer_weights().items()},
}
CONFIGS = {
    "model_type: Input should be 'codebook', not 'gpt2'": {"model_type": "gpt2"},
    "2 codes by Euclidean": {"k_codebook": 2, "similarity_metric": "euclidean"},
    "'l1'": {"similarity_metric": "l1"},
}


@pytest.mark.parametrize(
    ("message", "weights", "config"),
    [
        *((message, weights, {}) for message, weights in WEIGHTS.items()),
        *((message, layer_weights(), config) for message, config in CONFIGS.items()),
        ("'attn_plus_mlp'", layer_weights("codebook_layer"), {"codebook_at": "attn_plus_mlp"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_by_name(message, weights, config, tmp_path):
    write(tmp_path, weights, **config)
    with pytest.raises(InputError, match=message):
        load_codebook_features(tmp_path)


class Intruder:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_holds_more_than_tensors_is_not_run(tmp_path):
    write(tmp_path, layer_weights())
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weights": Intruder(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors"):
        load_codebook_features(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_base_of_another_shape_and_a_model_that_is_there_are_refused(tiny_model_folder, tmp_path):
    base = tiny_model_folder("gpt2")
    write_checkpoint(base, tmp_path / "released", "gpt2")
    with pytest.raises(InputError, match="does not fit"):
        export_language_model(tmp_path / "released", base=tiny_model_folder("pythia"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="holds a model already"):
        export_language_model(tmp_path / "released", base=base, out=base)
