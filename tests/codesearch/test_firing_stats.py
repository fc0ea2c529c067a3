"""What is gathered of each code's similarities."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from interp.bottlenecks import Codebook, CodebookConfig, MetricCodebook
from interp.codesearch.firing_stats import FiringStatsWrapper, Gathered


def test_a_token_without_a_code_is_silent_for_every_code():
    gathered = Gathered(3)
    fired = np.array([[0, -1], [-1, -1], [2, 0], [-1, 1]])
    gathered.add_silent(0, np.zeros((4, 3), np.float32), fired)
    assert gathered.histogram[:, 1].sum(1).tolist() == [2, 3, 3]


@pytest.mark.parametrize(("selection", "n"), [("cosine", 2), ("matching_pursuit", 1)])
def test_where_no_code_is_passed_over_the_margin_is_the_similarity(selection, n):
    wrappers = FiringStatsWrapper(Codebook(CodebookConfig(4, n, k=n, selection=selection)))
    wrappers.encode(torch.randn(3, 4))
    _, similarity, margin, whole, _ = wrappers.seen
    assert margin.isfinite().all() and torch.equal(margin, similarity) and torch.equal(whole, similarity)


def test_histograms_are_of_the_cosine_with_the_whole_vector():
    """Of a code taken second the similarity is with what the first leaves; those that do not fire have no first."""
    book = Codebook(CodebookConfig(8, 16, k=3, selection="matching_pursuit")).requires_grad_(False)
    book.codes.normal_()
    x = torch.randn(32, 8)
    wrappers = FiringStatsWrapper(book)
    codes = wrappers.encode(x)
    _, similarity, _, whole, sampled = wrappers.seen
    cosine = cosine_similarity(x[:, None], book.codes[0][None], dim=-1)
    taken = codes.ids.reshape(32, 3).long()
    torch.testing.assert_close(whole[:, 0], cosine.gather(1, taken))
    torch.testing.assert_close(sampled[:, 0], cosine[::16])
    assert not torch.allclose(similarity[:, 0, 1:], whole[:, 0, 1:])


def test_codes_that_are_compared_by_what_is_written_have_those_cosines():
    weights = torch.randn(4, 6, 24) * torch.linspace(0.2, 3, 6)[:, None]
    book = MetricCodebook(CodebookConfig(6, 8, groups=4)).compare_by(weights).requires_grad_(False)
    x = torch.randn(32, 4, 6)
    wrappers = FiringStatsWrapper(book)
    ids = wrappers.encode(x).ids.long()
    written, named = torch.einsum("ngd,gde->nge", x, weights), book.codes @ weights
    cosine = cosine_similarity(written[:, :, None], named, dim=-1)
    for found in (wrappers.seen[1], wrappers.seen[3]):
        torch.testing.assert_close(found, cosine.gather(-1, ids), atol=2e-3, rtol=0)
