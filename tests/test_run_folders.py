"""Where runs go: none takes the place of another's, and nothing of a user's is deleted with one."""

from pathlib import Path

import pytest

from interp.runs.run import Run

PLANTED = "planted-inhibition"
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_prompts_of_one_name_in_two_places_get_a_folder_each(command):
    for folder, seed in (("one", "0"), ("two", "1")):
        file = f"{folder}/prompts.json"
        assert command("tasks", "export", PLANTED, file, "-n", "8", "--seed", seed).code == 0
        assert command("discover", file, "--model", PLANTED).code == 0
    runs = {path.name: Run.load(path).task for path in Path("runs").iterdir()}
    name = f"prompts-{PLANTED}-adaptive-patching"
    assert runs == {name: "one/prompts.json", f"{name}-2": "two/prompts.json"}
    again = command("discover", "two/prompts.json", "--model", PLANTED)
    assert "replaces the earlier run" in again.out and f"{name}-2" in again.out
    assert len(list(Path("runs").iterdir())) == 2


def test_what_someone_put_beside_a_run_is_kept(command):
    assert command("discover", PLANTED, "-n", "6", "--out", "mine").code == 0
    Path("mine/notes.txt").write_text("precious")
    refused = command("discover", PLANTED, "-n", "6", "--out", "mine", "--overwrite")
    assert refused.code == 2 and "notes.txt" in refused.error
    assert Path("mine/notes.txt").exists()


def test_the_prompts_that_a_run_keeps_itself_go_with_it(command):
    assert command("tasks", "export", PLANTED, "file.json", "-n", "6").code == 0
    words = ("discover", "file.json", "--model", PLANTED, "--out", "mine")
    assert command(*words).code == 0 and Path("mine/prompts.json").exists()
    assert command(*words).code == 0


def test_a_result_within_the_run_is_refused_before_anything_is_run(command):
    refused = command("discover", PLANTED, "--out", "mine", "--json", "mine/result.json")
    assert refused.code == 2 and "--json mine/result.json" in refused.error
    assert not Path("mine").exists()


def test_the_next_commands_have_the_same_pairs_and_model(command):
    words = "--n 6 --seed 3 --counterfactual s2_io --candidates 9 --threshold 0.1 --dtype bfloat16 --mlps --no-bos"
    done = command("discover", PLANTED, *words.split())
    assert done.code == 0, done.err
    assert f"interp discover {PLANTED} {words} --method attribution  " in done.out
    assert f"interp tasks show {PLANTED} --n 6 --seed 3 --counterfactual s2_io --dtype bfloat16  " in done.out


def test_brackets_in_a_name_are_no_markup(command):
    for name in ("a[v2].json", "b[/bold].json"):  # the second lies in a folder
        assert command("tasks", "export", PLANTED, name, "-n", "6").code == 0
        done = command("discover", name, "--model", PLANTED)
        assert done.code == 0, done.err
        assert f"{name} on {PLANTED} by adaptive-patching" in done.out
    compared = command("compare", *map(str, Path("runs").iterdir()))
    assert compared.code == 0, compared.err
    assert "a[v2].json" in compared.out and "b[/bold].json" in compared.out
