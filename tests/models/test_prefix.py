"""A forward that starts in the middle, after some layers or some positions, gives there what the whole one gives."""

from contextlib import nullcontext

import pytest
import torch

from interp.models import hooked
from interp.models.partial_forward import Prefix, starting_at
from interp.planted.models import load_planted_model
from tests.oracles import kept
from tests.tiny_models import FAMILIES

LENGTH = 12
"""More than the sliding window of the tiny Gemmas."""


def _whole(model, tokens):
    """Logits, and the residual stream before each layer."""
    with torch.no_grad():
        logits = model(tokens)
    return logits, kept(model, tokens, *(f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)))


@pytest.mark.parametrize("family", [*FAMILIES, "planted-inhibition"])
@pytest.mark.parametrize("length", [0, 1, 9, LENGTH - 1])
def test_what_comes_after_a_prefix_is_as_in_the_whole_prompt(family, length, tiny_model):
    native = family.startswith("planted")
    model, tokens = (
        load_planted_model(family) if native else tiny_model(family),
        torch.randint(3, 60, (3, LENGTH)),
    )
    logits, residuals = _whole(model, tokens)
    prefix = Prefix(model, tokens[:, :length]) if length else None
    after = 0 if native or not prefix else prefix.length  # a native model runs every position
    assert after == (0 if native else length)
    for layer, resid in enumerate(residuals):
        # twice: the first forward must leave nothing behind in the cache
        for _ in range(2):
            before = prefix.before(model) if prefix else nullcontext()
            with torch.no_grad(), starting_at(model, layer, resid[:, after:]), before:
                torch.testing.assert_close(model(tokens[:, after:]), logits[:, after:], rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)


def test_copies_of_the_batch_share_one_prefix(tiny_model):
    model = tiny_model("llama")
    tokens = torch.randint(3, 60, (2, LENGTH))
    logits, _ = _whole(model, tokens)
    with torch.no_grad(), Prefix(model, tokens[:, :5]).before(model):
        found = model(tokens[:, 5:].repeat(3, 1))
    torch.testing.assert_close(found, logits[:, 5:].repeat(3, 1, 1), rtol=0, atol=1e-5)


def test_skipped_blocks_are_not_run_and_an_error_leaves_the_model_as_it_was(tiny_model):
    model, tokens, ran = tiny_model("llama"), torch.randint(3, 60, (2, LENGTH)), []
    logits, residuals = _whole(model, tokens)
    with (
        torch.no_grad(),
        hooked(model, {"blocks.0.attn.hook_z": lambda _: ran.append(0)}),
        starting_at(model, 1, residuals[1]),
    ):
        model(tokens)
    assert not ran
    for context in (starting_at(model, 1, residuals[1]), Prefix(model, tokens[:, :5]).before(model)):
        with pytest.raises(RuntimeError, match="inside"), context:
            raise RuntimeError("inside")
        with torch.no_grad():
            torch.testing.assert_close(model(tokens), logits, rtol=0, atol=0)
