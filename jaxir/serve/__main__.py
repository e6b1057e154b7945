"""Serve an index: a search page, and a JSON API for programs.

    python -m jaxir.serve --index INDEX
    python -m jaxir.serve --model MODEL --index INDEX --port 8000

The page is at http://127.0.0.1:8000; programs send JSON to /search and /encode, which /openapi.json
describes. The model is the one that made the index, unless --model names its present path. Only
this machine can connect, unless --host names another address; there is no login, so put a proxy
that has one in front before you let others in. Needs `pip install "jaxir[serve] @ ."`.

Exit status: 0 finished; 2 a mistake in the command line; 130 Ctrl-C; 1 otherwise.
"""

import logging
import socket
import warnings
from typing import TYPE_CHECKING

from absl import flags

from jaxir import command_line, model_flags
from jaxir.errors import UserError

if TYPE_CHECKING:
    import uvicorn

    from jaxir.serve.engine import Engine
    from jaxir.serve.requests import Limits

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
logger = logging.getLogger("jaxir.serve")  # as a command, __name__ is __main__


def _define(values: flags.FlagValues) -> None:
    model_flags.define_index(values)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at", flag_values=values)
    flags.DEFINE_integer("port", 8_000, "0: any free port", 0, 65_535, flag_values=values)
    flags.DEFINE_list(
        "allowed_hosts",
        [],
        "host names that requests may address (default: at a loopback address the names of this "
        "machine, otherwise any)",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_requests", 256, "requests answered at the same time", 1, flag_values=values
    )


def main(argv: list[str]) -> int:
    """Read the command line, then serve until a signal."""
    values = flags.FlagValues()
    _define(values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "index")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'{error.name} is missing: pip install "jaxir[serve] @ ."') from None
    from jaxir.progress import still_at
    from jaxir.serve.engine import Engine
    from jaxir.serve.requests import Limits

    command_line.log_to_stderr()
    with listen(values.host, values.port) as listener:  # a taken port fails before a model is read
        # clients send queries that are too long; whoever runs the server need not hear of it
        warnings.filterwarnings("ignore", message=".* and were cut there")
        engine = Engine(*model_flags.load_index(values))
        hosts = values.allowed_hosts or allowed_hosts(values.host, listener)
        server = make_server(engine, Limits(requests=values.max_requests), hosts)
        logger.info("%s passages; compiling ...", f"{len(engine.index):,}")
        with still_at("compiling"):
            logger.info("compiled %d shapes", engine.warm_up())
        listener.listen(1_024)
        print(f"http://{_host_and_port(listener)}", flush=True)
        server.run([listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket to an address; clients can connect once `listen` is called on it.

    Raises:
        UserError: there is no such address, or it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({reason}); --port 0 takes any port"
        ) from None
    return listener


def allowed_hosts(host: str, listener: socket.socket) -> tuple[str, ...]:
    """Host names that requests to a loopback address may have; (), any name, elsewhere."""
    address = listener.getsockname()[0]
    if address == "::1" or address.startswith("127."):
        return (*LOOPBACK, host.lower(), address)
    return ()


def make_server(
    engine: "Engine", limits: "Limits", hosts: tuple[str, ...] = ()
) -> "uvicorn.Server":
    """Return a server that is ready to run.

    Args:
        engine: answers the requests.
        limits: bounds on requests.
        hosts: host names that requests may have; (): any.
    """
    import uvicorn

    from jaxir.serve.app import make_app
    from jaxir.serve.connections import Connection

    class LimitedConnection(Connection):
        max_connections = limits.connections

    config = uvicorn.Config(
        make_app(engine, limits, hosts),
        http=LimitedConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # mistakes of clients are reported to them, not logged
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=16_384,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def _host_and_port(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def command() -> None:
    """Run the console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
