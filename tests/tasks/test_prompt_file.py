import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.prompts.sampling import sample_pairs
from interp.tasks import IOI, Docstring, GreaterThan, InputError, PromptFile, write_prompt_file

ENTRY = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Adam and Paul went to the store, Mark gave a drink to",
    "answers": [" Mary"],
    "wrong_answers": [" John"],
}


def write(tmp_path, document, name="mine.json"):
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def entries(*prefixes: str) -> list[dict]:
    return [ENTRY | {key: f"{prefix} {ENTRY[key]}" for key in ("clean", "corrupt")} for prefix in prefixes]


def ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def test_auto_circuit_json_is_read_with_positions_moved_by_bos(tmp_path, gpt2):
    path = write(tmp_path, {"prompts": [ENTRY], "word_idxs": {"IO": 1, "S1": 3, "S2": 9, "end": 12}})
    task = PromptFile(path)
    assert task.roles == ("IO", "S1", "S2", "END") and task.metric == "logit_diff" and task.name == str(path)
    pair = task.sample(gpt2, 1)[0]
    assert pair.clean_tokens == (gpt2.bos_token_id, *ids(gpt2, ENTRY["clean"]))
    assert pair.answers == ids(gpt2, " Mary") and pair.wrong_answers == ids(gpt2, " John")
    at = {role: gpt2.decode([pair.clean_tokens[i]]) for role, i in pair.positions.items()}
    assert at == {"IO": " Mary", "S1": " John", "S2": " John", "END": " to"}
    without = task.sample(gpt2, 1, bos=False)[0]
    assert without.positions == {"IO": 1, "S1": 3, "S2": 9, "END": 13}


def test_the_seed_picks_a_reproducible_subset(tmp_path, gpt2):
    task = PromptFile(write(tmp_path, {"prompts": entries(*(f"Day {i}:" for i in range(40)))}))
    picks = [[pair.clean for pair in task.sample(gpt2, 10, seed)] for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
    assert len(set(picks[0])) == 10
    assert picks[0] == [pair.clean for pair in task.sample(gpt2, 40, 0)][:10]


def test_lines_read_as_the_same_file_with_a_byte_order_mark_too(tmp_path, gpt2):
    prompts = entries("Today", "Then", "Yesterday")
    lines = "\n\n".join(json.dumps(entry) for entry in prompts) + "\n"
    as_lines = PromptFile(write(tmp_path, lines, "mine.jsonl")).sample(gpt2, 3)
    path = tmp_path / "bom.json"
    path.write_text(json.dumps({"prompts": prompts}), encoding="utf-8-sig")
    assert list(PromptFile(path).sample(gpt2, 3)) == list(as_lines)


def test_answers_of_several_tokens_are_scored_by_the_first_that_differs(tmp_path, gpt2):
    def sampled(**changes):
        return PromptFile(write(tmp_path, {"prompts": [{**ENTRY, **changes}]})).sample(gpt2, 1, bos=False)

    pairs = sampled(clean="Q", corrupt="R", answers=[" New York City"], wrong_answers=[" New York Times"])
    pair = pairs[0]
    assert pair.clean_tokens == (*ids(gpt2, "Q"), *ids(gpt2, " New York"))
    assert pair.corrupt_tokens == (*ids(gpt2, "R"), *ids(gpt2, " New York"))
    assert (pair.clean, pair.corrupt) == ("Q New York", "R New York")
    assert pair.answers == ids(gpt2, " City") and pair.wrong_answers == ids(gpt2, " Times")
    assert pair.positions == {"END": 2}
    assert pairs.notes[0].startswith("1 of 1 pairs have answers of several tokens")
    # those that differ at once leave the prompt alone
    pairs = sampled(answers=[" Los Angeles"], wrong_answers=[" New York"])
    assert pairs[0].answers == ids(gpt2, " Los") and pairs[0].clean == ENTRY["clean"] and pairs.notes
    assert sampled().notes == ()


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path, gpt2):
    short, same = ENTRY | {"corrupt": "too short"}, ENTRY | {"wrong_answers": [" Mary"]}
    within = ENTRY | {"answers": [" New"], "wrong_answers": [" New York"]}
    task = PromptFile(write(tmp_path, {"prompts": [ENTRY, short, same, within]}))
    assert task.sample(gpt2, 1).dropped == {"lengths": 1, "answers": 2}
    with pytest.raises(InputError, match="2 pairs asked for, but 1 of 4 are usable .*at most 1"):
        task.sample(gpt2, 2)
    # without a number there are as many as are usable
    task = PromptFile(write(tmp_path, {"prompts": [*entries(*(f"Day {i}:" for i in range(5))), short]}))
    sampled = sample_pairs(task, gpt2, None, task.default_n)
    assert len(sampled) == 5 and sampled.dropped == {"lengths": 1}
    assert len(sample_pairs(task, gpt2, None, 3)) == 3
    with pytest.raises(InputError, match="6 pairs asked for, but 5 of 6 are usable"):
        sample_pairs(task, gpt2, 6, 3)
    for document, message in (
        ({"prompts": [short]}, "no usable pair among 1 .*1 dropped for their lengths"),
        ({"prompts": [ENTRY], "word_idxs": {"IO": 14}}, r"prompts\[0\] has 14 tokens .* puts IO at 14"),
    ):
        with pytest.raises(InputError, match=message):
            PromptFile(write(tmp_path, document)).sample(gpt2, 1)


