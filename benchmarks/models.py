"""Models against transformers, and what one of 1.5 B weights costs.

    python -m benchmarks.models [--device cpu] [--dtype float32]
    python -m benchmarks.models --lengths
    python -m benchmarks.models --larger FILE.gguf [--dtype float32 bfloat16]

The first prints, of every supported family on a tiny random model and of both real ones, the largest difference of
logits from those of transformers, beside the largest logit; and at how many of the tokens generated with the cache
those generated without it differ. Memory is that of the weights; on a GPU the peak of both models. ``--lengths`` prints
the seconds of a *why* of a pair behind more and more sentences, and the peak of memory until then.

``--larger`` takes a GGUF of any model, and writes one of random weights in the shape of Qwen2.5 1.5B where there is
none. In a process of its own it explains a pair and finds the circuit of ten pairs of IOI with its program, and prints
seconds by stage and peak memory. Random weights do no task, and a discovery refuses them: where such a model prefers
the wrong answer, the two answers change places; what that takes is not counted. So the seconds tell something, and the
circuit nothing.
"""

import itertools
import multiprocessing
import resource
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.common import RESULTS, arguments, kept, print_table, timed
from interp import find_circuit, load_model, why
from interp.activations.stream import MetricConsumer, feed
from interp.files import write_json
from interp.models import Model
from interp.models.embedded import EMBEDDED, PACKAGED, packaged_folder
from interp.models.generate import generate
from interp.models.pretrained import read_tokenizer
from interp.progress import quiet, status
from interp.tasks import PromptPairs, Task, load_task
from tests.models.tiny_gguf import add_tokenizer
from tests.tiny_models import FAMILIES, OTHERS, make_tiny

RESULT = RESULTS / "models.json"
PROMPT = "When Mary and John went to the store, John gave a drink to"
NEW_TOKENS = 24
PAIR = PROMPT, PROMPT.replace(", John", ", Mary")
SENTENCE = "The weather was mild that day and people walked slowly along the river. "
N_PAIRS = 10
D_VOCAB = 151_936
SHAPE = {
    "context_length": 32768,
    "embedding_length": 1536,
    "block_count": 28,
    "feed_forward_length": 8960,
    "attention.head_count": 12,
    "attention.head_count_kv": 2,
}
"""Of Qwen2.5 1.5B, as llama.cpp names it."""


def main() -> None:
    threads = torch.get_num_threads()
    given = arguments(__doc__, device="cpu", dtype=["float32"], larger=Path, lengths=False, threads=threads)
    if given.lengths:
        lengths()
        return
    if given.larger is None:
        agreement(given.device, given.dtype[0])
        return
    if not given.larger.exists():
        write_random(given.larger)
    larger(given.larger, given)


def agreement(device: str, dtype: str) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        for family in (*FAMILIES, *OTHERS):
            rows.append(_agrees(family, make_tiny(family, Path(folder) / family), device, dtype))
        for spec in PACKAGED:
            rows.append(_agrees(spec, packaged_folder(spec), device, dtype))
    columns = ("model", "largest difference", "largest logit", "tokens that differ", "forward s", "memory MiB")
    print_table(columns, rows, f"{device}, {dtype}, {NEW_TOKENS} new tokens")


