"""Storages that cannot be used say why; a fault on the way leaves the study as it was."""

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import typer
from typer.testing import CliRunner

from spade_keras.cli.searches import proxy as proxy_command
from spade_keras.errors import MissingExtraError, StorageError
from spade_keras.search.database import hide_password
from spade_keras.search.proxy import serve
from spade_keras.search.storage import describe_storage, open_storage
from spade_keras.search.workers import join

from .conftest import run_proxy

pytestmark = [pytest.mark.once, pytest.mark.alone]


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def administer(url, *statements):
    engine = sqlalchemy.create_engine(driver_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def driver_url(url):
    return url.replace("postgresql://", "postgresql+psycopg://")


def test_memory_and_storages_of_the_caller():
    storage = open_storage(None)
    assert isinstance(storage, optuna.storages.InMemoryStorage)
    assert open_storage(storage) is storage
    assert describe_storage(storage) == "memory"


def test_journal_that_cannot_be(tmp_path):
    with pytest.raises(StorageError, match=r"is a folder. For example: storage=.*study\.journal"):
        open_storage(tmp_path)
    with pytest.raises(StorageError, match=r"folder .*missing of the journal study\.journal"):
        open_storage(tmp_path / "missing" / "study.journal")
    with pytest.raises(StorageError, match="cannot be opened for writing"):
        open_storage("/proc/study.journal")


def test_another_file_is_refused_and_left_as_it_is(tmp_path):
    model = tmp_path / "slim.keras"
    model.write_bytes(b"PK\x03\x04 two\nlines and a half")
    with pytest.raises(StorageError, match="is not the journal of a study"):
        open_storage(model)
    assert model.read_bytes() == b"PK\x03\x04 two\nlines and a half"


def test_damage_in_the_middle_of_a_journal(tmp_path):
    journal = tmp_path / "study.journal"
    optuna.create_study(storage=open_storage(journal), study_name="one")
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,\n' + journal.read_bytes())
    with pytest.raises(StorageError, match="is damaged or of another version"):
        open_storage(journal)


def test_half_a_line_of_a_killed_neighbour_is_cut_off(tmp_path):
    """The study is open in this process when another one dies while it writes."""
    journal = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(journal), study_name="one")
    for half in (b'{"op_code": 4, "worker', b"x" * 9000):
        whole = journal.read_bytes()
        with journal.open("ab") as file:
            file.write(half)
        study.set_user_attr("note", len(half))
        assert journal.read_bytes().startswith(whole + b'{"op_code":2')
        again = optuna.load_study(storage=open_storage(journal), study_name="one")
        assert again.user_attrs == study.user_attrs == {"note": len(half)}


def test_full_disk(tmp_path):
    """The limit lets a part of the line be written, as a disk does that fills up."""
    journal = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(journal), study_name="one")
    study.set_user_attr("note", "before")
    whole = journal.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(StorageError, match="intact: make room") as failure:
            study.set_user_attr("note", "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(journal) in str(failure.value)
    assert journal.read_bytes() == whole
    study.set_user_attr("note", "after")
    again = optuna.load_study(storage=open_storage(journal), study_name="one")
    assert again.user_attrs == {"note": "after"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se:cret@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me",
        ),
        # Unquoted letters: what of them is the host cannot be known.
        ("postgresql://me:s@c:r/et@host/db", "postgresql://***"),
        ("postgresql://me:s@cret@host/db", "postgresql://***"),
        ("postgresql://me:s@cr/et@host/db", "postgresql://***"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_passwords_are_not_shown(url, shown):
    assert hide_password(url) == shown


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "postgresql://me:secret@host:one/db"])
def test_other_urls_are_refused(url):
    with pytest.raises(StorageError, match="must be a file or a URL postgresql") as failure:
        open_storage(url)
    assert "secret" not in str(failure.value)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"postgresql://me:secret@127.0.0.1:{port}/db"
    with pytest.raises(StorageError, match="Check that the server runs") as failure:
        open_storage(url)
    assert f"me:***@127.0.0.1:{port}/db" in str(failure.value)
    assert "secret" not in str(failure.value)


def test_no_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"spade-keras\[postgres\]"):
        open_storage("postgresql://me:secret@127.0.0.1:1/db")


def test_a_server_that_refuses(postgresql):
    url = sqlalchemy.make_url(postgresql)
    wrong = url.set(password="wr0ng").render_as_string(hide_password=False)
    with pytest.raises(StorageError, match="Check the user and the password") as failure:
        open_storage(wrong)
    assert "wr0ng" not in str(failure.value)
    with pytest.raises(StorageError, match="createdb") as failure:
        open_storage(f"{postgresql}-missing")
    assert url.password not in str(failure.value)
    read_only = f"{postgresql}?options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(StorageError, match="is read-only"):
        open_storage(read_only)


