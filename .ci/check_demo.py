"""Asserts on a run's metrics.json what its recipe promises."""

import argparse
import json
import sys
from pathlib import Path

# Measured on two idle cores: 240 to 309 s (a close call is timed in more processes); 1.3 to 1.6 dB
# and, after tuning, 0.5 to 0.6 dB and 0.02 of SSIM below a full network of 36.0 dB. With room for
# slower machines, where other widths meet the budget.
SECONDS = {"reconstruction": 460, "classification": 320}
CONVERGED_DB = 35
PSNR_LOSS_DB = 0.9
SSIM_LOSS = 0.035
PRUNED_LOSS_DB = 2.2
FROM_SCRATCH_GAIN_DB = 1.0
ACCURACY = 0.95
ACCURACY_LOSS = 0.03
PRUNED_ACCURACY_LOSS = 0.1
EXPORT_ERROR = 1e-4


def quality_bounds(metrics):
    """Returns what the task promises of the slim network's quality."""
    quality = metrics["quality"]
    if metrics["task"] == "classification":
        full, slim = quality["full"]["accuracy"], quality["finetuned"]["accuracy"]
        pruned = quality["pruned"]["accuracy"]
        return {
            f"full {full:.4f} >= {ACCURACY}": full >= ACCURACY,
            f"fine-tuned {slim:.4f} >= full {full:.4f} - {ACCURACY_LOSS}": (
                slim >= full - ACCURACY_LOSS
            ),
            f"as pruned {pruned:.4f} >= full {full:.4f} - {PRUNED_ACCURACY_LOSS}": (
                pruned >= full - PRUNED_ACCURACY_LOSS
            ),
        }
    psnr = {name: scores["psnr_db"] for name, scores in quality.items()}
    full, slim = psnr["full"], psnr["finetuned"]
    ssim = {name: quality[name]["ssim"] for name in ("full", "finetuned")}
    return {
        f"full {full:.2f} dB >= {CONVERGED_DB} dB": full >= CONVERGED_DB,
        f"as pruned {psnr['pruned']:.2f} dB >= full - {PRUNED_LOSS_DB} dB": (
            psnr["pruned"] >= full - PRUNED_LOSS_DB
        ),
        f"fine-tuned {slim:.2f} dB >= full - {PSNR_LOSS_DB} dB": slim >= full - PSNR_LOSS_DB,
        f"fine-tuned SSIM {ssim['finetuned']:.4f} >= full {ssim['full']:.4f} - {SSIM_LOSS}": (
            ssim["finetuned"] >= ssim["full"] - SSIM_LOSS
        ),
        f"fine-tuned >= from scratch {psnr['from_scratch']:.2f} dB + {FROM_SCRATCH_GAIN_DB} dB": (
            slim >= psnr["from_scratch"] + FROM_SCRATCH_GAIN_DB
        ),
        f"fine-tuned >= fewer iterations {psnr['fewer_iterations']:.2f} dB": (
            slim >= psnr["fewer_iterations"]
        ),
    }


def broken_promises(metrics, seconds):
    """Returns one sentence per bound that does not hold."""
    ratio, budget = metrics["exported_ratio"], metrics["latency_budget"]
    error, allowed = metrics["export"]["max_abs_error"], SECONDS[metrics["task"]]
    bounds = {
        f"exported_ratio.high {ratio['high']:.4f} <= budget {budget}": ratio["high"] <= budget,
        f"budget {budget} is 0.5": budget == 0.5,
        **quality_bounds(metrics),
        f"export max_abs_error {error:.2e} <= {EXPORT_ERROR}": error <= EXPORT_ERROR,
        f"run {seconds:.0f} s <= {allowed} s": seconds <= allowed,
    }
    for bound, holds in bounds.items():
        print("ok  " if holds else "NOT ", bound)
    return [bound for bound, holds in bounds.items() if not holds]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    metrics = json.loads((arguments.run / "metrics.json").read_text())
    page = (arguments.run / "report.html").read_text()
    if "Budget met" not in page:
        sys.exit("report.html does not say that the budget is met")
    if broken_promises(metrics, arguments.seconds):
        sys.exit(1)


if __name__ == "__main__":
    main()
