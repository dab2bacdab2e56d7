"""A private PostgreSQL server for the tests: its own folder and port, an unprivileged user."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PASSWORD = "p@ss:word/1"
QUOTED_PASSWORD = "p%40ss%3Aword%2F1"


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a database; skipped only where no server is installed and none is required."""
    binaries = find_binaries()
    if binaries is None:
        reason = "PostgreSQL is not installed: make postgres"
        if os.environ.get("CI_REQUIRES_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="pip install 'spade-keras[postgres]'")
    with server(binaries) as url:
        yield url


@pytest.fixture(scope="session")
def proxy(postgresql):
    """The URL of a proxy before that database."""
    with run_proxy(postgresql) as (url, _):
        yield url


@contextlib.contextmanager
def run_proxy(database):
    pytest.importorskip("grpc", reason="pip install 'spade-keras[proxy]'")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = f"from spade_keras.search.proxy import serve; serve({database!r}, port={port})"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield f"grpc://localhost:{port}", process
    finally:
        process.kill()
        process.wait()


def find_binaries():
    """The folder of `initdb` and `postgres`, or None; Debian keeps them off the PATH."""
    for found in (shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))):
        if found and (folder := Path(found).resolve().parent).joinpath("postgres").exists():
            return folder
    return None


@contextlib.contextmanager
def server(binaries):
    folder = Path(tempfile.mkdtemp(prefix="spade-pg-"))  # a short path: it holds a socket
    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            for path in (folder, folder / "password"):
                shutil.chown(path, "nobody")
        initdb = ["initdb", "-D", folder / "data", "-U", "spade", "--pwfile", folder / "password"]
        execute(binaries, *initdb, "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = ["pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w"]
        execute(binaries, *control, "-o", settings, "start")
        try:
            yield f"postgresql://spade:{QUOTED_PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            execute(binaries, *control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(binaries, program, *arguments):
    command = [str(binaries / program), *map(str, arguments)]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr}")
