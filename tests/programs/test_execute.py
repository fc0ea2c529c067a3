"""A program that is executed restores what hooks say, lines that are false show, and nulls restore nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.interventions.clean_run import CleanRun
from interp.interventions.frozen import LiveAt, in_frozen_context
from interp.interventions.patch import Patch
from interp.models import Site
from interp.programs.codes import KeptEffect
from interp.programs.execute import Execution
from interp.programs.schema import Transition
from interp.programs.slots import SlotRunner
from interp.runs.run import Run
from interp.tasks import load_task
from tests.oracles import planted

NAME = "planted-inhibition"


@pytest.fixture(scope="module")
def pairs():
    model, _ = planted(NAME, 1)
    return load_task(NAME).sample(model.tokenizer, 12, seed=7)


def test_a_written_program_runs_and_its_nulls_do_not(run):
    executed = run.program.executed
    live = executed.live
    assert live.same_answer > 0.95 and abs(executed.nulls["zero_bits"].metric) < 1
    assert live.r2_low <= live.r2 <= live.r2_high and (live.errors, live.same_error) == (0, None)
    alone = executed.chained
    assert alone.ceiling == pytest.approx(1, abs=0.01)
    assert alone.share >= 0.85 * alone.ceiling and alone.low <= alone.share <= alone.high
    assert alone.other_prompt < 0.2 and alone.zero_bits < 0.2
    assert [line.group for line in alone.lines] == list(range(len(run.program.groups)))
    assert all(min(line.fall_deleted, line.fall_wrong) > 0.2 for line in alone.lines)  # upstream ones, too
    assert [group.input for group in run.program.groups] == [True, False, False]
    sites = {site for group in run.program.groups for site in group.sites}
    assert sites == {"a0.h1", "a1.h2", "a2.h0", "a3.h5"}
    assert run.program.summary().count("\n") < 15


def test_what_runs_alone_is_what_hooks_say(run, pairs):
    model, _ = planted(NAME, 1)
    execution = Execution(run.program, SlotRunner.of(model, pairs))
    rows = np.arange(len(pairs))
    arms = [[], execution._arm("program"), execution._arm("program", wrong=execution.groups[0])]
    metric, _ = execution._run(arms, rows)
    assert np.ptp(metric, axis=0).min() > 0.5
    for pair, row in zip(pairs, rows, strict=True):
        with torch.no_grad():
            _, corrupt = model.run_with_cache(torch.tensor([pair.corrupt_tokens]))
        for arm, values in zip(arms, metric, strict=True):

            def hold(name, arm=arm, corrupt=corrupt, pair=pair, row=row):
                def hook(z, **_):
                    held = corrupt[name].clone()
                    for coded, content in arm:
                        if coded.slot.site.hook == name:
                            at = 0, pair.positions[coded.role], coded.slot.site.head
                            held[at] = z[at] if content is None else execution.values(coded, content, rows)[row]
                    return held

                return name, hook

            hooks = [hold(f"blocks.{layer}.attn.hook_z") for layer in range(model.cfg.n_layers)]
            with torch.no_grad():
                logits = model.run_with_hooks(torch.tensor([pair.clean_tokens]), fwd_hooks=hooks)[0, -1]
            expected = logits[list(pair.answers)].mean() - logits[list(pair.wrong_answers)].mean()
            assert values[row] == pytest.approx(float(expected), abs=1e-3)


def test_a_loaded_run_executes_its_program_and_a_false_one_shows(run, pairs, tmp_path):
    model, _ = planted(NAME, 1)
    loaded = Run.load(run.save(tmp_path / "run")).program
    assert loaded.executed == run.program.executed and loaded.groups == run.program.groups
    executed = loaded.execute(model, pairs)
    assert executed.chained.share > 0.8
    codes = [
        coded.model_copy(update={"usual": list(zip(values, [codes[-1], *codes[:-1]], strict=True))})
        for coded in loaded.slots
        for values, codes in [zip(*coded.usual, strict=True)]
    ]
    false = loaded.model_copy(update={"slots": codes})
    assert false.execute(model, pairs).chained.share < 0.3
    unwritten = [coded.model_copy(update={"input": False}) for coded in loaded.slots]
    with pytest.raises(InputError, match="run the discovery again"):
        loaded.model_copy(update={"slots": unwritten}).execute(model, pairs)


def test_errors_that_cancel_and_chance_agreement_are_told():
    effect = np.array([1.0, 1.2, 0.8, 1.0])
    cancelling = KeptEffect(effect, effect + [2, -2, 2, -2], np.array([1.0, -1.0, 1.0, -1.0]))
    assert cancelling.effect_kept == pytest.approx(1) and cancelling.reconstruction_cost == pytest.approx(0)
    assert cancelling.effect_r2 < 0 and cancelling.absolute_cost == pytest.approx(1)
    assert KeptEffect(effect, effect, effect * 0).effect_r2 == pytest.approx(1)
    assert not KeptEffect(effect, effect * 1.3, effect * 0).enough  # too much is no better than too little
    edge = {"from": "a1.h2 @ END", "to": "a2.h0 @ END", "n": 50, "changes": 0.8, "null": 0.1, "strength": 1.0}
    assert Transition(**edge, as_predicted=0.9, predicted_null=0.4).known
    assert not Transition(**edge, as_predicted=0.7, predicted_null=0.7).known
    assert not Transition(**edge | {"null": 0.5}, as_predicted=0.9, predicted_null=0.1).known


def test_what_stands_before_the_first_difference_is_neither_live_nor_written(pairs):
    model, _ = planted(NAME, 1)
    clean = CleanRun.of(model, pairs)
    everyone = np.arange(len(pairs))
    site, start = Site("attn", 3, 5), np.zeros(len(pairs), dtype=int)
    nothing, _ = in_frozen_context(clean, everyone, [], [])
    patch = Patch(site, torch.full((len(pairs), model.cfg.d_head), 50.0), start)
    for live, patches in (([LiveAt(site, start)], []), ([], [patch])):
        np.testing.assert_array_equal(in_frozen_context(clean, everyone, live, patches)[0], nothing)
    at_end = replace(patch, positions=np.array([pair.positions["END"] for pair in pairs]))
    assert abs(in_frozen_context(clean, everyone, [], [at_end])[0] - nothing).max() > 0.1
