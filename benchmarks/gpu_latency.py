"""Fast widths on this device: staircases, and whole networks cut along them.

    KERAS_BACKEND=jax python benchmarks/gpu_latency.py
    KERAS_BACKEND=torch python benchmarks/gpu_latency.py

One call, one file: benchmarks/results/gpu_latency_<kind of device>_<backend>.json. On a GPU the
network is an unrolled proximal-gradient network at 320x320 with a prior of six convolutions of 64
channels; on a CPU everything is smaller, to show that the script runs and what a CPU's staircases
look like. Weights and inputs are random: the time does not depend on them.

For float32 and bfloat16 priors, at batch 1 and at the batch that fills the device:

* staircases: the time of the prior's layers over the width of each channel group;
* networks: pruned uniformly by 0.1 to 0.6, with the widths as they come, widened as far as the
  staircases say it is free, and rounded to multiples of 8 and of 16; each timed interleaved with
  the full network of the same dtype and batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from spade_keras import backend, latency, pruning, search
from spade_keras.data import simulate_multicoil
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.search.candidate import with_dtype
from spade_keras.search.layer_table import LayerTable

HERE = Path(__file__).resolve().parent
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
MULTIPLES = (8, 16)
# A batch fills the device when twice as many samples a call bring less than this in throughput.
FULL_GAIN = 1.1


@dataclasses.dataclass(frozen=True)
class Size:
    """How large everything is."""

    side: int
    coils: int
    filters: int
    depth: int
    iterations: int
    widest_batch: int
    step: int
    pairs: int


GPU = Size(320, 8, 64, 6, 8, 64, 4, 30)
CPU = Size(96, 4, 32, 3, 2, 8, 4, 12)


def make_network(size: Size) -> keras.Model:
    keras.utils.set_random_seed(0)
    prior = priors.dncnn(filters=[size.filters] * size.depth)
    last = prior.get_layer("residual")  # starts at zero; a trained one does not
    shape = last.kernel.shape
    last.kernel.assign(0.01 * np.random.default_rng(0).standard_normal(shape))
    return UnrolledPGD(CartesianMRI(), prior, iterations=size.iterations)


def make_inputs(size: Size, batch: int) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).uniform(size=(1, size.side, size.side))
    inputs = simulate_multicoil(image.astype("float32"), coils=size.coils).inputs
    return {name: np.repeat(array, batch, axis=0) for name, array in inputs.items()}


def filling_batch(network: keras.Model, size: Size) -> tuple[int, list[dict]]:
    """The batch beyond which throughput hardly grows, and the throughputs on the way there."""
    points: list[dict] = []
    batch = 1
    while batch <= size.widest_batch:
        try:
            measured = latency.measure(network, make_inputs(size, batch), repeats=10)
        except Exception as error:  # out of memory has another class on every backend
            if batch == 1:
                raise
            points.append({"batch": batch, "failed": f"{type(error).__name__}: {error}"[:200]})
            break
        rate = 1e3 * batch / measured.median_ms
        points.append({"batch": batch, "samples_per_s": rate, "ms": measured.median_ms})
        if len(points) > 1 and rate < FULL_GAIN * points[-2]["samples_per_s"]:
            break
        batch *= 2
    rates = [point for point in points if "samples_per_s" in point]
    best = max(point["samples_per_s"] for point in rates)
    return next(p["batch"] for p in rates if p["samples_per_s"] > best / FULL_GAIN), points


def widths_by_kind(
    full: dict[str, int], ratio: float, stairs: dict[str, latency.Staircase]
) -> Iterator[tuple[str, dict[str, int]]]:
    """The same pruning ratio as widths of each kind."""
    plain = {group: round(width * (1 - ratio)) for group, width in full.items()}
    yield "uniform", plain
    yield "staircase", {group: stairs[group].free_widening(w) for group, w in plain.items()}
    for multiple in MULTIPLES:
        rounded = {g: max(multiple, multiple * round(w / multiple)) for g, w in plain.items()}
        yield f"multiple_of_{multiple}", {g: min(w, full[g]) for g, w in rounded.items()}


def measure_case(network: keras.Model, size: Size, batch: int) -> dict:
    """Staircases and pruned networks at one dtype and batch."""
    started = time.perf_counter()
    inputs = make_inputs(size, batch)
    full = {group.name: group.width for group in pruning.find_groups(network) if not group.fixed}
    sweep = {
        group: sorted(
            {*range(size.step, width, size.step), width}
            | {round(width * (1 - ratio)) for ratio in RATIOS}
        )
        for group, width in full.items()
    }
    table = LayerTable.measure(network, inputs, sweep)
    stairs = {group: table.staircase(group) for group in full}
    swept = time.perf_counter() - started
    timer = search.interleaved_timer(network, inputs, pairs=size.pairs, batch_size=batch)
    known: dict[tuple[int, ...], dict] = {}
    rows = []
    for ratio in RATIOS:
        for kind, widths in widths_by_kind(full, ratio, stairs):
            key = tuple(widths.values())
            if key not in known:
                plan = pruning.make_plan(network, widths=widths)
                slim = pruning.rebuild(network, plan)
                timing = timer(slim)
                known[key] = {
                    "ratio": timing.ratio.as_dict(),
                    "ms": timing.b.median_ms,
                    "full_ms": timing.a.median_ms,
                    "parameters": pruning.count_parameters(slim),
                }
            rows.append({"pruned": ratio, "kind": kind, "widths": widths, **known[key]})
    return {
        "staircases": {group: staircase.as_dict() for group, staircase in stairs.items()},
        "networks": rows,
        "seconds": {"sweep": swept, "networks": time.perf_counter() - started - swept},
    }


def print_case(name: str, case: dict) -> None:
    print(f"\n{name}: time / full network's time (channels kept / all)")
    kinds = list(dict.fromkeys(row["kind"] for row in case["networks"]))
    print("pruned by  " + "".join(f"{kind:>20}" for kind in kinds))
    for ratio in RATIOS:
        cells = []
        for row in case["networks"]:
            if row["pruned"] == ratio:
                full = sum(s["widths"][-1] for s in case["staircases"].values())
                kept = sum(row["widths"].values()) / full
                cells.append(f"{row['ratio']['value']:.3f} ({kept:.2f})")
        print(f"{ratio:9}  " + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, help="instead of 1 and the filling one")
    parser.add_argument("--output", type=Path, help="another place for the JSON")
    options = parser.parse_args()

    kind = backend.device().kind
    size = CPU if kind == "cpu" else GPU
    name = f"gpu_latency_{kind}_{keras.backend.backend()}.json"
    path = options.output or HERE / "results" / name
    content: dict = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": latency.fingerprint(),
        "size": dataclasses.asdict(size),
        "complete": False,
        "filling": {},
        "cases": {},
    }
    for dtype in options.dtypes:
        network = with_dtype(make_network(size), dtype)
        filling, points = filling_batch(network, size)
        content["filling"][dtype] = {"batch": filling, "sweep": points}
        for batch in options.batches or sorted({1, filling}):
            case = measure_case(network, size, batch)
            content["cases"][f"{dtype}, batch {batch}"] = case
            print_case(f"{dtype}, batch {batch}", case)
            path.write_text(json.dumps(content, indent=1) + "\n")  # a killed run leaves what it has
    content["complete"] = True
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
