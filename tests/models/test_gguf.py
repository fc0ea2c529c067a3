"""GGUF files: dequantised exactly, loaded like any model, refused in one line when damaged."""

import hashlib
import struct

import gguf
import pytest
import torch

from interp.errors import InputError
from interp.models import describe_model, load_model, load_tokenizer
from interp.models.generate import generate
from interp.models.pretrained import read_gguf
from tests.models.tiny_gguf import make_llama, write_gguf
from tests.tiny_models import make_tokenizer

PROMPT = "When Mary and John went to the store"


@pytest.fixture
def write(tmp_path):
    """Writes a tiny model's file: where it is, the model as the quantisation leaves it, and the tokenizer."""

    def written(kind: str = "F32"):
        tokenizer, path = make_tokenizer(), tmp_path / "tiny.gguf"
        model = write_gguf(path, make_llama(len(tokenizer)), tokenizer, gguf.GGMLQuantizationType[kind])
        return path, model, tokenizer

    return written


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_logits_are_those_of_the_dequantised_weights(kind, write, tmp_path):
    path, reference, _ = write(kind)
    model = load_model(str(path))
    tokens = model.to_tokens(PROMPT)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=0, atol=1e-5)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    for part in read_gguf(path):  # model and tokenizer can be saved as ordinary ones
        part.save_pretrained(tmp_path / "saved")
    assert torch.equal(load_model(str(tmp_path / "saved"))(PROMPT), model(PROMPT))


def test_tokenizer_and_description_come_from_the_file(write):
    path, _, tokenizer = write()
    model = load_model(str(path))
    expected = [tokenizer.bos_token_id, *tokenizer.encode(PROMPT)]
    assert model.to_tokens(PROMPT)[0].tolist() == expected
    assert load_tokenizer(str(path)).encode(PROMPT) == model.tokenizer.encode(PROMPT) == expected
    assert describe_model(model)["revision"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert generate(model, PROMPT, 8) == generate(model, PROMPT, 8, use_cache=False)


HEADER = b"GGUF" + struct.pack("<I", 3)
NO_GGUF = [b"", b"noise" * 100, b"GGUF" + struct.pack("<I", 1) + bytes(64), HEADER + b"\xff" * 500]


@pytest.mark.parametrize("content", NO_GGUF, ids=["empty", "noise", "version 1", "noise behind the header"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_file_that_is_no_gguf_is_one_line(content, load, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="bad.gguf") as error:
        load(str(path))
    assert "\n" not in str(error.value)
