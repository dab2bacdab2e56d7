"""The command that lets many workers share a database: search proxy."""

from __future__ import annotations

from typing import Annotated

import typer

_STORAGE = "The database: postgresql://user:password@host/database."
_HOST = "Network interface to listen on; anybody who reaches it may read and write studies."


def proxy(
    storage: Annotated[str, typer.Option(metavar="URL", help=_STORAGE)],
    host: Annotated[str, typer.Option(help=_HOST)] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 13000,
) -> None:
    """Serve a database to workers that pass grpc://HOST:PORT as their --storage."""
    from rich.console import Console

    from spade_keras.search.proxy import serve

    def say(message: str) -> None:
        Console(stderr=True).print(message, highlight=False)

    try:
        serve(storage, host, port, say=say)
    except KeyboardInterrupt:
        raise typer.Exit() from None
