"""A hostile afternoon that stays: what nobody should type, open, kill or link to, and what of it ends badly.

    python -m benchmarks.hostile [inputs files kills full together calls links tabs] [--seed 0] [--show]

Bad inputs are made from the commands themselves: every option and argument gets every hostile value of its type, so
that a new option is tried without anyone remembering, and a new command fails until :data:`BASE` says how it is
called. Damaged files are made from good ones: each value of the JSON in turn replaced, each tensor file cut or noisy.
Commands run on planted and tiny models, each in a process of its own that is forked from this one, as a user without
privileges. One rule judges them, see :func:`fault`. ``--show`` tells what went well, too.
"""

import ast
import contextlib
import ctypes
import inspect
import io
import itertools
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import stat
import struct
import sys
import tempfile
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import arguments
from interp import DEFAULT_MODEL
from interp.models.embedded import cache_folder

SECONDS = 40
"""After so many of a processor, or ten times as many in all, a command that should have refused hangs: the longest good
one here takes a tenth."""
MEMORY = 4 * 2**30
MODEL = "planted-induction"
CACHE = cache_folder()
ENV = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PIP_ARGS": "--no-index",
    "COLUMNS": "200",
}
TEXT = "--data text.txt --tokens 512 --context 16"
BASE = {
    "discover": f"{MODEL} -n 6",
    "program": "run",
    "grow": f"{MODEL} -n 6 --held-out 6",
    "why": "Mary,John,John, Mary,John,Mary, --model planted-inhibition --json new.json",
    "diff": f"{MODEL} {MODEL} --text text.txt --tokens 512 --codebooks books --json new.json",
    "validate": "run -n 6 --seeds 1",
    "export": "run --out new.json",
    "tasks": "",
    "tasks show": f"{MODEL} -n 6",
    "tasks export": f"{MODEL} new.json -n 6",
    "steer": f"--model {MODEL} --codebooks books --codes a0.h0=1 --tokens 4 --prompt B --json new.json",
    "codebook fit": f"--model {MODEL} --codes 8 --k 1 {TEXT} --out new",
    "codebook eval": "books --data text.txt --tokens 128 --controls 2 --json new.json",
    "codebook train": "books --data text.txt --tokens 512 --checkpoint-every 2 --out new",
    "codebook pack": "books --out new",
    "index build": f"--model {MODEL} --codebooks books {TEXT} --out new",
    "index explain": "index --endpoint http://127.0.0.1:1/v1 --asked m --codes a0.h0=1",
    "index info": "index",
    "index label": "index",
    "index export": "index --out new.parquet",
    "index search": "index --token B",
    "heads": "index",
    "bench": f"--tasks {MODEL} --methods random,attribution --pairs 5 --seeds 1 --out new",
    "bottlenecks": "",
    "sweep": "sweep.json --out new",
    "app": "--port 8999",
    "methods": "attribution",
    "reference": f"{MODEL} -n 6 --out new.safetensors",
    "report": "run",
    "compare": "run run2",
    "doctor": f"--model {MODEL}",
    "models": "",
    "models show": MODEL,
    "cache": "",
    "cache clear": "",
}
"""How each command is called when nothing is wrong. ``new`` is what it writes."""
OTHERWISE = {
    "why": [
        f"--task {MODEL} -n 2 --json new.json",
        "Mary,John,John, --proposed 2 --model planted-inhibition --out new --template new.json",
    ],
    "diff": ["model tuned --text text.txt --tokens 512 --context 16 --out new"],
    "export": ["run --layout circuit-tracer --out new.json", "explained --layout circuit-tracer --out new.json"],
    "heads": ["labelled --json new.json"],
    "steer": [
        f"--model {MODEL} --codebooks books --codes a0.h0=1 --add 2 --tokens 4 --prompt B --export new.gguf",
        f"--model {MODEL} --codebooks books --codes a0.h0=1 --tokens 4 --prompt B --vector vector.gguf --json new.json",
    ],
    "tasks show": ["template.json --model planted-inhibition -n 2"],
    "discover": ["template.json --model planted-inhibition -n 6 --out new"],
}
"""Other good calls of some commands: other inputs, and other files that they write."""
MADE = [
    "codebook fit --out books",
    " discover -n 8 --out run",
    " discover -n 6 --out run2 --no-program",
    " tasks export own.json",
    "\nindex build --out index",
    " reference --out good.safetensors",
    " bench --out bench",
    " codebook pack --out packed",
    "\ncodebook eval --json quality.json",
]
ALSO_MADE = [
    f"index build {BASE['index build'].replace('--out new', '--out labelled')}",
    "index label labelled",
    "why Mary,John,John, Mary,John,Mary, --model planted-inhibition --out explained",
    f"steer {OTHERWISE['steer'][0].replace('new.gguf', 'vector.gguf')}",
    f"steer {OTHERWISE['steer'][0].replace('new.gguf', 'vector.safetensors')}",
    "diff model tuned --text text.txt --tokens 512 --context 16 --no-patches --out changed",
]
TEMPLATE = {
    "templates": ["{IO},{S},{S},", "{S},{IO},{S},"],
    "values": {"IO": ["Mary", "John", "Paul", "Alice"], "S": "IO"},
    "answer": "{IO}",
    "wrong": "{S}",
    "corrupt": [{"name": "flip", "set": {"S@2": "{IO}"}, "answer": "{S}"}, {"IO": "*"}],
    "space": False,
}
INSTEAD = {"steer": ("--codes", "--topic", "--positive"), "index search": ("--token", "--regex", "--prompt", "--code")}
"""Options of which one is given: a hostile one takes the place of the good one."""
SIMPLE = ", - . .. / nope * nan -1 1e308 [bold]%s{0} ../../etc/passwd a99.h99 a:b x=1 é\u202e😀 caf�"
WORDS = [*SIMPLE.split(), "", " ", "9" * 25, "x" * 300, "a\nb", "'; rm -rf /", "a0.h0=" + "9" * 25]
OPENED = """
/dev/zero /dev/null /proc/self/mem /proc/none pipe pipe.json zero.txt zero.json zero.gguf secret.json secret.txt secret
sealed/new sealed noise.safetensors noise.gguf deep.json empty.jsonl empty.txt empty nul.json books index run text.txt
model loop own.json
"""
PLACES = OPENED.split()
HOSTILE: dict[Any, list[str]] = {
    int: ["", " ", "x", "1.5", "1e3", "nan", "-1", "0", "1000000000", str(2**63), "9" * 25, "0x10"],
    float: ["", " ", "x", "nan", "inf", "-inf", "-1", "1e308", "1e400", "9" * 400],
    str: [*WORDS, *PLACES],
    Path: [*WORDS, *PLACES],
    bool: ["=1"],
    Literal: ["", " ", "nope", "FLOAT32", "1"],
}
NEVER: dict[Any, set[str]] = {
    int: {"", " ", "x", "1.5", "1e3", "nan", "9" * 25, "0x10"},
    float: {"", " ", "x", "nan", "inf", "-inf", "1e400", "9" * 400},
    **{str: {""}, Path: {""}},
    **{kind: set(HOSTILE[kind]) for kind in (bool, Literal)},
}
"""Values that no option of the type may take."""
JSON_VALUES: list[Any] = [None, -1, 0, 10**7, 10**30, 1e308, math.nan, "", "x", "../../etc/passwd"]
JSON_VALUES += [[], {}, True, [[]]]


