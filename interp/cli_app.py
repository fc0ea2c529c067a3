"""``interp app``: the workbench in the browser."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from interp.options import DEFAULT_MODEL, whole_option

HERE = "127.0.0.1"


def workbench(
    port: Annotated[int, whole_option("--port", least=1, most=65535, help="port to listen on")] = 8501,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="address to listen on; anything but this machine's own is open"),
    ] = HERE,
    runs: Annotated[
        Path,
        typer.Option(metavar="DIR", envvar="INTERP_RUNS", help="folder whose runs are shown"),
    ] = Path("runs"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="model to read and steer", show_default=DEFAULT_MODEL
        ),
    ] = None,
) -> None:
    """Open the workbench in the browser; only this machine reaches it unless --host says otherwise."""
    from importlib.util import find_spec

    if host not in (HERE, "localhost", "::1"):
        typer.echo(
            f"warning: whoever reaches {host} can use the model and read {runs}: there is no password",
            err=True,
        )
    command = [sys.executable, "-m", "streamlit", "run", find_spec("interp.app.main").origin]
    command += ["--server.port", str(port), "--server.address", host]
    told = {"INTERP_RUNS": str(runs.absolute())} | ({} if model is None else {"INTERP_MODEL": model})
    # in the place of this process: whatever ends it ends the server
    os.execve(sys.executable, command, os.environ | told)
