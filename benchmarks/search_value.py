"""The worth of a search for widths, against simpler ways to the same measured latency.

    python benchmarks/search_value.py --minutes 20    # as often as it takes; finished pieces stay
    python benchmarks/search_value.py --accept        # on a quiet machine, when all are there
    python benchmarks/search_value.py --verify        # then; both three times, a process each time
    python benchmarks/search_value.py --report        # writes benchmarks/results/search_value.json

The full networks are those of recipes/mri_unrolled_quickstart.toml, one per seed; the seed changes
the noise of the data, the first weights and the order of the batches. Every arm ends as one network
per seed and budget: the widest of its kind whose time, measured interleaved with the full network,
stays below the budget; then tuned on the truth for the same number of steps, and scored on the
test slab. benchmarks/README.md says what the arms are and how to read the table.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rich.console import Console
from search_value_arms import all_arms
from search_value_lab import TINY, Arm, Lab, Settings
from search_value_report import study_summary, study_table, summarize, table, time_again

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
RESULT = HERE / "results" / "search_value.json"
STUDY_RESULT = HERE / "results" / "search_objectives.json"


def make_pieces(
    labs: dict[int, Lab], arms: list[Arm], console: Console, *, minutes: float, timing: bool
) -> int:
    """Makes missing pieces until the time is up; returns how many are still missing."""
    until = time.monotonic() + 60 * minutes
    missing = 0
    for arm in arms:
        lab = labs[arm.seed]
        ready = all(_is_done(lab, piece) for piece in arm.after)
        material = {**arm.material, "backend": keras.backend.backend()}
        if ready and lab.stages.is_done(arm.name, material, after=arm.after):
            continue
        if not ready or (arm.timed and not timing) or time.monotonic() > until:
            missing += 1
            continue
        console.print(f"seed {arm.seed} {arm.name} ...", highlight=False)
        started = time.monotonic()
        lab.stages.run(
            arm.name,
            material,
            lambda folder, arm=arm, lab=lab: arm.make(lab, folder),
            after=arm.after,
            keep_partial=arm.keep_partial,
        )
        console.print(f"  {time.monotonic() - started:.1f} s", highlight=False)
    return missing


def _is_done(lab: Lab, piece: str) -> bool:
    return (lab.stages.folder / piece / "stage.json").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1e9, help="start no piece after these")
    parser.add_argument("--only", default="*", help="pieces such as 'seed0-uniform*', by wildcard")
    parser.add_argument(
        "--no-timing", action="store_true", help="leave out what needs a quiet machine"
    )
    parser.add_argument("--list", action="store_true", help="name the pieces and stop")
    parser.add_argument("--accept", action="store_true", help="time all networks, to accept plans")
    parser.add_argument("--verify", action="store_true", help="time them again, to check the plans")
    parser.add_argument("--report", action="store_true", help="write the results of all pieces")
    parser.add_argument(
        "--study", action="store_true", help="the study of objectives, and its report, instead"
    )
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that it runs")
    parser.add_argument("--work", type=Path, help="where pieces are kept")
    options = parser.parse_args()

    console = Console(width=100)
    settings = TINY if options.tiny else Settings()
    work = options.work or (WORK / "tiny" if options.tiny else WORK)
    work.mkdir(parents=True, exist_ok=True)
    arms = [
        arm
        for arm in all_arms(settings, study=options.study)
        if fnmatch.fnmatch(f"seed{arm.seed}-{arm.name}", options.only)
    ]
    labs = {seed: Lab(work, seed, settings, console) for seed in settings.seeds}
    if options.list:
        for arm in arms:
            state = "done" if _is_done(labs[arm.seed], arm.name) else "missing"
            console.print(f"{state:8} seed{arm.seed}-{arm.name}", highlight=False)
        return
    accepted, verified = work / "accepted.json", work / "verified.json"
    if options.accept or options.verify:
        time_again(labs, verified if options.verify else accepted, plans=options.verify)
        return
    if options.report:
        content = study_summary(labs) if options.study else summarize(labs, accepted, verified)
        path = STUDY_RESULT if options.study else RESULT
        path = work / path.name if options.tiny else path
        path.write_text(json.dumps(content, indent=1, default=lambda number: number.item()) + "\n")
        print(study_table(content) if options.study else table(content))
        return
    missing = make_pieces(
        labs, arms, console, minutes=options.minutes, timing=not options.no_timing
    )
    console.print(f"{missing} pieces are missing" if missing else "all pieces are there")


if __name__ == "__main__":
    main()
