"""Code overlap at roles: against counts by hand, and what it finds and mistakes on planted models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from interp.activations.means import HeadMeans
from interp.activations.stream import feed
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.errors import InputError
from interp.evaluation.recovery import roc_auc
from interp.planted.models import planted_truth
from interp.scores.baselines.role_overlap import RoleOverlapConfig, code_ids, role_overlap, side_information
from tests.oracles import at, planted


def test_information_is_that_of_a_direct_count_and_codes_are_those_of_each_heads_own_book():
    z = torch.randn(2, 6, 2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    z[:, :, 1, 0, 2] += torch.tensor([9.0, -9.0])[:, None, None]  # no code on both sides: one bit
    ids = code_ids(z, 3, 0)
    book = Codebook(CodebookConfig(4, 3, groups=6, selection="matching_pursuit")).fit(z.reshape(12, 6, 4))
    information, sides = side_information(ids, 3), np.repeat([0, 1], 6)
    for role, head in np.ndindex(2, 3):
        centres = book.codes[role * 3 + head]
        nearest = torch.cdist(z[:, :, role, 0, head].reshape(12, 4), centres).argmin(1)
        assert ids[:, :, role, 0, head].ravel().tolist() == nearest.tolist()
        assert information[role, 0, head] == pytest.approx(mutual_info_score(sides, nearest) / np.log(2), abs=1e-9)
    assert information[1, 0, 2] == 1 and (side_information(ids[[0, 0]], 3) == 0).all()


@pytest.mark.parametrize("positions", ["roles", "last"])
def test_the_method_takes_the_best_role_or_end_where_prompts_have_no_roles(positions):
    model, pairs = planted("planted-inhibition", 8)
    if positions == "last":
        pairs[:] = [replace(pair, positions={}) for pair in pairs]
    means, config = HeadMeans(pairs, positions), RoleOverlapConfig()
    feed(model, pairs, [means])
    scores = role_overlap(model, pairs)
    ids = code_ids(means.z_, config.n_codes, config.seed)
    assert scores.heads == pytest.approx(side_information(ids, config.n_codes).max(0))
    assert not scores.signed and scores.cost.forwards == 16 and 0 < scores.heads.max() <= 1


@pytest.mark.parametrize("n_codes", [RoleOverlapConfig.n_codes, 16])
@pytest.mark.parametrize(("name", "decoy"), [("planted-induction", "a1.h5"), ("planted-backup", "a3.h5")])
def test_members_are_above_chance_and_so_is_a_decoy_that_nobody_reads(name, decoy, n_codes):
    (model, pairs), truth = planted(name, 40), planted_truth(name)
    heads = role_overlap(model, pairs, RoleOverlapConfig(n_codes=n_codes)).heads
    members = np.zeros(heads.shape, dtype=bool)
    members[*zip(*map(at, truth.heads), strict=True)] = True
    assert roc_auc(heads.ravel(), members.ravel()) > 0.6
    # it copies what the best member copies, to where nothing reads it
    assert decoy in truth.decoys and heads[at(decoy)] > 0.9 * heads[members].max()


def test_fewer_pairs_than_codes_are_refused():
    with pytest.raises(InputError, match="3 pairs for 4 codes"):
        role_overlap(*planted("planted-induction", 3))
