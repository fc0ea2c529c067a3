"""``benchmarks/path_patched_edges.py``: effects against the written edges."""

import runpy
from pathlib import Path

import numpy as np

from interp.interventions.edges import EdgeList
from interp.models.sites import parse_site
from interp.planted.models import planted_truth
from tests.oracles import planted

PLANTED = "planted-induction"
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "path_patched_edges.py"))


def test_path_patching_finds_the_written_edges_and_no_other():
    (model, pairs), truth = planted(PLANTED, 6), planted_truth(PLANTED)
    written, decoys = set(truth.edges), {"a0.h0", "a1.h3"}
    assert not decoys & set(truth.heads)
    edges = EdgeList.among([parse_site(site) for site in sorted({*truth.heads, *decoys})])
    effects, gaps = SCRIPT["_measure"](model, pairs, edges)
    assert effects.shape == (6, len(edges)) and (gaps > 0).all()
    names = [str(site) for site in edges.sites]
    ends = zip(edges.sender, edges.receiver, edges.into, strict=True)
    named = [(names[u], names[v], str(into)) for u, v, into in ends]
    moved = np.abs(effects.mean(0)) >= 0.02 * gaps.mean()
    assert {edge for edge, true in zip(named, moved, strict=True) if true} == written