@dataclass(frozen=True)
class Outcome:
    """What a command left. ``code`` is negative if a signal ended it, ``None`` if it ran out of time."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def run(
    words: Sequence[str], folder: Path, *, kill_after: float | None = None, seconds: float = 10 * SECONDS, **limits: int
) -> Outcome:
    """A command in a process forked from this one."""
    return finish(*start(words, folder, **limits), folder, kill_after=kill_after, seconds=seconds)


def start(
    words: Sequence[str],
    folder: Path,
    most_bytes: int | None = None,
    mark: str = "",
    processor: int = resource.RLIM_INFINITY,
) -> tuple[int, str]:
    """The process's id, and by what its output is called."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid, mark
    code = 99
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder.parent / f"{name}{mark}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (processor, resource.RLIM_INFINITY))
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        cage(Path(os.environ["HOME"]))
        os.execve = lambda *_: os._exit(0)  # type: ignore[assignment] - the workbench would serve
        code = 0
        from interp.cli.main import main as command_line

        sys.argv = ["interp", *words]
        command_line()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def cage(folder: Path) -> None:
    """From now on this process and its children write nowhere else (Landlock), and are no root: what is tried here
    would in time replace a device or fill the root folder.

    Raises:
        OSError: this system has no Landlock, as Linux before 6.2.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    writing = 0b111111111110010  # all but to execute, to read a file and to read a folder
    rules = libc.syscall(444, ctypes.byref(ctypes.c_uint64(writing)), ctypes.c_size_t(8), 0)
    scratch = folder.parent / f"{folder.name}.tmp"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    for place, allowed in ((folder, writing), (scratch, writing), (Path("/dev/null"), 0b10)):
        handle = os.open(place, os.O_PATH)
        rule = struct.pack("=Qi", allowed, handle)
        libc.syscall(445, rules, 1, rule, 0)
        os.close(handle)
    libc.prctl(38, 1, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if rules < 0 or libc.syscall(446, rules, 0) or libc.capset(header, none):
        raise OSError("this needs Linux with Landlock, by which nothing outside of one folder can be written")
    os.close(rules)


def finish(
    pid: int, mark: str, folder: Path, *, kill_after: float | None = None, seconds: float = 10 * SECONDS
) -> Outcome:
    began, status, late = time.monotonic(), None, False
    while status is None:
        done, wait_status = os.waitpid(pid, os.WNOHANG)
        took = time.monotonic() - began
        if done:
            status = wait_status
        elif took > (seconds if kill_after is None else kill_after):
            late = kill_after is None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        else:
            time.sleep(0.002)
    out, err = ((folder.parent / f"{name}{mark}").read_text(errors="replace") for name in ("out", "err"))
    return Outcome(None if late else os.waitstatus_to_exitcode(status), out, err, time.monotonic() - began)


Tree = Mapping[str, tuple[int, int, int]]


def tree(folder: Path) -> Tree:
    """Everything in a folder by size, time and kind; links and devices are not followed."""
    entries = {}
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            file_status = os.lstat(os.path.join(at, name))
            size = (0, 0) if stat.S_ISDIR(file_status.st_mode) else (file_status.st_size, file_status.st_mtime_ns)
            entries[os.path.relpath(os.path.join(at, name), folder)] = (*size, stat.S_IFMT(file_status.st_mode))
    return entries


def fault(outcome: Outcome, before: Tree, folder: Path, *, never: bool = False) -> str | None:
    """What is wrong with how a command ended; None if nothing is.

    It refuses: status 1 or 2, one line that begins with ``error:``, and every file as it was. Or it does what was
    asked: status 0, whole files. No traceback, no signal, no time or memory without end.

    Args:
        never: whether it must not have done what was asked.
    """
    if outcome.code in (None, -signal.SIGXCPU):
        return "hangs"
    if "Traceback (most recent call last)" in outcome.err + outcome.out:
        return "traceback: " + outcome.err.strip().rpartition("\n")[2][:150]
    if outcome.code < 0:
        return f"ended by signal {-outcome.code}"
    if "out of memory" in outcome.err:
        return "takes memory without end"
    after = tree(folder)
    if outcome.code == 0:
        if never:
            return "accepted"
        return next(filter(None, map(partial(_unsound, folder), sorted(set(after) - set(before)))), None)
    lines = outcome.errors
    if outcome.code == 1 and "\nFAIL " in outcome.out and not outcome.err:
        lines = ["error: what the doctor says"]
    if outcome.code not in (1, 2) or len(lines) != 1 or len(lines[0]) > 1000:
        return f"status {outcome.code}, {len(lines)} lines of error: {outcome.err[-200:]!r}"
    changed = sorted(name for name in {*after, *before} if after.get(name) != before.get(name))
    changed = [name for name in changed if not name.endswith("log.jsonl")]  # which says what was tried
    if changed:
        return f"refused, but left {', '.join(changed[:3])}"
    return None


def _unsound(folder: Path, name: str) -> str | None:
    from safetensors import safe_open

    path = folder / name
    if path.name.startswith(".") and ".cache" not in name and not name.endswith(".lock"):
        return f"left {name}"
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(), parse_constant=lambda text: text + 1)
        elif path.suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                file.keys()
    except Exception as error:
        return f"{name} is not whole: {error!r}"
    return None


class World:
    """A folder with one good thing of every kind and some bad ones; what a command did to it is undone."""

    def __init__(self, parent: Path) -> None:
        self.pristine, self.folder = parent / "pristine", parent / "work" / "desk"
        (parent / "work").mkdir(parents=True)
        self.pristine.mkdir()
        os.environ.update(ENV, HOME=str(parent), INTERP_CACHE=str(parent / "cache"))
        place = self.pristine
        documents = ("\n".join(f"the {i} of {j} B A C" for j in range(20)) for i in range(120))
        (place / "text.txt").write_text("\n\n".join(documents))
        sweep = {"tasks": [MODEL], "methods": ["random"], "options": {"n": 6}}
        (place / "sweep.json").write_text(json.dumps(sweep))
        (place / "template.json").write_text(json.dumps(TEMPLATE))
        from tests.tiny_models import make_tiny

        make_tiny("llama", place / "model")
        _tuned(place / "model", place / "tuned")
        for line in MADE:
            self.make(line.strip(), place)
        for line in ALSO_MADE:
            self.do(line.split(), place)
        _bad_files(place)
        self.reset()

    def make(self, line: str, folder: Path) -> None:
        name = next(name for name in sorted(BASE, key=len, reverse=True) if line.startswith(name))
        more = line.removeprefix(name).split()
        base = [word for word in BASE[name].split() if word != "new.json" or name != "tasks export"]
        self.do([*name.split(), *base, *more], folder)

    def do(self, words: Sequence[str], folder: Path) -> None:
        done = run(words, folder, seconds=600)
        if done.code != 0:
            sys.exit(f"interp {' '.join(words)}: {done.code} {done.err}")

    def reset(self) -> Tree:
        """As it was; asked only if something changed."""
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.folder / "sealed", 0o755)
            shutil.rmtree(self.folder)
        for path in self.folder.parent.iterdir():  # which a command that writes to .. has made
            if path != self.folder and not re.fullmatch(r"(out|err)\d?", path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.pristine, self.folder, symlinks=True)
        for name in ("pipe", "pipe.json"):
            os.mkfifo(self.folder / name)
        for name, mode in {"secret": 0, "secret.json": 0, "secret.txt": 0, "sealed": 0o555}.items():
            os.chmod(self.folder / name, mode)
        self.now = tree(self.folder)
        return self.now

    def judged(self, attempt: "Try") -> tuple[Outcome, str | None]:
        before = self.now
        if attempt.spoil is not None:
            attempt.spoil(self.folder)
            before = tree(self.folder)
        outcome = run(attempt.words, self.folder, processor=SECONDS)
        wrong = fault(outcome, before, self.folder, never=attempt.never)
        if tree(self.folder) != self.now:
            self.reset()
        return outcome, wrong


def _tuned(model: Path, tuned: Path) -> None:
    """The model with other weights."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, tuned)
    weights = load_file(tuned / "model.safetensors")
    torch.manual_seed(0)
    changed = {name: weight + 0.1 * torch.randn_like(weight) for name, weight in weights.items()}
    save_file(changed, tuned / "model.safetensors", {"format": "pt"})


