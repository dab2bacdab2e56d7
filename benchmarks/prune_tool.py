"""Speed of the pruning engine, beside Torch-Pruning on the same architectures.

Needs the TensorFlow and PyTorch extras, and Torch-Pruning in a folder of its own:

    pip install --no-deps --target .venv-torch-pruning torch-pruning==1.6.1
    python benchmarks/prune_tool.py

Each tool runs in processes of its own, the two taking turns: ours three times, the peer twice.
For the groups, our slowest process is held against the peer's fastest. Measured per architecture:

* groups: from a built model to the list of coupled groups. Ours reads the graph, labels it and
  forms the groups, with nothing remembered from before; Torch-Pruning builds its dependency graph
  and enumerates all groups. Warm is the median of 10 after a first call, cold that first call.
* rebuild: making the slim model of a 50 % plan, against the time Keras takes to construct the
  original. Cold is the first construction and the first rebuild of a process, warm the best of
  three more of each; both of the fastest process.

With `--applications` the analysis of all of keras.applications is timed as well (minutes).
Prints ratios and writes benchmarks/results/prune_tool.json.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCHITECTURES = ("ResNet50", "DenseNet121", "MobileNetV2")
REPEATS = 10
BUILDS = ("rebuild_cold", "rebuild_warm", "construct_cold", "construct_warm", "make_plan_warm")


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def _first_and_median(function: Callable[[], object]) -> dict[str, float]:
    first = _timed(function)
    times = [_timed(function) for _ in range(REPEATS)]
    return {"cold_ms": first, "warm_ms": statistics.median(times), "best_ms": min(times)}


def measure_keras(name: str) -> dict:
    """Groups and rebuild of one keras.applications model, in a fresh process."""
    import keras

    from spade_keras.pruning import count_macs, find_groups, make_plan, rebuild
    from spade_keras.pruning.graph.analysis import label_graph
    from spade_keras.pruning.graph.partition import partition
    from spade_keras.pruning.graph.trace import trace

    constructor = getattr(keras.applications, name)
    made = {}

    def construct() -> None:
        made["model"] = constructor(weights=None)

    # The framework's own start is not construction.
    keras.ops.convert_to_numpy(keras.ops.add(1.0, 1.0))
    construct_cold = _timed(construct)
    model = made["model"]
    groups = _first_and_median(lambda: partition(label_graph(trace(model))).groups)
    plan_ms = [_timed(lambda: make_plan(model, ratio=0.5)) for _ in range(3)]
    plan = make_plan(model, ratio=0.5)
    rebuild_cold = _timed(lambda: made.update(slim=rebuild(model, plan)))
    slim = made["slim"]
    rebuild_warm = min(_timed(lambda: rebuild(model, plan)) for _ in range(3))
    construct_warm = min(_timed(construct) for _ in range(3))
    return {
        "groups": groups,
        "groups_found": len(find_groups(model)),
        "trainable_parameters": sum(math.prod(w.shape) for w in model.trainable_variables),
        "make_plan_cold_ms": plan_ms[0],
        "make_plan_warm_ms": min(plan_ms[1:]),
        "construct_cold_ms": construct_cold,
        "construct_warm_ms": construct_warm,
        "rebuild_cold_ms": rebuild_cold,
        "rebuild_warm_ms": rebuild_warm,
        "macs": [count_macs(model).total, count_macs(slim).total],
        "parameters": [model.count_params(), slim.count_params()],
    }


def measure_torch(name: str) -> dict:
    """Torch-Pruning's graph and groups of the same architecture, in a fresh process."""
    import torch
    import torch_pruning
    from torch_architectures import ARCHITECTURES as MAKERS

    model = MAKERS[name]().eval()
    # Its graph comes from a forward pass: a small image on one thread costs it least.
    torch.set_num_threads(1)
    example = torch.zeros(1, 3, 64, 64)
    found = {}

    def enumerate_groups() -> None:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        found["groups"] = list(graph.get_all_groups())

    return {
        "groups": _first_and_median(enumerate_groups),
        "groups_found": len(found["groups"]),
        "trainable_parameters": sum(p.numel() for p in model.parameters()),
        "version": torch_pruning.__version__,
        "torch": torch.__version__,
    }