@torch.no_grad()
def _agrees(name: str, folder: Path, device: str, dtype: str) -> tuple[Any, ...]:
    """Logits at every token of a prompt, of the wrapped model and of another that transformers runs by itself."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    model = load_model(str(folder), device=device, dtype=dtype)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    tokens = model.to_tokens(PROMPT)
    logits = reference.to(device).eval()(tokens).logits.float()
    difference = (model(tokens).float() - logits).abs().max()
    seconds = timed(lambda: model(tokens).sum().item()).clock
    cached, uncached = (
        generate(model, tokens, NEW_TOKENS, return_type="tokens", use_cache=use)[0].tolist() for use in (True, False)
    )
    different = sum(a != b for a, b in itertools.zip_longest(cached, uncached))
    n_new = len(cached) - tokens.shape[1]
    memory = torch.cuda.max_memory_allocated() if device.startswith("cuda") else weight_bytes(model)
    return (
        name,
        f"{difference.item():.1e}",
        f"{logits.abs().max().item():.1f}",
        f"{different} of {n_new}",
        f"{seconds:.3f}",
        f"{memory / 2**20:.0f}",
    )


def lengths() -> None:
    model, rows = load_model(), []
    why(model, *PAIR)  # the first of a process is slower
    for n in (0, 3, 15):
        explained = why(model, *(SENTENCE * n + prompt for prompt in PAIR))
        seconds, peak = sum(explained.seconds.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append((len(explained.tokens), f"{seconds:.1f}", f"{peak:.1f}"))
    print_table(("tokens", "seconds", "peak GiB"), rows, "a why by length")


def weight_bytes(model: Model) -> int:
    """Bytes of all that a model holds, each storage counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def write_random(path: Path) -> None:
    """A GGUF in float16 of random weights in the shape of Qwen2.5 1.5B, with SmolLM2's tokenizer."""
    tokenizer = read_tokenizer(packaged_folder(EMBEDDED))
    writer = gguf.GGUFWriter(path, "qwen2")
    for name, value in SHAPE.items():
        writer.add_uint32(f"qwen2.{name}", value)
    writer.add_float32("qwen2.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("qwen2.rope.freq_base", 1e6)
    add_tokenizer(writer, tokenizer, D_VOCAB)
    rng = np.random.default_rng(0)
    width, inner = SHAPE["embedding_length"], SHAPE["feed_forward_length"]
    narrow = width * SHAPE["attention.head_count_kv"] // SHAPE["attention.head_count"]
    matrices = {
        "attn_q": (width, width),
        "attn_k": (narrow, width),
        "attn_v": (narrow, width),
        "attn_output": (width, width),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    with status(f"writing {path}"):
        for layer in range(SHAPE["block_count"]):
            for name, shape in matrices.items():
                _add(writer, rng, f"blk.{layer}.{name}.weight", shape)
            for name in ("attn_q", "attn_k", "attn_v"):
                writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(matrices[name][0], np.float32))
            for name in ("attn_norm", "ffn_norm"):
                writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
        _add(writer, rng, "token_embd.weight", (D_VOCAB, width))
        writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add(writer: gguf.GGUFWriter, rng: np.random.Generator, name: str, shape: tuple[int, int]) -> None:
    values = rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[1] ** 0.5)
    writer.add_tensor(name, values.astype(np.float16))


def larger(path: Path, given: Namespace) -> None:
    rows = kept(RESULT, [])
    spawned = multiprocessing.get_context("spawn")
    for dtype in given.dtype:
        key = {"model": path.stem, "dtype": dtype, "threads": given.threads}
        with spawned.Pool(1) as pool:
            row = key | pool.apply(_measured, (path, dtype, given.threads))
        rows = [before for before in rows if not key.items() <= before.items()] + [row]
        write_json(RESULT, rows)
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Seconds by stage, and memory."""
    for part, title in (("why", "seconds of a why"), ("circuit", f"seconds of a circuit of {N_PAIRS} pairs")):
        stages = list(rows[0][part])
        columns = ("model", "dtype", "threads", *stages)
        table = [
            (row["model"], row["dtype"], row["threads"]) + tuple(f"{row[part][stage]:.1f}" for stage in stages)
            for row in rows
        ]
        print_table(columns, table, title, left=2)
    sizes = ("load", "forward", "weights GiB", "peak GiB")
    table = [(row["model"], row["dtype"], *(f"{row[name]:.1f}" for name in sizes)) for row in rows]
    print_table(("model", "dtype", *sizes), table, "seconds and memory", left=2)


class Signed:
    """A task whose answers change places wherever a model's logit difference falls from the corrupt to the clean."""

    def __init__(self, task: Task, model: Model) -> None:
        self.task, self.model, self.seconds = task, model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def sample(self, tokenizer: Any, n: int, seed: int = 0, counterfactual: str | None = None, *, bos: bool = True):
        pairs, metric = self.task.sample(tokenizer, n, seed, counterfactual, bos=bos), MetricConsumer(n)
        self.seconds += timed(lambda: feed(self.model, pairs, [metric])).clock
        gaps = metric.metric_[0] - metric.metric_[1]
        signed = [
            pair if gap > 0 else replace(pair, answers=pair.wrong_answers, wrong_answers=pair.answers)
            for pair, gap in zip(pairs, gaps, strict=True)
        ]
        return PromptPairs(
            signed, task=pairs.task, metric=pairs.metric, counterfactual=pairs.counterfactual, seed=seed, bos=bos
        )


@torch.no_grad()
def _measured(path: Path, dtype: str, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    load = timed(lambda: load_model(str(path), dtype=dtype))
    model = load.result
    tokens = model.to_tokens(PAIR[0])
    model(tokens)  # the first pass of a process is slower
    forward = timed(lambda: model(tokens)).clock
    with torch.enable_grad():
        explained = why(model, *PAIR)
        task = Signed(load_task("ioi"), model)
        run = find_circuit(model, task, n=N_PAIRS, program=True)
    return {
        "why": explained.seconds,
        "circuit": run.seconds | {"program": run.seconds["program"] + run.seconds.pop("sample") - task.seconds},
        "cost": run.cost,
        "members": len(run.members),
        "slots": len(run.program.slots),
        "load": load.clock,
        "forward": forward,
        "weights GiB": weight_bytes(model) / 2**30,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