def _bad_files(place: Path) -> None:
    noise = random.Random(0).randbytes(3000)
    for name in ("noise.safetensors", "noise.gguf"):
        (place / name).write_bytes(noise)
    (place / "deep.json").write_text(DEEP)
    (place / "nul.json").write_bytes(b'{"prompts": [{"clean": "\x00"}]}\x00')
    for name in ("empty.jsonl", "empty.txt", "secret.json", "secret.txt"):
        (place / name).touch()
    for name in ("secret", "sealed", "empty"):
        (place / name).mkdir()
    for ending in (".txt", ".json", ".gguf"):
        (place / f"zero{ending}").symlink_to("/dev/zero")
    (place / "loop").symlink_to("loop")


class Try(typing.NamedTuple):
    """One thing to try: what it is called, what is run, whether it must be refused, and what is spoilt before."""

    name: str
    words: Sequence[str]
    never: bool = False
    spoil: Callable[[Path], object] | None = None


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line that does something, by its words."""
    import typer

    from interp.cli.main import app

    def walk(command: Any, names: tuple[str, ...], parent: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "list_commands"):
            yield " ".join(names), command
            return
        context = command.context_class(command, info_name="interp", parent=parent)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*names, name), context)

    return walk(typer.main.get_command(app), (), None)


def kind_of(hint: Any) -> Any:
    """int, float, bool, Path or str, which words with a parser of their own are too; Literal for choices."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    return Literal if typing.get_origin(hint) is Literal else hint if hint in HOSTILE else str