def measure_applications(_: str) -> dict:
    """Uncached analysis of every keras.applications model at its smallest legal input."""
    import keras

    from spade_keras.pruning.graph.analysis import label_graph
    from spade_keras.pruning.graph.partition import partition
    from spade_keras.pruning.graph.trace import trace

    times = {}
    for name, constructor in sorted(vars(keras.applications).items()):
        if not inspect.isfunction(constructor):
            continue
        side = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}.get(name, 32)
        shape = (224 if "NASNet" in name else side,) * 2
        model = constructor(weights=None, input_shape=(*shape, 3))
        times[name] = _first_and_median(lambda m=model: partition(label_graph(trace(m))).groups)
        keras.backend.clear_session()
    return times


WORKERS = {"keras": measure_keras, "torch": measure_torch, "applications": measure_applications}


def _run(worker: str, name: str) -> dict:
    paths = [str(HERE.parent / ".venv-torch-pruning"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, __file__, "--worker", worker, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The {worker} worker failed on {name}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _compare(name: str) -> dict:
    """Both tools on one architecture, ours before, between and after the peer's runs."""
    runs, peers = [_run("keras", name)], []
    for _ in range(2):
        peers.append(_run("torch", name))
        runs.append(_run("keras", name))
    if any(peer["trainable_parameters"] != runs[0]["trainable_parameters"] for peer in peers):
        raise SystemExit(f"{name} is not the same network in both frameworks: {runs} {peers}")
    # Other work on the machine only adds time: the slowest of ours against the fastest of the
    # peer's for the groups, and the fastest process of each kind for rebuild and construction.
    times = {f"{key}_ms": min(run[f"{key}_ms"] for run in runs) for key in BUILDS}
    for state in ("warm", "cold"):
        times[f"groups_{state}_ms"] = max(run["groups"][f"{state}_ms"] for run in runs)
        times[f"peer_{state}_ms"] = min(peer["groups"][f"{state}_ms"] for peer in peers)
    ratios = {}
    for state in ("warm", "cold"):
        peer, ours = times[f"peer_{state}_ms"], times[f"groups_{state}_ms"]
        ratios[f"groups_{state}_peer_over_ours"] = peer / ours
        rebuild, construct = times[f"rebuild_{state}_ms"], times[f"construct_{state}_ms"]
        ratios[f"rebuild_over_construct_{state}"] = rebuild / construct
    return {"ours": runs, "torch_pruning": peers, "times": times, "ratios": ratios}


def _print_comparison(name: str, result: dict) -> None:
    ours, times, ratios = result["ours"][0], result["times"], result["ratios"]
    print(f"{name}: {ours['trainable_parameters']:,} trainable parameters in both frameworks")
    for state in ("warm", "cold"):
        print(
            f"  groups {state}  {times[f'groups_{state}_ms']:8.1f} ms   Torch-Pruning    "
            f"{times[f'peer_{state}_ms']:8.1f} ms   "
            f"{ratios[f'groups_{state}_peer_over_ours']:6.1f}x faster"
        )
    for state in ("cold", "warm"):
        print(
            f"  rebuild {state} {times[f'rebuild_{state}_ms']:8.1f} ms   Keras constructs "
            f"{times[f'construct_{state}_ms']:8.1f} ms   "
            f"{ratios[f'rebuild_over_construct_{state}']:6.2f}x its time"
        )
    print(
        f"  make_plan    {times['make_plan_warm_ms']:8.1f} ms   "
        f"parameters {ours['parameters'][1] / ours['parameters'][0]:.2f}x, "
        f"MACs {ours['macs'][1] / ours['macs'][0]:.2f}x at ratio 0.5"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--applications", action="store_true", help="time all applications too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker, name = options.worker
        print(json.dumps(WORKERS[worker](name)))
        return
    results = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    for name in ARCHITECTURES:
        results[name] = _compare(name)
        _print_comparison(name, results[name])
    if options.applications:
        times = results["applications"] = _run("applications", "all")
        slowest = sorted(times, key=lambda name: -times[name]["warm_ms"])
        print(f"analysis of {len(times)} applications, slowest first:")
        for name in slowest[:5]:
            warm, best = times[name]["warm_ms"], times[name]["best_ms"]
            print(f"  {name:20} {warm:7.1f} ms median {best:7.1f} ms best of {REPEATS}")
    path = HERE / "results" / "prune_tool.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