def test_a_database_that_goes_away_and_comes_back(postgresql):
    administer(postgresql, "DROP DATABASE IF EXISTS lost WITH (FORCE)", "CREATE DATABASE lost")
    storage = open_storage(postgresql.replace("/postgres", "/lost"))
    study = optuna.create_study(storage=storage, study_name="one")
    disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost'"

    def disconnected(trial):
        administer(postgresql, disconnect)
        return trial.suggest_float("x", 0, 1)

    def lost(trial):
        administer(postgresql, "ALTER DATABASE lost ALLOW_CONNECTIONS false", disconnect)
        return trial.suggest_float("x", 0, 1)

    with join(storage) as worker:
        # A connection cut between two statements is made anew.
        assert worker.work(study, worker.claim(study, 9), disconnected).state.name == "COMPLETE"
        trial = worker.claim(study, 9)
        with pytest.raises(StorageError, match=r"was lost: .*not currently accepting") as failure:
            worker.work(study, trial, lost)
        assert sqlalchemy.make_url(postgresql).password not in str(failure.value)
        administer(postgresql, "ALTER DATABASE lost ALLOW_CONNECTIONS true")
        assert [t.state.name for t in study.get_trials()] == ["COMPLETE", "RUNNING"]


def test_a_name_that_a_database_cannot_hold(postgresql):
    storage = open_storage(postgresql)
    study = optuna.create_study(storage=storage, study_name="long names")
    with join(storage) as worker, pytest.raises(StorageError, match="512 characters"):
        worker.work(study, worker.claim(study, 1), lambda t: t.suggest_float("x" * 513, 0, 1))


@pytest.mark.parametrize("url", ["grpc://host", "grpc://host:one", "grpc://:13000"])
def test_urls_of_proxies(url):
    with pytest.raises(StorageError, match=r"must be grpc://host:port. Received: storage='grpc"):
        open_storage(url)


def test_no_proxy_answers(monkeypatch):
    monkeypatch.setattr("spade_keras.search.proxy._PATIENCE_S", 0.2)
    with pytest.raises(StorageError, match=r"No proxy answers at grpc://localhost:1\. Start one"):
        open_storage("grpc://localhost:1")


def test_a_proxy_without_grpc(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"spade-keras\[proxy\]"):
        serve("postgresql://me:secret@127.0.0.1:1/db")


def test_the_command_serves_until_it_is_interrupted(monkeypatch):
    served = []

    def interrupted(*arguments, say):
        served.append(arguments)
        say("Serving")
        raise KeyboardInterrupt

    monkeypatch.setattr("spade_keras.search.proxy.serve", interrupted)
    app = typer.Typer()
    app.command()(proxy_command)
    done = CliRunner().invoke(app, ["--storage", "postgresql://host/db", "--port", "13001"])
    assert (done.exit_code, served) == (0, [("postgresql://host/db", "localhost", 13001)])
    assert done.stderr == "Serving\n"


def test_a_proxy_that_is_lost(postgresql):
    with run_proxy(postgresql) as (url, process):
        storage = open_storage(url)
        study = optuna.create_study(storage=storage, study_name="lost proxy")

        def lost(trial):
            process.kill()
            process.wait()
            return trial.suggest_float("x", 0, 1)

        assert describe_storage(storage) == url
        with join(storage) as worker, pytest.raises(StorageError, match=rf"{url} was lost"):
            worker.work(study, worker.claim(study, 1), lost)


@pytest.mark.parametrize("kind", ["journal", "postgresql", "proxy"])
def test_two_do_not_hold_one_guard(kind, request, tmp_path):
    """Each through a storage of its own, as two processes have."""
    where = tmp_path / "a.journal" if kind == "journal" else request.getfixturevalue(kind)
    one, other = (open_storage(where) for _ in range(2))
    order = []

    def second():
        with join(other).guard("matter"):
            order.append("second")

    thread = threading.Thread(target=second)
    with join(one).guard("matter"):
        thread.start()
        with join(other).guard("another matter"):
            order.append("another")
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["another", "first", "second"]


@contextlib.contextmanager
def dashboard(where):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [program, where, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/api/studies"
    finally:
        process.kill()
        process.wait()


def get(url, timeout_s=60):
    end = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < end, f"nothing answers at {url}"
            time.sleep(0.05)


@pytest.mark.skipif(
    not shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent)),
    reason="pip install 'spade-keras[dashboard]'",
)
def test_the_dashboard_opens_both(postgresql, tmp_path):
    journal = tmp_path / "study.journal"
    for where in (journal, postgresql):
        storage = open_storage(where)
        study = optuna.create_study(storage=storage, study_name="shown", load_if_exists=True)
        with join(storage) as worker:
            worker.work(study, worker.claim(study, 1), lambda trial: trial.suggest_int("a", 0, 3))
    with dashboard(str(journal)) as one, dashboard(driver_url(postgresql)) as other:
        for url in (one, other):
            shown = {s["study_name"]: s["study_id"] for s in get(url)["study_summaries"]}
            details = get(f"{url}/{shown['shown']}?after=0")
            assert [trial["state"] for trial in details["trials"]] == ["Complete"]
