"""Published circuits have what the papers say; exact effects survive their file, and damage is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interp.circuits.references import ExactEffects, load_reference, reference_for, reference_names, shipped_measured
from interp.errors import InputError
from interp.models.sites import parse_site

PUBLISHED = {
    # name: heads, edges, edges from head to head
    "ioi/wang": (26, 963, 124),
    "ioi/oneill": (26, 0, 0),
    "ioi/cdt": (26, 0, 0),
    "greater-than/acdc": (9, 235, 54),
    "greater-than/cdt": (8, 0, 0),
    "docstring/acdc": (6, 24, 14),
    "docstring/oneill": (6, 0, 0),
    "docstring/blog8": (8, 0, 0),
}


def short(sites):
    return {f"{s.layer}.{s.head}" for s in map(parse_site, sites)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_list_has_the_published_counts_and_edges_go_forward(name):
    heads, edges, head_edges = PUBLISHED[name]
    reference = load_reference(name)
    assert len(reference.heads) == reference.members().sum() == heads
    assert len(reference.edges) == len(set(reference.edges)) == edges
    assert len(reference.head_edges) == head_edges
    for sender, receiver, into in reference.edges:
        assert (into in ("q", "k", "v")) == receiver.startswith("a")
        assert sender in reference.heads or not sender.startswith("a")
    assert all(parse_site(s).layer < parse_site(r).layer for s, r, _ in reference.head_edges)


def test_ioi_without_mlps_has_the_182_edges_of_the_paper():
    ends = [(a, b) for a, b, _ in load_reference("ioi/wang").edges if (a, b) != ("input", "logits")]
    assert sum(a[0] != "m" != b[0] for a, b in ends) == 182


def test_references_of_a_task_and_model_are_found_by_any_name_of_the_model():
    ioi = ["ioi/wang", "ioi/oneill", "ioi/cdt"]
    for spec in ("gpt2", "gpt2-small", "GPT2", "openai-community/gpt2"):
        assert reference_names("ioi", spec) == [r.name for r in reference_for("ioi", spec)] == ioi
    assert reference_for("ioi", "attn-only-4l") == reference_for("ioi", "./my-model") == []
    docstring = {"docstring/acdc", "docstring/oneill", "docstring/blog8"}
    for spec in ("attn-only-4l", "attn-only-4l:/somewhere/Else"):
        assert set(reference_names(model=spec)) == docstring
    with pytest.raises(InputError, match="ioi/wagn.*ioi/wang.*docstring/blog8"):
        load_reference("ioi/wagn")


def measured(n_pairs=40, largest=5.0, seed=0):
    rng = np.random.default_rng(seed)
    heads = rng.normal(scale=0.02, size=(n_pairs, 3, 4))
    heads[:, 1, 2] += 1.0
    heads[:, 2, 0] -= 0.5
    heads[0, 0, 0] = largest
    mlps = rng.normal(size=(n_pairs, 3))
    clean, corrupt = rng.normal(3.0, 0.1, size=n_pairs), rng.normal(-1.0, 0.1, size=n_pairs)
    provenance = {"task": "ioi", "seed": 0, "bos": True, "n_pairs": n_pairs, "versions": {"torch": "2"}}
    return ExactEffects("ioi/tiny", "ioi", "tiny", heads, mlps, clean, corrupt, provenance)


def test_members_are_the_heads_above_a_share_of_the_gap():
    reference = measured()
    assert reference.gap == pytest.approx(4.0, abs=0.1)
    assert np.argwhere(reference.members(0.05)).tolist() == [[1, 2], [2, 0]]
    assert np.argwhere(reference.members(0.2)).tolist() == [[1, 2]]
    assert (reference.members() == (np.abs(reference.heads.mean(0)) >= 0.02 * reference.gap)).all()


def test_without_a_gap_no_head_is_a_member():
    reference = measured()
    with pytest.raises(InputError, match="gap 0"):
        replace(reference, metric_clean=reference.metric_corrupt).members()


@pytest.mark.parametrize(("largest", "dtype"), [(5.0, np.int16), (1000.0, np.float32)])
@pytest.mark.parametrize("mlps", [True, False])
def test_measured_reference_survives_its_file(tmp_path, largest, dtype, mlps):
    """Effects far beyond the gap are kept as floats; attention-only models have none of MLPs."""
    reference, path = measured(largest=largest), tmp_path / "measured-ioi.safetensors"
    reference = reference if mlps else replace(reference, mlps=None)
    reference.save(path)
    loaded = ExactEffects.load(path)
    assert load_file(path)["heads"].dtype == dtype
    assert np.abs(loaded.heads - reference.heads).max() < min(1e-3 * reference.gap, largest / 65_000)
    if mlps:
        np.testing.assert_allclose(loaded.mlps, reference.mlps, atol=1e-3)
    else:
        assert loaded.mlps is None
    np.testing.assert_allclose(loaded.metric_clean, reference.metric_clean, rtol=1e-6)
    assert (loaded.name, loaded.task, loaded.model) == ("ioi/tiny", "ioi", "tiny")
    assert loaded.provenance == reference.provenance
    np.testing.assert_array_equal(loaded.members(), reference.members())
    assert load_reference(str(path)).name == "ioi/tiny"


def _with_header(path, **changes):
    reference = measured()
    reference.save(path)
    tensors = load_file(path)
    header = {"kind": "measured reference", "format": 1, "name": "x", "task": "ioi", "model": "m"}
    header |= {"scales": {"heads": 1.0, "mlps": 1.0}, "provenance": {}}
    tensors |= changes.pop("tensors", {})
    header |= changes
    save_file(tensors, path, metadata={"interp": json.dumps(header)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-100]),
        lambda p: p.write_text("{}"),
        lambda p: p.unlink(),
        lambda p: _with_header(p, format=2),
        lambda p: _with_header(p, scales={}),
        lambda p: _with_header(p, tensors={"heads": np.full((40, 3, 4), np.nan, np.float32)}),
        lambda p: _with_header(p, tensors={"heads": np.zeros((40, 3), np.float32)}),
        lambda p: _with_header(p, tensors={"mlps": np.zeros((40, 4), np.float32)}),
    ],
)
def test_damaged_file_is_an_input_error_that_names_it(tmp_path, damage):
    path = tmp_path / "measured-bad.safetensors"
    measured().save(path)
    damage(path)
    with pytest.raises(InputError, match="measured-bad"):
        ExactEffects.load(path)


def test_shipped_measurements_load_and_have_members():
    for name, reference in shipped_measured().items():
        assert load_reference(name) is reference
        assert reference in reference_for(reference.task, reference.model)
        assert 0 < reference.members().sum() < reference.members().size
        assert {"task", "seed", "counterfactual", "bos", "n_pairs"} <= reference.provenance.keys()