def inputs(_world: World, _seed: int) -> Iterator[Try]:
    """Every option and argument of every command with every hostile value of its type."""
    for (name, command), good in (
        (named, good) for named in commands() for good in (BASE[named[0]], *OTHERWISE.get(named[0], ()))
    ):
        hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        base = good.split()
        arguments = [p.name for p in command.params if p.param_type_name == "argument"]
        n_given = next((i for i, word in enumerate(base) if word.startswith("-")), len(base))
        for parameter in command.params:
            if parameter.name not in hints:
                continue
            kind = kind_of(hints[parameter.name])
            for value in HOSTILE[kind]:
                never, given, words = value in NEVER[kind], base[:n_given], base[n_given:]
                if parameter.name in arguments:
                    at = arguments.index(parameter.name)
                    given[at : at + 1] = [value]
                elif kind is bool:
                    words.append(f"{parameter.opts[0]}{value}")
                else:
                    if parameter.opts[0] in INSTEAD.get(name, ()):
                        for other in INSTEAD[name]:
                            if other in words:
                                del words[words.index(other) : words.index(other) + 2]
                    words += [parameter.opts[0], value]
                yield Try(f"{name} {parameter.opts[0]} {value[:40]!r}", [*name.split(), *words, "--", *given], never)


SEARCH, SHOW = "index search index --token B", "models show model"
FILES = {
    "own.json": (f"tasks show own.json --model {MODEL} -n 6", f"discover own.json --model {MODEL} -n 6"),
    "run/run.json": ("report run", "program run", "export run --out new.json", "compare run run2", "validate run -n 6"),
    "run/scores.safetensors": ("report run", "compare run2 run"),
    "good.safetensors": ("reference good.safetensors", f"discover {MODEL} -n 6 --reference good.safetensors"),
    "books/manifest.json": ("codebook pack books --out new", "index search index --token B"),
    "books/a0/*": ("codebook pack books --out new", f"steer {BASE['steer']}"),
    "packed/*": ("codebook eval packed --data text.txt --tokens 128 --controls 0",),
    "index/*": (SEARCH, "index info index", "index search index --code a0.h0=1"),
    "bench/bench.json": (f"bench {BASE['bench']} --out bench",),
    "bench/*/*/*": (f"bench {BASE['bench']} --out bench",),
    "model/*": (SHOW,),
    "template.json": tuple(
        f"{command} template.json --model planted-inhibition -n 2" for command in ("tasks show", "why --task")
    ),
    "explained/why.json": ("export explained --layout circuit-tracer --out new.json",),
    "vector.gguf": (f"steer {OTHERWISE['steer'][1]}",),
    "vector.safetensors": (f"steer {OTHERWISE['steer'][1].replace('.gguf', '.safetensors')}",),
    "labelled/labels.parquet": ("heads labelled", "index search labelled --token B"),
    "tuned/*": (f"diff {OTHERWISE['diff'][0]}",),
    "text.txt": (
        f"diff {OTHERWISE['diff'][0]}",
        f"codebook fit {BASE['codebook fit']}",
        f"steer {BASE['steer'].replace('--codes a0.h0=1', '--positive text.txt')}",
    ),
}
"""Files of the world, and commands that read them."""


DAMAGE: dict[str, Callable[[Path], object]] = {
    "closed": lambda file: file.chmod(0),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "endless": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a loop": lambda file: (file.unlink(), file.symlink_to(file.name)),
    "missing": lambda file: file.unlink(),
}
"""What is done to files of every kind."""
DEEP = "[" * 50_000 + "]" * 50_000


def files(world: World, seed: int) -> Iterator[Try]:
    """Every file that a command reads, cut, noisy, closed, endless or with another value in it."""
    draw = random.Random(seed)
    for pattern, lines in FILES.items():
        for path in sorted(world.pristine.glob(pattern)):
            name = str(path.relative_to(world.pristine))
            changed = ((how, partial(Path.write_bytes, data=data)) for how, data in _spoilt(path, draw))
            for how, spoil in itertools.chain(DAMAGE.items(), changed):
                line = draw.choice(lines)
                yield Try(f"{name} {how}", line.split(), spoil=partial(_with, name, spoil))
    for how, spoil in MODELS.items():
        yield Try(f"model {how}", SHOW.split(), True, partial(_with, "model", spoil))


def _with(name: str, spoil: Callable[[Path], object], folder: Path) -> None:
    spoil(folder / name)


