"""What the command line's options are called and accept: checked while the words are read, before anything loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from interp import DEFAULT_MODEL, MOST_PAIRS, MOST_SEED
from interp.errors import InputError

MOST = 10**9  # of whatever is counted: more is a slip of the keyboard


def names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """``a, b`` as two names; a file's may have spaces in it."""
    parts = text if isinstance(text, tuple) else tuple(filter(None, map(str.strip, text.split(","))))
    if not parts:
        raise typer.BadParameter(f"{text!r} names nothing")
    return parts


def numbers(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """``10, 25`` as two whole numbers of at least 1."""
    parts = names(text) if isinstance(text, str) else text
    if not all(str(part).isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"{text} is not whole numbers of at least 1")
    return tuple(map(int, parts))


def key_values(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise InputError(f"--set {text!r}: write key=value, such as --set n_codes=300")
    return dict(text.split("=", 1) for text in texts)


def file_name(text: str) -> str:
    """A task or model as part of a file's name: of a file its own without the ending."""
    path = Path(text)
    if path.suffix in (".json", ".jsonl", ".gguf"):
        return path.stem
    return "-".join(part for part in path.parts if part not in ("/", ".", ".."))


def default_folder(task: str, model: str | None, method: str) -> Path:
    """A model that was named is part of the name, so that no run replaces another model's.

    Of a method of one's own, ``file.py:function``, it is the function.
    """
    named = [] if model in (None, DEFAULT_MODEL, task) else [file_name(model)]
    return Path("runs") / "-".join([file_name(task), *named, method.rpartition(":")[2]])


def named(folder: Path) -> Path:
    """A folder by a name of its own, which ``.`` and ``..`` are not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def option(metavar: str, help: str, *names: str, **more: Any) -> Any:
    """Without names it is called what its parameter is."""
    return typer.Option(*names, metavar=metavar, help=help, **more)


def flag(names: str, help: str) -> Any:
    """``--this``, or ``--this/--that``."""
    return typer.Option(names, help=help)


def whole_option(*names: str, least: int = 1, most: int = MOST, help: str) -> Any:
    return option("INTEGER", help, *names, min=least, max=most)


def number_option(*names: str, help: str) -> Any:
    return option("NUMBER", help, *names, min=0, max=MOST)


def share_option(*names: str, help: str) -> Any:
    return option("SHARE", help, *names, min=0, max=1)


def pairs_option(least: int = 1, *, help: str) -> Any:
    return whole_option("--n", "-n", least=least, most=MOST_PAIRS, help=help)


def seed_option(drawn: str) -> Any:
    return whole_option("--seed", least=0, most=MOST_SEED, help=f"seed of {drawn}")


def context_option(usual: int) -> Any:
    """``--context``; a model that reads less than usual gets blocks as long as it reads."""
    default = f"default: {usual}, or the model's longest"
    return whole_option("--context", least=2, help=f"tokens per block of text, BOS included ({default})")


def model_option(help: str) -> Any:
    return option("MODEL", help, "--model", "-m")


# what typer hands over is not of its own subclass
if TYPE_CHECKING:
    from interp.executor import Shard, Workers
    from interp.prompts.pairs import Task

    Context = typer.Context
else:
    Context = typer.Context.__base__


JsonOption = Annotated[Path | None, option("FILE", "also write the result here; - for stdout", "--json")]


def check_json(path: Path | None, request: dict, *, overwrite: bool) -> None:
    """Refuse, before the work, a file of ``--json`` that must not be replaced."""
    from interp.files import check_file

    if path is not None and str(path) != "-":
        check_file(path, "--json", request=request, overwrite=overwrite)


def write_result(path: Path | None, request: dict, result: dict) -> bool:
    """Write a result where ``--json`` says; whether that is stdout, where nothing else belongs then."""
    from interp.files import write_json

    to_stdout = str(path) == "-"
    if to_stdout:
        typer.echo(json.dumps(result, allow_nan=False))
    elif path is not None:
        write_json(path, {"request": request, **result})
    return to_stdout


def spec_of(manifest: Mapping[str, Any], folder: Path) -> str:
    if (spec := manifest["model"]["spec"]) is None:
        raise InputError(f"{folder} does not say which model it is of: name it with --model")
    return spec


def request_of_command(context: Context) -> dict:
    """What was asked for, as JSON: all options but those of where it is written and how fast it is made."""
    left_out = {"out", "json_file", "overwrite", "device", "batch_size"}
    left_out |= {"workers", "cpus_per_worker", "gpus_per_worker", "shard"}
    return json.loads(json.dumps({k: v for k, v in context.params.items() if k not in left_out}, default=str))


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]
SomeModelOption = Annotated[str, model_option("embedded model, Hugging Face id, folder, .gguf file")]
FittedModelOption = Annotated[str | None, model_option("(default: the one they were fitted on)")]
ModelOption = Annotated[
    str | None,
    model_option(
        "embedded model, Hugging Face id, folder, .gguf file or planted model "
        f"(default: {DEFAULT_MODEL}; for a planted task its own model)"
    ),
]
DeviceOption = Annotated[str | None, option("DEVICE", "cpu, cuda, cuda:1 or mps; CUDA if there is one")]
Dtype = Literal["float32", "bfloat16", "float16"]
DtypeOption = Annotated[Dtype, option("DTYPE", "float32, bfloat16 or float16")]
BosOption = Annotated[bool, typer.Option(help="prepend the beginning-of-sequence token")]
_TEXTS = "stdlib, self, probes:NAME, a .txt/.jsonl file, a folder, datasets:NAME; joined with +"
TextOption = Annotated[str, option("TEXT", _TEXTS)]
BlocksOption = Annotated[int, whole_option("--batch-size", help="blocks of text per forward pass")]
CodesPerVectorOption = Annotated[int | None, whole_option("--k", "-k", help="codes per vector (default: as fitted)")]
CodebooksOption = Annotated[
    str,
    option(
        "NAME",
        "codebooks: shipped ones (smollm2-135m-instruct-k1 at heads, smollm2-135m-instruct-mlps-k1 at MLP "
        "outputs), a folder, or owner/name on the Hugging Face hub",
    ),
]
BatchOption = Annotated[int, whole_option("--batch-size", help="pairs per forward pass")]
PairsOption = Annotated[int | None, pairs_option(help="prompt pairs (default: the task's, or as many as a file has)")]
SeedOption = Annotated[int, seed_option("the prompts")]
CounterfactualOption = Annotated[
    str | None, option("KIND", "kind of corrupt prompt (interp tasks lists them; default: the first listed)")
]
OverwriteOption = Annotated[bool, flag("--overwrite", "replace a result of another request, or a file, that is there")]
WorkersOption = Annotated[
    str, option("WHERE", "serial, ray (the cluster of RAY_ADDRESS, else this machine), or ray://HOST:PORT")
]
CpusOption = Annotated[int, whole_option(help="CPUs, and threads, of each Ray worker")]
GpusOption = Annotated[float, number_option(help="GPUs of each Ray worker; a share lets several use one")]
ShardOption = Annotated[
    str | None, option("I/N", "do only this part of the work, for job arrays; the same command without it gathers them")
]


def task_and_model(task: str, model: str | None, counterfactual: str | None) -> tuple["Task", str]:
    """The task, and the spec of the model that was named, else of the task's own; checked."""
    from interp.prompts.sampling import check_counterfactual
    from interp.runs.discover import default_model
    from interp.tasks import load_task

    task_loaded = load_task(task)
    check_counterfactual(task_loaded, counterfactual)
    return task_loaded, default_model(task_loaded) if model is None else model


def where_to_run(
    workers: str, cpus: int, gpus: float, shard: str | None, device: str | None
) -> tuple["Workers", "Shard | None"]:
    """What the four options above say, checked; the device too, where the work runs here."""
    from interp.executor import Shard, Workers
    from interp.models import parse_device

    placement = Workers(workers, cpus, gpus)
    if placement.serial:
        parse_device(device)
    return placement, None if shard is None else Shard.parse(shard)
