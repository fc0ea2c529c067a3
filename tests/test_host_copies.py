"""On a GPU each copy to the host waits for all work before it: hot paths copy a few numbers, never activations."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from interp.activations.stream import end_logits
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import SetCode
from interp.bottlenecks.fit import fit_codebooks
from interp.models.generate import generate
from interp.text import load_text

COPY = {"cpu", "item", "tolist", "numpy", "nonzero", "__array__", "__bool__", "__int__", "__float__", "__index__"}
"""Methods that give Python a tensor's values, wherever the tensor lies."""
ROWS_APART = -1  # a product with rows that do not lie together is made row by row: 11 times as slow, in bfloat16 300


class HostCopies(TorchFunctionMode):
    """Counts copies by their number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: Counter[int] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in COPY and isinstance(args[0], Tensor):
            self.sizes[args[0].numel()] += 1
        self.sizes[ROWS_APART] += function is linear and not args[0].is_contiguous()
        return function(*args, **kwargs or {})


def copies(call: Callable[[], object]) -> Counter[int]:
    with HostCopies() as counted:
        call()
    return +counted.sizes


@pytest.fixture(scope="module")
def text(model):
    return load_text("stdlib", model, n_tokens=1000, context=32).tokens


@pytest.fixture(scope="module")
def books(model):
    text = load_text("stdlib", model, n_tokens=2000, context=32)
    return fit_codebooks(model, ["a0", "a1", "m1"], text, n_codes=16, k=1)


def test_a_copy_is_counted():
    assert copies(lambda: (torch.ones(3).tolist(), bool(torch.ones(1)), torch.ones(2) + 1)) == {3: 1, 1: 1}
    assert copies(lambda: linear(torch.ones(4, 3, 2)[:, -1:], torch.ones(5, 2))) == {ROWS_APART: 1}


def test_the_last_tokens_logits_cost_no_copy(model, text):
    assert copies(lambda: end_logits(model, text[:4, :8])) == {}


@pytest.mark.parametrize("edited", [False, True])
def test_codes_are_read_and_set_where_the_activations_are(edited, model, text, books):
    with attach(model, books) as attached:
        if edited:
            attached.edit(SetCode("a0.h1", 3))
        small, large = copies(lambda: model(text[:1, :8])), copies(lambda: model(text[:16]))
    # of each site the least and largest code, and whether all is finite; of an edit, whether it acts
    assert small == large and set(large) <= {1, 2} and 0 < large.total() <= 3 * len(books)


def test_generation_under_a_gated_edit_copies_numbers_for_every_token(model, text, books):
    def generated(n_new: int) -> Counter[int]:
        with attach(model, books, read=False).edit(SetCode("a1.h1", 3), when="a0.h0=2"):
            return copies(lambda: generate(model, text[:8, :8], n_new, return_type="tokens"))

    few, more = generated(4), generated(8)
    assert 0 < (more - few).total() <= 4 * 10
    assert set(more) <= {1, 2, 8}, "numbers, and the tokens themselves"
