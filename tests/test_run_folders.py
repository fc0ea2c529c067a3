"""Where runs go: none takes the place of another's, and nothing of a user's is deleted with one."""

import json
from pathlib import Path

import pytest

from interp.runs import Run

PLANTED = "planted-inhibition"
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_prompts_of_one_name_in_two_places_get_a_folder_each(command):
    for folder, seed in (("one", "0"), ("two", "1")):
        file = f"{folder}/prompts.json"
        assert command("tasks", "export", PLANTED, file, "-n", "8", "--seed", seed).code == 0
        assert command("discover", file, "--model", PLANTED).code == 0
    runs = {path.name: Run.load(path).result["task"] for path in Path("runs").iterdir()}
    name = f"prompts-{PLANTED}-codes"
    assert runs == {name: "one/prompts.json", f"{name}-2": "two/prompts.json"}
    again = command("discover", "two/prompts.json", "--model", PLANTED)
    assert "replaces the earlier run" in again.out and f"{name}-2" in again.out
    assert len(list(Path("runs").iterdir())) == 2


def test_prompts_that_someone_put_beside_a_run_are_kept(command):
    assert command("discover", PLANTED, "-n", "6", "--out", "mine").code == 0
    assert command("tasks", "export", PLANTED, "mine/prompts.json", "-n", "6").code == 0
    refused = command("discover", PLANTED, "-n", "6", "--out", "mine")
    assert refused.code == 2 and "other things in it (prompts.json)" in refused.error
    assert Path("mine/prompts.json").exists()


def test_the_prompts_that_a_run_keeps_itself_go_with_it(command):
    assert command("tasks", "export", PLANTED, "file.json", "-n", "6").code == 0
    words = ("discover", "file.json", "--model", PLANTED, "--out", "mine")
    assert command(*words).code == 0 and Path("mine/prompts.json").exists()
    assert command(*words).code == 0


def test_a_result_within_the_run_is_refused_before_anything_is_run(command):
    refused = command("discover", PLANTED, "--out", "mine", "--json", "mine/result.json")
    assert refused.code == 2 and "--json mine/result.json" in refused.error
    assert not Path("mine").exists()


def test_the_next_command_has_the_same_pairs_and_model(command):
    words = (
        "-n",
        "6",
        "--seed",
        "3",
        "--counterfactual",
        "s2_io",
        "--dtype",
        "bfloat16",
        "--mlps",
        "--no-bos",
    )
    done = command("discover", PLANTED, *words)
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("next")]
    wanted = "--n 6 --seed 3 --counterfactual s2_io --dtype bfloat16 --mlps --no-bos --method overlap"
    assert f"interp discover {PLANTED} {wanted}  " in line


def test_brackets_in_a_name_are_no_markup(command):
    for name in ("a[v2].json", "b[/bold].json"):
        assert command("tasks", "export", PLANTED, name, "-n", "6").code == 0
        done = command("discover", name, "--model", PLANTED)
        assert done.code == 0, done.err
        assert f"{name} on {PLANTED} by codes" in done.out
    run = f"runs/a[v2]-{PLANTED}-codes"
    compared = command("compare", run, f"runs/b[/bold]-{PLANTED}-codes")
    assert compared.code in (0, 2) and "Traceback" not in compared.err
    assert json.loads(Path(run, "run.json").read_text())["task"] == "a[v2].json"
