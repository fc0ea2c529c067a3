"""``interp app``: the workbench in the browser."""

import errno
import os
import socket
import sys
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import DEFAULT_MODEL, named, option, whole_option
from interp.errors import InputError

HERE = "127.0.0.1"
OWN_NAMES = (HERE, "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
RUNS = Path("runs")


def workbench(
    port: Annotated[int, whole_option("--port", least=1, most=65535, help="port to listen on")] = 8501,
    host: Annotated[
        list[str],
        typer.Option(
            metavar="ADDRESS",
            help="address to listen on; anything but this machine's own is open. Again: another name to answer to",
        ),
    ] = [HERE],  # noqa: B006
    runs: Annotated[Path, typer.Option(metavar="DIR", envvar="INTERP_RUNS", help="folder whose runs are shown")] = RUNS,
    model: Annotated[
        str | None, option("MODEL", "model to read and steer", "--model", "-m", show_default=DEFAULT_MODEL)
    ] = None,
) -> None:
    """Open the workbench in the browser; only this machine reaches it unless --host says otherwise."""
    from importlib.util import find_spec

    if runs.exists() and not runs.is_dir():
        raise InputError(f"--runs {runs} is a file: name a folder of runs")
    address, *_ = host
    _check_free(address, port)
    if address not in OWN_NAMES:
        reach = f"whoever reaches {address} can use the model and read {runs}"
        typer.echo(f"warning: {reach}: there is no password", err=True)
    main = find_spec("interp.app.main")
    command = [sys.executable, "-m", "streamlit", "run", str(main and main.origin)]
    command += ["--server.port", str(port), "--server.address", address]
    addresses: set[str] = set()  # by which others may ask for a server that listens on all of this machine's
    if address in EVERYWHERE:
        import psutil

        interfaces = chain.from_iterable(psutil.net_if_addrs().values())
        addresses = {socket.gethostname(), *(interface.address.partition("%")[0] for interface in interfaces)}
    for name in dict.fromkeys((*OWN_NAMES, *host, *addresses)):
        command += ["--server.allowedHosts", name]
    environment = {"INTERP_RUNS": str(runs.absolute())} | ({} if model is None else {"INTERP_MODEL": model})
    # in the place of this process: whatever ends it ends the server
    os.execve(sys.executable, command, os.environ | environment)


def workbench_of(result: Path) -> list[str]:
    """The words that open the workbench on the folder in which a result lies."""
    folder, shown = named(result).parent, Path(os.environ.get("INTERP_RUNS") or RUNS).resolve()
    return ["app"] if folder.resolve() == shown else ["app", "--runs", str(folder)]


def _check_free(host: str, port: int) -> None:
    """Refuse an address that nothing can listen on: the server would say so in many lines, or none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
            tried.bind(address)
    except (socket.gaierror, UnicodeError):  # a name of more than 63 letters is none
        raise InputError(f"--host {host}: there is no such address") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port {port} is in use on {host}: name another") from None
        raise InputError(f"--host {host} --port {port}: {error.strerror}") from None
