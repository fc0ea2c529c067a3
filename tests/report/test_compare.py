"""Two runs side by side, against answers known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from interp.circuits.references import load_reference
from interp.errors import InputError
from interp.evaluation.recovery import compare_paired
from interp.report.compare import compare_runs
from interp.runs.run import Run
from tests.report.synthetic import make_run, published

GPT2 = {"n_layers": 12, "n_heads": 12, "model": "gpt2"}


def _with_members(run: Run, sites: dict[str, float]) -> Run:
    heads = [
        head.model_copy(update={"in_circuit": head.site in sites, "effect": sites.get(head.site)}) for head in run.heads
    ]
    return run.model_copy(update={"heads": heads})


def test_a_run_agrees_with_itself_whatever_the_signs():
    run = make_run()
    flipped = [head.model_copy(update={"score": -head.score}) for head in run.heads]
    comparison = compare_runs(run, run.model_copy(update={"heads": flipped}))
    assert (
        comparison.jaccard == 1 and comparison.spearman == pytest.approx(1) and comparison.name_a != comparison.name_b
    )
    assert comparison.differing == () and set(comparison.shared) == {part.site for part in run.members}
    run = make_run(members=0)
    assert compare_runs(run, run).jaccard is None


def test_shared_and_differing_members_are_counted_and_told():
    run = make_run(n_layers=4, n_heads=4, members=0)
    a = _with_members(run, {"a0.h0": 1.0, "a1.h1": 0.5, "a2.h2": 0.3})
    b = _with_members(run, {"a0.h0": 1.0, "a3.h3": -0.8})
    comparison = compare_runs(a, b)
    assert comparison.shared == ("a0.h0",) and comparison.jaccard == pytest.approx(1 / 4)
    assert [(part.site, part.in_a, part.in_b) for part in comparison.differing] == [
        ("a3.h3", False, True),
        ("a1.h1", True, False),
        ("a2.h2", True, False),
    ]
    assert comparison.differing[0].effect_a is None and comparison.differing[0].effect_b == -0.8
    titles = [f"only in {name}" for name in (comparison.name_b, comparison.name_a, comparison.name_a)]
    assert [row[-1] for row in comparison.rows()[-3:]] == titles


def test_recovery_difference_is_the_paired_bootstrap_over_the_same_pairs():
    names = published()
    a = make_run(**GPT2, seed=0, references=names)
    other = make_run(**GPT2, seed=1)
    b = a.model_copy(update={"heads": other.heads, "method": "other", "arrays": other.arrays})
    comparison = compare_runs(a, b)
    assert set(comparison.recovery) == set(names) and comparison.unpaired == ""
    arrays = [np.asarray(run.arrays["heads_per_pair"], dtype=float) for run in (a, b)]
    assert comparison.recovery[names[0]] == compare_paired(*arrays, load_reference(names[0]).members())


def test_own_references_go_by_what_they_hold_and_not_by_their_names():
    reference = load_reference("ioi/smollm2-135m-instruct")
    a, b, other = (
        make_run(method=method, references=(reference.name,)) for method in ("attribution", "overlap", "eap")
    )
    for run, place in ((a, ""), (b, "/elsewhere/"), (other, "")):
        name = f"{place}mine.safetensors"
        run.recovery = {name: run.recovery[reference.name]}
        run.settings.reference, run.own_reference = name, reference
    comparison = compare_runs(a, b)
    [name] = comparison.recovery
    assert name == "mine.safetensors = /elsewhere/mine.safetensors"
    assert set(comparison.aucs) == {name} and not comparison.unpaired
    assert comparison.aucs[name][1] == b.recovery["/elsewhere/mine.safetensors"].roc_auc
    other.own_reference = replace(reference, heads=2 * reference.heads)
    comparison = compare_runs(a, other)
    assert comparison.aucs == {} and comparison.unpaired == "no reference in common"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"per_pair": False}, "no scores per pair"),
        ({"seed": 1}, "not on the same model and pairs"),
        ({"n_pairs": 39}, "not on the same model and pairs"),
    ],
)
def test_unpaired_runs_say_why_there_is_no_interval(options, reason):
    names = published()
    comparison = compare_runs(make_run(**GPT2, references=names), make_run(**GPT2, references=names, **options))
    assert comparison.recovery == {} and reason in comparison.unpaired
    assert set(comparison.aucs) == set(names)
    assert reason in " ".join(cell for row in comparison.rows() for cell in row)


def test_prompts_that_were_edited_in_between_are_other_pairs():
    a, b, edited = (make_run(**GPT2, references=published()) for _ in range(3))
    edited.provenance.pairs.digest = "1" * 16
    assert compare_runs(a, b).recovery and not compare_runs(b, edited).recovery


def test_models_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="30 layers of 9 heads and 12 layers of 12 heads"):
        compare_runs(make_run(), make_run(**GPT2))