def _spoilt(path: Path, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """What a file may hold in place of what it holds."""
    whole = path.read_bytes()
    for size in (0, 1, *(draw.randrange(len(whole)) for _ in range(4))):
        yield f"cut to {size}", whole[:size]
    for _ in range(4):
        noisy = bytearray(whole)
        for at in draw.choices(range(min(len(whole), 4000)), k=8):
            noisy[at] = draw.randrange(256)
        yield "noisy", bytes(noisy)
    if path.suffix == ".json":
        document = json.loads(whole)
        places = [place for place, _ in _places(document)]
        for place in places[:1] + draw.sample(places, min(40, len(places))):
            value = draw.choice(JSON_VALUES)
            yield (f"{'.'.join(map(str, place))} is {value!r}", json.dumps(_changed(document, place, value)).encode())
        deep = json.dumps(_changed(document, draw.choice(places), "DEEP"))
        yield "deep", deep.replace('"DEEP"', DEEP).encode()
    if path.suffix == ".safetensors":
        yield from _spoilt_tensors(path, draw)
    if path.suffix == ".npy":
        yield from _spoilt_array(path)


def _places(document: Any, at: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Where in a document of JSON values stand, and the values."""
    yield at, document
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from _places(value, (*at, key))


def _changed(document: Any, at: tuple, value: Any) -> Any:
    if not at:
        return value
    copy = document.copy()
    copy[at[0]] = _changed(document[at[0]], at[1:], value)
    return copy


def _spoilt_tensors(path: Path, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in draw.sample(sorted(tensors), min(4, len(tensors))):
        tensor = tensors[name]
        for how, value in {
            "of int8": np.ones(tensor.shape, np.int8),
            "of numbers that are none": np.full(tensor.shape, np.nan, np.float32),
            "empty": tensor.reshape(-1)[:0],
            "of another shape": np.zeros((3, *tensor.shape), tensor.dtype),
            "huge": np.full_like(tensor, 10**9 if tensor.dtype.kind == "f" else np.iinfo(tensor.dtype).max),
        }.items():
            yield f"{name} {how}", save({**tensors, name: value}, metadata)
        yield f"without {name}", save({key: other for key, other in tensors.items() if key != name}, metadata)
    for key in metadata or ():
        for value in (DEEP, "{}", "null", '{"a": NaN}'):
            yield f"{key} of its header {value[:9]}", save(tensors, metadata | {key: value})


def _spoilt_array(path: Path) -> Iterator[tuple[str, bytes]]:
    import numpy as np

    array = np.load(path)
    largest = np.frombuffer(b"\x7f" * array.nbytes, np.uint8).view(array.dtype).reshape(array.shape)
    for how, value in {
        "of the largest bytes": largest,
        "of zeros": np.zeros_like(array),
        "of other numbers": array.astype(np.float64),
    }.items():
        np.save(written := io.BytesIO(), value)
        yield how, written.getvalue()


def _pickled(model: Path) -> None:
    import torch

    torch.save({"lm_head.weight": torch.zeros(2)}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def _split(model: Path, place: str) -> None:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.keys(), place)}  # noqa: SIM118
    (model / "model.safetensors").rename(model.parent / "elsewhere.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


MODELS: dict[str, Callable[[Path], object]] = {
    "with pickled weights alone": _pickled,
    "with weights of the folder above": partial(_split, place="../elsewhere.safetensors"),
    "with weights of a whole path": lambda model: _split(model, str(model.parent / "elsewhere.safetensors")),
    "with weights that are not there": partial(_split, place="none.safetensors"),
}


LONG = {
    "reference": f"{MODEL} -n 40 --batch-size 8 --out new.safetensors",
    **{name: BASE[name] for name in ("codebook fit", "codebook train", "index build", "steer", "index label")},
    "grow": f"{BASE['grow']} --out grown.json",
    "why": OTHERWISE["why"][0],
    "diff": OTHERWISE["diff"][0],
    "export": OTHERWISE["export"][0],
    "index export": BASE["index export"],
    "validate": "run -n 6 --seeds 0",
    **{name: BASE[name] for name in ("discover", "bench")},
}
"""Commands that are killed, run out of disk and meet themselves."""
SLOW = ("validate", "discover", "bench")


class Made:
    """What a command makes if nobody disturbs it; made twice, so that what differs by itself is known."""

    def __init__(self, world: World, name: str) -> None:
        self.name, self.words, self.world = name, [*name.split(), *LONG[name].split()], world
        first, second = self._alone(), self._alone()
        self.same = {key for key in first if first[key] == second.get(key)}
        self.leaves, self.keys = first, set(first)

    def _alone(self) -> dict:
        self.world.reset()
        outcome = run(self.words, self.world.folder, seconds=600)
        if outcome.code != 0:
            sys.exit(f"interp {' '.join(self.words)}: {outcome.code} {outcome.err}")
        self.seconds = outcome.seconds
        self.sizes = [size for size, _, kind in tree(self.world.folder).values() if stat.S_ISREG(kind)]
        return leaves(self.world)

    def fault(self, *, again: bool = True) -> str | None:
        """What is wrong with what lies there after the same command was run to its end."""
        if again:
            outcome = run(self.words, self.world.folder, seconds=600)
            if outcome.code != 0:
                return f"did not go on: {outcome.code} {outcome.err[-300:]!r}"
        there = leaves(self.world)
        if set(there) != self.keys:
            return f"other things than undisturbed: {sorted(map(str, set(there) ^ self.keys))[:3]}"
        wrong = sorted(str(key) for key in self.same if there[key] != self.leaves[key])
        return f"not as undisturbed: {wrong[:3]}" if wrong else None


def turns(world: World, n: int) -> Iterator[Made]:
    """Each of the long commands in turn, quick ones three times as often as slow ones."""
    order = sorted(LONG, key=lambda name: name in SLOW)
    shares = [1 if name in SLOW else 3 for name in order]
    ends = [round(n * part / sum(shares)) for part in itertools.accumulate(shares)]
    for name, begin, end in zip(order, [0, *ends], ends, strict=False):
        if end > begin:
            yield from itertools.repeat(Made(world, name), end - begin)


def leaves(world: World) -> dict[tuple, Any]:
    """All that commands wrote, value by value, without what a killed process could not delete: temporary files."""
    from safetensors.numpy import load_file

    contents: dict[tuple, Any] = {}
    for name, entry in tree(world.folder).items():
        if name in world.now or not stat.S_ISREG(entry[2]) or any(map(TEMPORARY.fullmatch, Path(name).parts)):
            continue
        path = world.folder / name
        if path.suffix == ".json":
            for place, value in _places(json.loads(path.read_text())):
                if "seconds" not in place:
                    contents[name, *place] = type(value) if isinstance(value, dict | list) else value
        elif path.suffix == ".safetensors":
            contents |= {(name, key): (value.shape, value.tobytes()) for key, value in load_file(path).items()}
        else:
            contents[(name,)] = path.read_bytes()
    return contents


TEMPORARY = re.compile(r"\..*\.\w{8}|.*\.lock")


def kills(world: World, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Each long command ended by SIGKILL at moments drawn evenly over its time, then run again."""
    draw = random.Random(seed)
    for made in turns(world, n):
        world.reset()
        after = draw.uniform(0, made.seconds)
        outcome = run(made.words, world.folder, kill_after=after)
        yield (
            f"{made.name} after {after:.2f} of {made.seconds:.2f} s ({outcome.code})",
            made.fault(again=outcome.code != 0),
        )


def full(world: World, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Each long command on a disk that holds no file of more than so many bytes, then on one with room.

    What it says goes to such a file as well, so there are at least 4 096.
    """
    draw = random.Random(seed)
    for made in turns(world, n):
        before = world.reset()
        most = int(2 ** draw.uniform(12, math.log2(max(made.sizes))))
        outcome = run(made.words, world.folder, most_bytes=most)
        left = [path for path in set(tree(world.folder)) - set(before) if TEMPORARY.fullmatch(Path(path).name)]
        wrong = None
        if "Traceback" in outcome.err or not (
            outcome.code == 0 or (outcome.code in (1, 2) and len(outcome.errors) == 1)
        ):
            wrong = f"status {outcome.code}: {outcome.err[-300:]!r}"
        elif outcome.code and [path for path in left if not path.endswith(".lock")]:
            wrong = f"left {left}"
        yield f"{made.name} with {most} bytes", wrong or made.fault()


def together(world: World, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Each long command in two processes on one folder at once: both end well or with one line, and one does."""
    draw = random.Random(seed)
    for made in turns(world, n):
        world.reset()
        first = start(made.words, world.folder, mark="1")
        time.sleep(draw.uniform(0, made.seconds))
        second = start(made.words, world.folder, mark="2")
        both = [finish(*process, world.folder, seconds=600) for process in (first, second)]
        wrong = next(
            (
                f"{outcome.code} {outcome.err[-300:]!r}"
                for outcome in both
                if "Traceback" in outcome.err or outcome.code not in (0, 2)
            ),
            None,
        )
        if all(outcome.code for outcome in both):
            wrong = f"neither did it: {both[0].err!r} {both[1].err!r}"
        yield f"{made.name} twice ({both[0].code}, {both[1].code})", wrong or made.fault(again=False)


APP = Path(__file__).parent.parent / "app"
MARKUP = [
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](http://a.example/x)",
]


IN_VARIABLES = {"codes": ("code", "q"), "why": ("a", "b", "answer", "instead", "chat")}
"""Names that the source of a page does not call literally."""


def parameters(view: Path) -> list[str]:
    """What addresses of a page say, as its source has it: keys of fields bound to the address, and names looked up."""
    names = set(IN_VARIABLES.get(view.name, ()))
    for path in (*view.rglob("*.py"), *(APP / "widgets").glob("*.py")):
        module = ast.parse(path.read_text())
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                named = {word.arg: word.value for word in node.keywords}
                if "bind" in named and isinstance(named.get("key"), ast.Constant):
                    names.add(named["key"].value)
                if "query_params" in ast.unparse(node.func) and node.args and isinstance(node.args[0], ast.Constant):
                    names.add(node.args[0].value)
            if isinstance(node, ast.Subscript) and "query_params" in ast.unparse(node.value):
                names |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
    return sorted(names)


BESIDE = [
    *(
        {"view": "codes", **more}
        for more in ({}, {"code": "a0.h0=1"}, {"q": "B"}, {"search": "prompt", "prompt": "B A"})
    ),
    *({"view": "steering", "source": source} for source in ("by name", "of a topic", "from texts")),
    *({"view": "circuit", "run": "run", **more} for more in ({}, {"head": "a0.h3"}, {"with": "run2"})),
    *({"view": "evaluation", "show": show} for show in ("Methods", "Codebooks", "Steering")),
    *({"view": "why", **more} for more in ({}, {"a": "B A C", "b": "B C A"})),
    *({"view": "changes", **more} for more in ({}, {"changes": "changed"})),
    *({"view": "live"}, {"view": "live", "text": "A B C"}, {"view": "start"}),
]
"""What an address says beside what is hostile in it, so that every part of a page is drawn."""


def workbench(world: World) -> Callable[..., Any]:
    """Opens a page in a tab of its own, as the server would, with what an address says."""
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    config.set_option("runner.magicEnabled", False)
    logging.getLogger("streamlit").setLevel(logging.ERROR)
    os.environ.update(INTERP_MODEL=MODEL, INTERP_RUNS=str(world.folder))

    def open_page(view: str, **address: str) -> Any:
        tab = AppTest.from_file(str(APP / "pages.py"), default_timeout=10 * SECONDS).run()
        tab.switch_page(f"{view}/page.py")
        for name, value in address.items():
            tab.query_params[name] = value
        return tab.run()

    return open_page


def links(world: World, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Pages opened by addresses with hostile values of one to four of what they read."""
    draw, open_page = random.Random(seed), workbench(world)
    names = {path.parent.name: parameters(path.parent) for path in APP.glob("*/page.py")}
    values = [*WORDS, *PLACES, *HOSTILE[int], *MARKUP, *["inf", "-1e400", "a0.h0=1", "run", "index", "books", "0"]]
    values = [value for value in values if value.isprintable()]  # of others no address can be made
    for i in range(n):
        address = dict(BESIDE[i % len(BESIDE)])
        view = address.pop("view")
        chosen_names = draw.sample(names[view], min(draw.randint(1, 4), len(names[view])))
        address |= {name: draw.choice(values) for name in chosen_names}
        world.reset()
        try:
            tab = open_page(view, **address)
            wrong = tab.exception[0].message if tab.exception else _live_markup(tab)
        except Exception as error:
            wrong = repr(error)
        if tree(world.folder) != world.now:
            wrong = "a link changed files"
        yield f"{view} {address}", wrong


def _live_markup(tab: Any) -> str | None:
    """Whether what an address says got into the page as HTML."""
    html = [element.proto.body for element in tab.get("html") if hasattr(element.proto, "body")]
    html += [element.value for element in tab.markdown if element.proto.allow_html]
    return next((f"live markup: {text[:100]}" for text in html if re.search("<script>alert|onerror=alert", text)), None)


def tabs(
    world: World, n: int, seed: int, spec: str = MODEL, source: str | None = None
) -> Iterator[tuple[str, str | None]]:
    """What two tabs ask of the one model of the workbench at the same time, one that reads and one that steers.

    Each has to get what a model of its own says. The codebooks are shipped ones or of the world's folder.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from interp.bottlenecks.attach import attach
    from interp.bottlenecks.edits import SetCode, WeightedCode
    from interp.bottlenecks.store import Codebooks
    from interp.codesearch.token_codes import read_codes
    from interp.models import load_model
    from interp.steering import SteeringRequest
    from interp.steering.continuations import continue_prompts, encode_prompts

    workbench(world)
    world.reset()
    os.environ.update(INTERP_MODEL=spec, INTERP_CACHE=str(CACHE))
    from interp.app import engine
    from interp.app.live.token_codes import read
    from interp.app.steering.job import compare

    folder, draw, reference_model = source or world.folder / "books", random.Random(seed), load_model(spec)
    theirs, books = (Codebooks.from_pretrained(folder, model) for model in (engine.model(), reference_model))

    def words() -> str:
        return " ".join(draw.choices("ABCDEFG", k=draw.randint(2, 6)))

    def texts(request: SteeringRequest) -> list:
        [(site, code, _)] = request.codes
        within = attach(reference_model, books, read=False).edit(SetCode(site, code, rows=[1]), seed=request.seed)
        prompts, seed = list(request.prompts) * 2, request.seed
        return [
            continuation.tokens
            for continuation in continue_prompts(reference_model, prompts, request.n_tokens, within=within, seed=seed)
        ]

    for _ in range(n // 2):
        text, site = (
            words(),
            f"a{draw.randrange(reference_model.cfg.n_layers)}.h{draw.randrange(reference_model.cfg.n_heads)}",
        )
        codes = (WeightedCode(site, draw.randrange(8)),)
        request = SteeringRequest((words(),), codes, n_tokens=12, seed=draw.randrange(99))
        with ThreadPoolExecutor(2) as both:
            reading, steering = (
                both.submit(read, folder, theirs, text),
                both.submit(compare, theirs, request, lambda *_: None),
            )
        expected = read_codes(reference_model, books, torch.tensor(encode_prompts(reference_model, [text])[0]))
        same = all(
            (expected[name].ids[-len(site_codes.ids) :] == site_codes.ids).all()
            for name, site_codes in reading.result().codes.items()
        )
        yield f"live {text}", None if same else "other codes than of a model of its own"
        steered_tokens, wanted = [comparison.text.tokens for comparison in steering.result()], texts(request)
        yield (
            f"steering {request.codes} {request.prompts}",
            None if steered_tokens == wanted else f"{steered_tokens}, not {wanted}",
        )


def calls(world: World, n: int, seed: int) -> Iterator[tuple[str, str | None]]:  # noqa: ARG001
    """Python calls with what people take for a model, a site, a code: each ends in an InputError of one line."""
    import torch

    import interp
    from interp.bottlenecks.fit import FitConfig, fit_codebooks
    from interp.errors import InputError
    from interp.models.generate import generate
    from interp.text import TextBlocks

    m, t = (interp.load_model(MODEL), TextBlocks(torch.zeros(16, 16, dtype=torch.long), "zeros", "train", 0, 16))
    b = interp.Codebooks.from_pretrained(world.pristine / "books", m)
    tokens = torch.tensor([[1, 2, 3]])
    tried: dict[str, Callable[[], object]] = {
        "a model's name to attach": lambda: interp.attach(MODEL, b),
        "no model to attach": lambda: interp.attach(None, b),
        "no bottlenecks": lambda: interp.attach(m, {}),
        "one bottleneck without its site": lambda: interp.attach(m, b["a0"]),
        "a path for a bottleneck": lambda: interp.attach(m, {"a0": "books"}),
        "a number for a site": lambda: interp.attach(m, {0: b["a0"]}),
        "a text for an edit": lambda: interp.attach(m, b).edit("a0.h0=1"),
        "a code that is a text": lambda: interp.attach(m, b).edit(interp.SetCode("a0.h0", "1")),
        "slots below 0": lambda: interp.attach(m, b).edit(interp.SetCode("a0.h0", 1, slots=-1)),
        "no positions": lambda: interp.attach(m, b).edit(interp.SetCode("a0.h0", 1), positions=None),
        "no seed of edits": lambda: interp.attach(m, b).edit(interp.SetCode("a0.h0", 1), seed=None),
        "a scale that is a text": lambda: interp.attach(m, b).edit(interp.AddCode("a0.h0", 1, scale="2")),
        "a model's name to generate": lambda: generate(MODEL, tokens, 2),
        "tokens as a list": lambda: generate(m, [[1, 2, 3]], 2),
        "tokens as floats": lambda: generate(m, tokens.float(), 2),
        "an empty mask": lambda: generate(m, tokens, 2, attention_mask=torch.zeros_like(tokens)),
        "no number of new tokens": lambda: generate(m, tokens, None),
        "a seed too large to generate": lambda: generate(m, tokens, 2, temperature=1.0, seed=2**70),
        "a model's name to fit": lambda: fit_codebooks(MODEL, ["heads"], t, None),
        "every site at once": lambda: fit_codebooks(m, ["*"], t, None),
        "codes without end": lambda: FitConfig(n_codes=10**20),
        "a seed too large to fit": lambda: FitConfig(seed=2**32),
        "k as a text": lambda: b["a0"].with_k("1"),
        "no model to search": lambda: interp.find_circuit(None, MODEL, n=6),
        "no seed": lambda: interp.find_circuit(m, MODEL, n=6, seed=None),
        "a seed too large": lambda: interp.find_circuit(m, MODEL, n=6, seed=2**32),
        "pairs without end": lambda: interp.find_circuit(m, MODEL, n=10**9),
        "a budget without end": lambda: interp.find_circuit(m, MODEL, n=6, config={"budget": 1e308}),
    }
    for name, call in list(tried.items())[:n]:
        wrong: str | None = "accepted"
        try:
            call()
        except InputError as error:
            wrong = f"not one line: {error}" if "\n" in str(error) or len(str(error)) > 300 else None
        except Exception as error:
            wrong = repr(error)
        yield name, wrong


def preload() -> None:
    """Import whatever commands do, so that no process that is forked waits for it."""
    import importlib
    import pkgutil

    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch

    import interp
    import interp.programs.program as programs

    torch.set_num_threads(1)
    programs.FIT_PAIRS, programs.JUDGE_PAIRS = 40, 20
    for module in pkgutil.walk_packages(interp.__path__, "interp."):
        if not module.name.startswith(("interp.app", "interp.__main__")):
            importlib.import_module(module.name)
    from interp.models import load_model

    load_model(MODEL)("B A")  # no gradient: threads that autograd starts would be lost in a fork


def judged(
    make: Callable[[World, int], Iterator[Try]], world: World, n: int, seed: int
) -> Iterator[tuple[str, str | None]]:
    """Of all that can be tried so much, drawn at random."""
    tries = list(make(world, seed))
    for i in sorted(random.Random(seed).sample(range(len(tries)), min(n, len(tries)))):
        outcome, wrong = world.judged(tries[i])
        yield f"{outcome.seconds:.1f} s  {tries[i].name}  {' '.join(tries[i].words)[:200]!r}", wrong


PARTS: dict[str, tuple[int, Callable[..., Iterator[tuple[str, str | None]]]]] = {
    "inputs": (1200, partial(judged, inputs)),
    "files": (650, partial(judged, files)),
    "kills": (260, kills),
    "full": (57, full),
    "together": (35, together),
    "calls": (28, calls),
    "links": (200, links),
    "tabs": (100, tabs),
    "tabs of SmolLM2": (100, partial(tabs, spec=DEFAULT_MODEL, source=f"{DEFAULT_MODEL}-k1")),
}
"""How much is tried of each, and how."""


def main() -> None:
    parts = {"nargs": "*", "metavar": "PART[=N]", "help": f"of {', '.join(PARTS)}; N of them"}
    options = arguments(__doc__, {"parts": parts}, seed=0, show=False)
    chosen = [part.partition("=") for part in options.parts or PARTS]
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        tempfile.tempdir = os.environ["TMPDIR"] = name
        os.environ.update(ENV)  # some of it is read on import
        preload()
        world = World(Path(name) / "world")
        for part, _, n in sorted(chosen, key=lambda words: [*PARTS].index(words[0])):
            (size, tries), tried, wrong = PARTS[part], 0, 0
            for what, fault in tries(world, int(n or size), options.seed):
                tried, wrong = tried + 1, wrong + (fault is not None)
                if fault or options.show:
                    print(f"{part}: {what}: {fault or 'right'}", flush=True)
            failed += wrong
            print(f"{part}: {tried} tried, {wrong} failed", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
