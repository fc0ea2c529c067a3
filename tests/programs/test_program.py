"""Programs that were written by hand are read off again, and what nothing reads does not pass interchange."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp.bottlenecks.kinds.codebook import Codebook
from interp.errors import InputError
from interp.executor import Workers
from interp.interventions.clean_run import CleanRun
from interp.models import Site
from interp.planted.models import load_planted_model
from interp.programs import program as programs
from interp.programs.codes import LEAST, METRICS, bits, fit_few, ids, measure, variables
from interp.programs.program import Program, find_program
from interp.programs.proof import HeadCodebook, NamedVariable, set_variables
from interp.programs.slots import HeadAtRole, SlotRunner, read_slots
from interp.prompts.sampling import held_out_pairs
from interp.runs.judge import judge_program
from interp.runs.run import Run
from interp.tasks import load_task

INHIBITION, INDUCTION = "planted-inhibition", "planted-induction"


def test_the_written_program_is_read_off_again(run):
    program = run.program
    assert program is not None and (program.n_fitted, program.n_judged) == (512, 64)
    slots = {str(slot.slot): slot for slot in program.slots}
    assert list(slots) == ["a0.h1 @ S2", "a1.h2 @ END", "a2.h0 @ END", "a3.h5 @ END"]
    for slot in (slots["a0.h1 @ S2"], slots["a1.h2 @ END"]):
        assert slot.variable == "S" and slot.ami > 0.7 and slot.q <= 0.05 and slot.accuracy > 0.9
        assert set(map(str, slot.values)) == set(slot.values) and len(slot.values) == slot.codes
        assert None in slot.values.values() and len(set(slot.values.values())) > 15
        assert slot.effect_kept > 0.9 and abs(slot.reconstruction_cost) < 0.1
        assert slot.effect == pytest.approx(12.6, abs=0.5) and 2 < slot.bits < np.log2(slot.codes)
    for slot in (slots["a2.h0 @ END"], slots["a3.h5 @ END"]):
        assert "IO" in slot.variable and slot.effect_kept > 0.7


def test_what_fits_codes_chooses_them_and_judges_them_shares_no_prompt(monkeypatch):
    sets = []

    def finder(clean, fitted, judged, *_more):
        sets.extend((clean.pairs, fitted, judged))
        return SimpleNamespace(program=lambda *_: Program())

    monkeypatch.setattr(programs, "_Finder", finder)
    model, task = load_planted_model(INHIBITION), load_task(INHIBITION)
    clean = CleanRun.of(model, task.sample(model.tokenizer, 40))
    find_program(task, clean, [Site("attn", 0, 1)], np.ones((40, 1)))
    chosen, fitted, judged = ({t for p in pairs for t in (p.clean_tokens, p.corrupt_tokens)} for pairs in sets)
    assert [*map(len, sets)] == [40, 512, programs.JUDGE_PAIRS]
    assert not judged & (chosen | fitted)


def test_a_run_speaks_of_codes_of_its_program_alone(run):
    model, task = load_planted_model(INHIBITION), load_task(INHIBITION)
    pairs = task.sample(model.tokenizer, 40)
    z, _ = read_slots(model, pairs, [slot_codes.slot for slot_codes in run.program.slots])
    codes = {slot: run.program.books[str(slot)].encode(values).ids[..., 0].numpy() for slot, values in z.items()}
    n_changes = 0
    for part in run.members:
        assert part.codes is None, "a code of a slot says nothing at another role"
        for change in part.evidence.changes:
            clean, corrupt = codes[HeadAtRole.of(part.site, change.role)]
            same = (clean == change.clean) & (corrupt == change.corrupt)
            assert same.mean() == pytest.approx(change.share) and same.any()
            n_changes += 1
    assert n_changes > 4 and run.settings.codes == {"source": "program"}
    carried = {(e.sender, e.receiver): e for e in run.edges if abs(e.score) > 0.02}
    assert carried["a0.h1", "a1.h2"].codes == pytest.approx(carried["a0.h1", "a1.h2"].attribution, rel=0.2)


def test_transitions_say_what_is_passed_on(run):
    edges = {(edge.sender, edge.receiver): edge for edge in run.program.transitions}
    written, later = edges["a0.h1 @ S2", "a1.h2 @ END"], edges["a2.h0 @ END", "a3.h5 @ END"]
    assert written.changes > 0.95 and written.as_predicted > 0.95 and written.null < 0.5
    assert edges["a0.h1 @ S2", "a2.h0 @ END"].changes > 0.8
    assert later.changes == 0 and later.strength == pytest.approx(1)
    assert all(edge.sender < edge.receiver for edge in run.program.transitions)


@pytest.fixture(scope="module")
def judged(run):
    return judge_program(run)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_judge_as_one_process_does(run, judged):
    assert judge_program(run, workers=Workers("ray")).model_dump_json() == judged.model_dump_json()


def test_names_that_change_places_by_codes_change_the_answer(run, judged):
    """To the other name, as strongly as the model preferred the first; random names would leave it open."""
    by = {interchange.variable: interchange for interchange in judged.interchange}
    as_before = judged.model_copy(update={"interchange": run.program.interchange})
    assert as_before.model_dump() == run.program.model_dump()
    assert {name: interchange.sites for name, interchange in by.items()} == {
        "S": ["a0.h1 @ S2", "a1.h2 @ END"],
        "IO": ["a2.h0 @ END", "a3.h5 @ END"],
        "IO + S": ["a2.h0 @ END", "a3.h5 @ END", "a0.h1 @ S2", "a1.h2 @ END"],
    }
    for interchange in by.values():
        assert interchange.n == 64 and interchange.flipped > 0.95 and interchange.flipped_means > 0.9
        assert (
            interchange.metric_set < -7 < 9 < interchange.metric_own == pytest.approx(interchange.metric_clean, abs=0.1)
        )
        assert interchange.flipped_own == interchange.flipped_heads == 0 and interchange.flipped_random < 0.3
    # another prompt's name becomes the top token, as often as on that prompt
    io = by["IO"]
    assert io.n_accuracy > 40 and io.accuracy_ceiling == io.accuracy_whole == 1
    # four directions cannot hold the names
    assert io.accuracy > 0.9 > io.accuracy_rotation and io.accuracy_codes < 0.3
    assert by["S"].n_accuracy == 0 and by["S"].accuracy is None and by["S"].isolation is not None


def test_a_decoy_that_carries_the_variable_and_is_not_read_does_not_pass():
    model, task = load_planted_model(INHIBITION), load_task(INHIBITION)
    pairs = task.sample(model.tokenizer, 20)
    others = held_out_pairs(task, model.tokenizer, 240, pairs)
    decoy, head = HeadAtRole.of("a0.h0", "S2"), HeadAtRole.of("a0.h1", "S2")
    fitted, judged = others.subset(range(200)), others.subset(range(200, 240))
    z, _ = read_slots(model, fitted, [decoy, head])
    runner = SlotRunner.of(model, judged)
    books = {slot: fit_few(z[slot], 32) for slot in z}
    coded = {
        slot: HeadCodebook(book, ids(book, z[slot]), ids(book, runner.z(slot)), np.arange(book.config.n_codes))
        for slot, book in books.items()
    }
    (name,) = (v for v in variables(others, model.tokenizer) if v.name == "S")
    # it knows the name as well as the head does
    assert bits(coded[decoy].judged) == pytest.approx(bits(coded[head].judged), abs=0.5)
    by_decoy, by_head = (
        set_variables(runner, [NamedVariable(name, {slot: coded[slot]})], z).by["set"] for slot in (decoy, head)
    )
    assert by_head.flipped > 0.9 and by_decoy.flipped == 0
    program = find_program(task, CleanRun.of(model, pairs), [Site("attn", 0, 0)], np.full((20, 1), 1e-6))
    assert not program.slots and any("a0.h0" in note for note in program.notes)


@pytest.mark.parametrize("metric", METRICS)
def test_every_code_is_met_by_enough_prompts(metric):
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(6, 8, generator=generator)
    value = torch.stack([torch.arange(120) % 6, (torch.arange(120) // 6) % 6])
    z = centres[value] + 0.1 * torch.randn(2, 120, 8, generator=generator)
    z[0, :2] += 50
    book = fit_few(z, 12, metric)
    assert isinstance(book, Codebook) and int(book.counts.min()) >= LEAST
    codes = book.encode(z[:, 2:]).ids[..., 0]
    assert all(len(set(value[:, 2:][codes == code].tolist())) == 1 for code in codes.unique())
    assert bits(np.repeat(np.arange(4), 5)) == pytest.approx(2) and bits(np.zeros(9, dtype=int)) == 0


def test_what_pairs_share_takes_no_codes():
    """Three values that differ within pairs, and a template of nine kinds that both prompts of a pair have."""
    generator = torch.Generator().manual_seed(0)
    template = 4 * torch.randn(9, 16, generator=generator)[torch.arange(180) % 9]
    value = torch.stack([torch.arange(180) % 2, torch.full((180,), 2)])
    z = template + torch.randn(3, 16, generator=generator)[value]
    pure = {}
    for metric in METRICS:
        codes = fit_few(z, 6, metric).encode(z).ids[..., 0]
        right = sum(int(torch.bincount(value[codes == code]).max()) for code in codes.unique())
        pure[metric] = right / value.numel()
    assert pure["contrast"] == 1 and pure["plain"] < 0.9


def test_few_codes_cost():
    model, task = load_planted_model(INHIBITION), load_task(INHIBITION)
    slot, pairs = HeadAtRole.of("a0.h1", "S2"), task.sample(model.tokenizer, 60)
    runner = SlotRunner.of(model, pairs)
    books = [fit_few(runner.z(slot), size) for size in (1, 4, 24)]
    nothing, few, all_names = measure(runner, slot, books, np.arange(60))
    # one code for everything changes nothing when it is exchanged, and costs what the head does
    assert nothing.effect_kept == pytest.approx(0, abs=1e-4) and nothing.reconstruction_cost > 0.5
    assert nothing.effect_kept < few.effect_kept < all_names.effect_kept
    assert all_names.reconstruction_cost < few.reconstruction_cost


def test_a_run_keeps_its_program(run, tmp_path, command):
    run.save(tmp_path / "run")
    kept = Run.load(tmp_path / "run").program
    assert kept.model_dump() == run.program.model_dump() and kept.text() == run.program.text()
    for slot, book in run.program.books.items():
        for name, tensor in book.tensors().items():
            torch.testing.assert_close(kept.books[slot].tensors()[name], tensor, rtol=0, atol=0)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    slot, edge, entry = written["program"][0], written["transitions"][0], written["interchange"][0]
    assert {"site", "role", "effect", "codes", "bits", "carried", "own_cost", "variable", "ami", "ami_null"} < {*slot}
    assert {"from", "to", "changes", "as_predicted", "null"} < {*edge}
    controls = {"metric_own", "metric_random", "flipped_own", "flipped_random"}
    assert {"variable", "sites", "n", "metric_clean", "metric_set", "flipped"} | controls < {*entry}
    shown = command("program", str(tmp_path / "run"))
    assert run.program.text() in shown.out and "--judge" in shown.following[0]
    command("program", str(tmp_path / "run"), "--judge")
    kept = Run.load(tmp_path / "run").program.interchange
    assert {entry.variable for entry in kept if entry.accuracy_rotation is not None} == {"IO", "IO + S"}
    as_json = json.loads(command("program", str(tmp_path / "run"), "--json").out)
    assert as_json["slots"] == written["program"]
    written["program"][0]["codes"] += 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="damaged"):
        Run.load(tmp_path / "run")


@pytest.mark.usefixtures("elsewhere")
def test_a_discovery_ends_with_the_program_unless_it_is_left_out(command, monkeypatch):
    # 24 words: the ten codes at most that 40 prompts of the fixture give cannot tell them apart
    monkeypatch.setattr(programs, "FIT_PAIRS", 512)
    monkeypatch.setattr(programs, "JUDGE_PAIRS", 64)
    words = ("discover", INDUCTION, "-n", "8")
    shown = command(*words, "--out", "a").out
    assert "a0.h3 @ B" in shown and len(shown.splitlines()) <= 45
    assert "says" not in command(*words, "--out", "b", "--no-program").out
    assert Run.load("b").program is None
    assert "--no-program" in command("program", "b").error


@pytest.mark.parametrize("left", [0, 10])
def test_too_few_prompts_are_said_and_nothing_is_lost(left, monkeypatch):
    model, task = load_planted_model(INHIBITION), load_task(INHIBITION)
    pairs = task.sample(model.tokenizer, 20)
    few = pairs.subset(range(left))

    def held_out(*_, **__):
        if not few:
            raise InputError("none to hold out")
        return few

    monkeypatch.setattr(programs, "held_out_pairs", held_out)
    clean = CleanRun.of(model, pairs)
    program = find_program(task, clean, [Site("attn", 0, 1)], np.ones((20, 1)))
    assert program == Program(notes=program.notes) and f"{left} pairs" in program.notes[0]
    assert find_program(task, clean, [], np.ones((20, 0))).notes