GOOD = json.dumps(ENTRY)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("{nonsense", "line 1 column 2"),
        ('{"prompts": [\n  1,\n  ]}', "line 3"),
        ("[" * 100_000, "JSON"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [ENTRY, 3]}, r"prompts\[1\]"),
        ({"prompts": [ENTRY], "metric": "accuracy"}, "'accuracy'"),
        ({"prompts": [ENTRY], "word_idxs": {"IO": -1}}, "word_idxs.IO .*-1"),
        ({"prompts": [{**ENTRY, "clean": "\ud800"}]}, "JSON"),
        ({"prompts": [{**ENTRY, "answers": []}]}, r"prompts\[0\].answers"),
        ({"prompts": [{**ENTRY, "wrong_answers": [5]}]}, r"prompts\[0\].wrong_answers\[0\]"),
        *(({"prompts": [ENTRY, ENTRY | {key: None}]}, rf"prompts\[1\].{key}") for key in ENTRY),
        *(({"prompts": [{k: ENTRY[k] for k in ENTRY if k != key}]}, rf"prompts\[0\].{key}") for key in ENTRY),
        (f"{GOOD}\n{GOOD}\nnonsense\n", "lines: line 3"),
        (f"{GOOD}\n{{}}\n", "lines: line 2: clean"),
    ],
    ids=str,
)
def test_a_bad_file_is_an_input_error_that_names_the_place(tmp_path, document, place):
    path = write(tmp_path, document, "mine.jsonl" if place.startswith("lines: ") else "mine.json")
    with pytest.raises(InputError, match=place.removeprefix("lines: ")) as caught:
        PromptFile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_that_is_no_text_file_is_an_input_error(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "binary.json").write_bytes(b'{"a": "\xff"}')
    messages = {"absent.json": "No such file", "folder.json": "Is a directory", "binary.json": "binary.json"}
    for name, message in (messages | {"a\0b.json": "null byte"}).items():
        with pytest.raises(InputError, match=message):
            PromptFile(tmp_path / name)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(
    ("task", "kind"),
    [(task, kind) for task in (IOI, GreaterThan, Docstring) for kind in task.counterfactuals],
    ids=lambda value: getattr(value, "name", value),
)
def test_written_pairs_are_read_back_as_they_were(tmp_path, real_tokenizer, task, kind, bos):
    pairs = task().sample(real_tokenizer, 12, 4, kind, bos=bos)
    path = tmp_path / "sub" / "pairs.json"
    for _ in range(2):
        write_prompt_file(pairs, path, real_tokenizer)
    assert os.listdir(path.parent) == ["pairs.json"]
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) <= {"prompts", "word_idxs", "metric"} and set(document["prompts"][0]) >= set(ENTRY)
    read = PromptFile(path)
    assert read.metric == pairs.metric
    again = {pair.clean: pair for pair in read.sample(real_tokenizer, 12, bos=bos)}
    same = ("corrupt", "clean_tokens", "corrupt_tokens", "answers", "wrong_answers", "positions")
    for pair in pairs:
        assert [getattr(again[pair.clean], name) for name in same] == [getattr(pair, name) for name in same]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(max_size=12) | st.sampled_from([" Mary", " John", "\ud800", "a\u2028b", "<|endoftext|>"])
near_entries = st.fixed_dictionaries(
    {},
    optional={
        "clean": texts | json_values,
        "corrupt": texts | json_values,
        "answers": st.lists(texts, max_size=2) | json_values,
        "wrong_answers": st.lists(texts, max_size=2) | json_values,
        "word_idxs": st.dictionaries(st.text(max_size=3), st.integers(-1, 4), max_size=2) | json_values,
    },
)
near_files = st.fixed_dictionaries(
    {"prompts": st.lists(near_entries | st.just(ENTRY), max_size=4) | json_values},
    optional={"word_idxs": json_values, "metric": st.just("prob_diff") | json_values},
)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_robust(path, tokenizer):
    """Whatever stands in a file, it yields sound pairs or one InputError of one line."""
    try:
        task = PromptFile(path)
        pairs = task.sample(tokenizer, 1)
    except InputError as error:
        assert "\n" not in str(error)
        return
    pair = pairs[0]
    assert len(pair.clean_tokens) == len(pair.corrupt_tokens)
    assert pair.answers and pair.wrong_answers and not set(pair.answers) & set(pair.wrong_answers)
    assert all(0 <= position < len(pair.clean_tokens) for position in pair.positions.values())
    assert set(pair.positions) <= set(task.roles)


@quick
@given(
    content=near_files.map(json.dumps).map(str.encode)
    | st.lists(near_entries | st.just(ENTRY), max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | st.binary(max_size=60),
    suffix=st.sampled_from([".json", ".jsonl"]),
)
def test_nearly_right_files_and_any_bytes_never_crash(tmp_path, gpt2, content, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    check_robust(path, gpt2)


@quick
@given(
    clean=st.text(min_size=1, max_size=20),
    answer=st.text(min_size=1, max_size=8),
    wrong=st.text(min_size=1, max_size=8),
)
def test_an_answer_is_scored_where_it_first_differs(tmp_path, gpt2, clean, answer, wrong):
    entry = {"clean": clean, "corrupt": clean, "answers": [answer], "wrong_answers": [wrong]}
    try:
        path = write(tmp_path, {"prompts": [entry]})
        pair = PromptFile(path).sample(gpt2, 1, bos=False)[0]
    except InputError:
        return
    start = ids(gpt2, clean)
    assert pair.clean_tokens[: len(start)] == start
    added = pair.clean_tokens[len(start) :]
    for text, (token,) in ((answer, pair.answers), (wrong, pair.wrong_answers)):
        whole = ids(gpt2, clean + text)
        tail = whole[len(start) :] if whole[: len(start)] == start else ids(gpt2, text)
        assert tail[: len(added) + 1] == (*added, token)
