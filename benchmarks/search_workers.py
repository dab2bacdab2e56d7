"""How many workers one PostgreSQL server bears, some of them killed meanwhile.

    python benchmarks/search_workers.py --storage postgresql://user:password@host/database
    python benchmarks/search_workers.py --storage ... --proxy    # the same through a gRPC proxy

Writes benchmarks/results/search_workers.json. Every worker is a process with the storage layer
alone, without Keras. Its trials write what those of a search write, but take no time; every tenth
takes a second, and in the middle of such trials a tenth of the workers is killed by SIGKILL. The
server must allow up to three connections per worker (`max_connections`); a proxy takes ten in all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from spade_keras.search.storage import open_storage
from spade_keras.search.workers import join

RESULT = Path(__file__).resolve().parent / "results" / "search_workers.json"
HEARTBEAT_S, GRACE_S = 2, 15
LIMIT_S = 300


def objective(trial: Trial) -> float:
    if trial.number % 10 == 9:
        time.sleep(1)  # for a victim to be killed in it
    trial.set_user_attr("origin", "random")
    widths = [trial.suggest_int(f"group {i}", 0, 9) for i in range(4)]
    trial.set_user_attr("configuration", widths)
    trial.set_user_attr("timing", {"latency_ms": 1.0})
    trial.set_constraint("latency", -1.0)
    trial.set_user_attr("seconds", {"build": 0.0})
    return float(sum(widths))


def work(url: str, name: str, trials: int) -> None:
    """One worker, from its start to the end of the study."""
    storage = open_storage(url, heartbeat_s=HEARTBEAT_S, grace_s=GRACE_S)
    sampler = optuna.samplers.RandomSampler(seed=os.getpid())
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    with join(storage) as worker:
        worker.seed_once(study, lambda: None)
        while (trial := worker.claim(study, trials, poll_s=1.0)) is not None:
            worker.work(study, trial, objective)


def fork(*arguments: Any) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return pid


def run(storage: str, url: str, workers: int, trials: int) -> dict[str, Any]:
    """Lets so many workers finish a study, and checks and counts its trials."""
    name = f"workers_{datetime.datetime.now():%Y%m%d_%H%M%S_%f}"
    study = optuna.create_study(study_name=name, storage=open_storage(storage))
    started = time.monotonic()
    alive = {fork(url, name, trials) for _ in range(workers)}
    kills = workers // 10
    codes: Counter[str] = Counter()
    while alive and time.monotonic() - started < LIMIT_S:
        found = study.get_trials(deepcopy=False)
        ended = [trial for trial in found if trial.state.is_finished()]
        names = [t.user_attrs.get("worker", "-0-") for t in found[-50:] if t not in ended]
        victims = [pid for name in names if (pid := int(name.split("-")[-2])) in alive]
        # One victim after the other, over the first three quarters of the trials.
        if kills and victims and len(ended) >= 0.75 * trials * (1 - kills / (workers // 10)):
            os.kill(random.choice(victims), signal.SIGKILL)
            kills -= 1
        pid, status = os.waitpid(-1, os.WNOHANG)
        while pid:
            alive.discard(pid)
            codes[str(os.waitstatus_to_exitcode(status))] += 1
            pid, status = os.waitpid(-1, os.WNOHANG) if alive else (0, 0)
        time.sleep(0.2)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    figures = {"date": datetime.date.today().isoformat(), "exit_codes": dict(codes)}
    return {**figures, **count(study.get_trials(), trials)}


def count(found: list[FrozenTrial], trials: int) -> dict[str, Any]:
    """Counts what must be 0, and the trials per second while all workers are at work."""
    failed = [trial for trial in found if trial.state == TrialState.FAIL]
    retries = Counter(t.user_attrs["retry_of"] for t in found if "retry_of" in t.user_attrs)
    completed = sorted(t.datetime_complete for t in found if t.state == TrialState.COMPLETE)
    steady = completed[len(completed) // 2 : int(0.9 * len(completed))]
    seconds = (steady[-1] - steady[0]).total_seconds()
    return {
        "trials": trials,
        "lost": trials - len(completed),
        "left_running": sum(trial.state == TrialState.RUNNING for trial in found),
        "ended_by_others": len(failed),
        # A worker killed before it had sampled leaves nothing to retry.
        "not_retried": sum(1 for t in failed if t.params and not retries[t.number]),
        "retried_twice": sum(1 for times in retries.values() if times > 1),
        "doubled_numbers": len(found) - len({trial.number for trial in found}),
        "trials_per_s": round((len(steady) - 1) / seconds, 1),
    }


def start_proxy(storage: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    serve = f"from spade_keras.search.proxy import serve; serve({storage!r}, port={port})"
    return subprocess.Popen([sys.executable, "-c", serve]), f"grpc://localhost:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--storage", required=True, help="postgresql://user:password@host/database")
    parser.add_argument("--proxy", action="store_true", help="connect the workers through a proxy")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--trials", type=int, default=2, help="per worker, at least 200 in all")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    way, proxy, url = "postgresql", None, options.storage
    if options.proxy:
        way = "proxy"
        proxy, url = start_proxy(options.storage)
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    stored["machine"] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    stored["settings"] = {"heartbeat_s": HEARTBEAT_S, "grace_s": GRACE_S}
    try:
        for workers in options.workers:
            row = run(options.storage, url, workers, max(200, options.trials * workers))
            print(json.dumps(row), flush=True)
            stored.setdefault(way, {})[str(workers)] = row
            RESULT.write_text(json.dumps(stored, indent=1) + "\n")
    finally:
        if proxy is not None:
            proxy.kill()
            proxy.wait()


if __name__ == "__main__":
    main()
