"""Blocks that come again take one layer, and say the same."""

import pytest
import torch

from interp.models import hooked
from interp.training import TrainConfig, train_codebooks
from interp.training import losses as plain_model
from interp.training.losses import Teacher


@pytest.fixture
def first_layer(model, text):
    """Sizes of the batches of text that the first layer has seen."""
    seen = []

    def see(x) -> None:
        if x.shape[1] == text.tokens.shape[1]:  # not the two tokens by which starting_at learns of a model
            seen.append(len(x))

    with hooked(model, {"blocks.0.hook_resid_pre": see}):
        yield seen


def test_what_is_kept_says_the_same_in_any_batch(model, text, first_layer):
    plain = Teacher(model, again=True)
    for some in (slice(0, 4), slice(4, 8)):
        plain.logits(text.tokens[some])
    mixed = text.tokens[[6, 1, 3, 4]]
    assert first_layer == [4, 4]
    again = plain.logits(mixed)
    again.zero_()  # the caller's own
    assert torch.equal(plain.logits(mixed), model(mixed))
    plain.logits(text.tokens[[0, 8]])
    assert first_layer == [4, 4, 4, 2], "a batch with a block that is new goes through the whole model"


def test_nothing_is_kept_of_text_seen_once_or_beyond_the_room(model, text, first_layer, monkeypatch):
    block = text.tokens[:1]
    once = Teacher(model, again=False)
    monkeypatch.setattr(plain_model, "KEPT", text.tokens.shape[1] * model.cfg.d_model * 4)
    one = Teacher(model, again=True)
    for plain in (once, one):
        for _ in range(2):
            plain.logits(block)
            plain.logits(text.tokens[1:2])
    assert len(first_layer) == 4 + 3


def test_later_epochs_run_the_plain_model_no_more(model, text, start, tmp_path, first_layer):
    config = TrainConfig(epochs=3, batch_size=16)
    train_codebooks(model, start, text, tmp_path / "out", config)
    steps = len(text.tokens) // config.batch_size
    assert len(first_layer) == 3 * steps + steps, (
        "the spliced model every step, the plain one in the first epoch"
    )
