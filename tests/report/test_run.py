"""The closing table and the page of a run, from synthetic metrics."""

from __future__ import annotations

import base64
import copy
import dataclasses
import html
import io
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from spade_keras.errors import MissingExtraError
from spade_keras.latency import Staircase
from spade_keras.report import (
    SearchFindings,
    closing_table,
    columns,
    figures,
    table_rows,
    verdict,
    write_report,
)
from spade_keras.report.findings import GroupProfile
from spade_keras.report.front import tradeoff
from spade_keras.report.run import what_pruning_saves
from spade_keras.search import Configuration, LatencyBudget, SearchResult, SearchSpace, TrialRecord
from spade_keras.search.result import Timing

pytestmark = pytest.mark.once


def quality(psnr_db):
    return {
        "psnr_db": psnr_db,
        "psnr_db_std": 0.81,
        "ssim": 0.951,
        "ssim_std": 0.012,
        "nmse": 0.0123,
        "nmse_std": 0.002,
    }


def times(median):
    return {"median": median, "q1": median - 0.1, "q3": median + 0.2}


METRICS = {
    "quality": {
        "zero_filled": quality(24.1),
        "full": quality(33.52),
        "pruned": quality(29.07),
        "finetuned": quality(33.31),
        "from_scratch": quality(32.84),
        "fewer_iterations": quality(32.15),
    },
    "latency_ms": {
        "full": {"keras": times(21.2), "exported": times(20.1)},
        "slim": {"keras": times(9.9), "exported": times(9.2)},
    },
    "latency_ratio": {"value": 0.467, "low": 0.46, "high": 0.474},
    "exported_ratio": {"value": 0.458, "low": 0.449, "high": 0.466},
    "latency_budget": 0.5,
    "parameters": {"full": 38050, "slim": 9120},
    "macs": {"full": 1_753_000_000, "slim": 420_000_000},
    "trials": {"total": 4, "feasible": 2, "infeasible": 1},
    "search": {"quality": "agreement <with> the teacher / dB", "target": 0.48},
    "rivals": {"fewer_iterations": {"iterations": 2, "ratio": {"value": 0.441}}},
    "training_seconds": {
        "full": [1052.1],
        "pruned": [1052.1],
        "finetuned": [1052.1, 47.4],
        "from_scratch": [46.0],
        "fewer_iterations": [1052.1, 38.7],
    },
    "export": {"format": "saved_model", "max_abs_error": 2.4e-6},
    "data_note": "One averaged template; slabs, not subjects.",
    "convention": "magnitudes of the test slices",
    "seconds": {"data": 3.0, "train": 71.2},
    "fingerprint": {
        "device": {"kind": "cpu", "name": "Some CPU", "memory_bytes": 1024**3},
        "backend": "tensorflow",
        "inputs": [{"name": "mask", "shape": [1, 1, 96], "dtype": "float32"}],
    },
}
FOUND = SearchResult(
    budget=LatencyBudget(fraction=0.5, safety_margin=0.04),
    trials=tuple(
        TrialRecord(
            number=number,
            state=state,
            origin="uniform",
            configuration=Configuration({"prior/<conv_0>": 8 + number}),
            timing=ratio and Timing(20 * ratio, ratio, ratio - 0.01, ratio + 0.02, 22 * ratio, 0.0),
            quality=score,
        )
        for number, state, ratio, score in [
            (0, "feasible", 0.31, 35.5),
            (1, "feasible", 0.46, 36.6),
            (2, "infeasible", 0.77, None),
            (3, "failed", None, None),
        ]
    ),
    quality_name="agreement <with> the teacher / dB",
    space=SearchSpace.from_edges({"prior/<conv_0>": [8, 32]}),
)
GROUPS = [GroupProfile("prior/<conv_0>", 32, 9), GroupProfile("prior/conv_1", 48, 48)]


def panel():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 2, (24, 20))
    return {
        "truth": truth,
        "zero_filled": truth + 0.3,
        "full": truth - 0.01,
        "finetuned": truth + 0.02,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a run, and its folder."""
    return write(tmp_path_factory.mktemp("run"))


def write(folder, **changes):
    return write_report(
        folder, {**METRICS, **changes}, SearchFindings(FOUND, chosen=1), panel=panel()
    )


@pytest.mark.parametrize(("high", "title"), [(0.5, "Budget met"), (0.5001, "Budget not met")])
def test_the_verdict_hangs_on_the_upper_end_of_the_interval(high, title, tmp_path):
    ratio = {"value": 0.458, "low": 0.449, "high": high}
    metrics = {**METRICS, "exported_ratio": ratio}
    assert verdict(metrics)[0] == title
    assert (
        f"0.458 of the full network's time (95 % interval 0.449 to {high:.3f})"
        in (verdict(metrics)[1])
    )
    page = write(tmp_path, exported_ratio=ratio).read_text()
    assert f"<strong>{title}</strong>" in page
    assert ('class="verdict met"' in page) is (title == "Budget met")
    assert page.index(title) < page.index("Quality and cost")


def test_the_rows_hold_each_networks_numbers():
    rows = {row[0]: row[1:] for row in table_rows(METRICS)}
    assert list(rows) == [
        "zero-filled",
        "full",
        "slim, as pruned",
        "slim, fine-tuned",
        "slim, from scratch",
        "fewer iterations",
    ]
    shared = ("0.951 ± 0.012", "0.0123")
    full = ("33.52 ± 0.81", *shared, "20.10", "1.000", "38 k", "1.75 G", "1052")
    assert rows["full"] == full
    slim = ("9.20", "0.458", "9.12 k", "420 M")
    assert rows["slim, as pruned"] == ("29.07 ± 0.81", *shared, *slim, "1052")
    assert rows["slim, fine-tuned"] == ("33.31 ± 0.81", *shared, *slim, "1052 + 47")
    fewer = ("32.15 ± 0.81", *shared, "", "0.441", "", "", "1052 + 39")
    assert rows["fewer iterations"] == fewer
    assert rows["slim, from scratch"][-1] == "46"
    assert rows["zero-filled"][3:] == ("", "", "", "", "")


def test_what_a_small_network_reaches_in_all_that_time_is_said(tmp_path):
    assert what_pruning_saves(METRICS) == ""
    half = {"steps": 4080, "seconds": 528.4, "scores": quality(35.22)}
    pretrained = {"half_width_from_scratch": half}
    said = what_pruning_saves({**METRICS, "pretrained": pretrained})
    assert "4080 steps from scratch (528 s" in said
    assert "PSNR / dB 35.22 ± 0.81" in said
    page = write(tmp_path, pretrained=pretrained).read_text()
    assert said in html.unescape(page)
    console = Console(width=500, record=True, file=io.StringIO())
    console.print(closing_table({**METRICS, "pretrained": pretrained}))
    assert said in " ".join(console.export_text().split())


def test_without_rivals_the_table_has_no_such_rows():
    metrics = copy.deepcopy(METRICS)
    del metrics["quality"]["from_scratch"], metrics["quality"]["fewer_iterations"]
    metrics["rivals"] = {}
    assert [row[0] for row in table_rows(metrics)][-1] == "slim, fine-tuned"


def test_the_closing_table_fits_a_terminal_of_80_columns():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(closing_table(METRICS))
    shown = console.export_text()
    assert "…" not in shown
    page_only = [columns(METRICS).index(heading) for heading in ("NMSE", "MACs")]
    for row in table_rows(METRICS):
        assert all(cell in shown for i, cell in enumerate(row) if i not in page_only)
    assert "Budget met" in shown


def test_the_page_stands_alone(written):
    folder, page = written.parent, written.read_text()
    assert written.name == "report.html"
    assert not re.search(r"https?://|<link|@import|src=\"(?!data:)|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    embedded = [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in sources]
    assert all(png.startswith(b"\x89PNG") for png in embedded)
    assert len(embedded) == len(set(embedded)) == 4  # trade-off, history, widths, pictures
    assert (folder / "pictures.png").read_bytes() in embedded
    assert {entry.name for entry in folder.iterdir()} == {"pictures.png", "report.html"}
    assert 'name="viewport"' in page


def test_the_page_names_what_its_numbers_rest_on(written):
    page = written.read_text()
    for text in (
        METRICS["data_note"],
        METRICS["convention"],
        "Some CPU",
        "1.0 GiB (1,073,741,824)",
        "mask [1, 1, 96] float32",
        "4 trials: 2 within the budget, 1 over it, 1 failed",
        "aimed at 0.48, the budget less a margin for the final measurement",
        "5 x the absolute difference",
        "cut to 2",
        "-0.21 dB",
        "2.4e-06",
        "74.2",
        "0.770 (0.760 to 0.790)",
        "0.467 (95 % interval 0.460 to 0.474)",
    ):
        assert text in page, text


def test_the_page_lists_files_that_were_left_out_and_equilibria(tmp_path):
    facts = {
        "tolerance": 1e-3,
        "residual": [9e-4, 8e-4],
        "iterations": [7, 9],
        "contraction": [0.91, 0.95],
        "converged": [True, True],
    }
    page = write(
        tmp_path,
        skipped={"data/<broken>.h5": "`kspace` must be finite"},
        networks={"full": facts, "slim": {}},
        convention_name="fastmri",
    ).read_text()
    assert "Files left out" in page and "data/&lt;broken&gt;.h5" in page
    assert "`kspace` must be finite" in page
    for text in ("2 of 2", "8 (at most 9)", "0.0009", "0.950", "convention fastmri"):
        assert text in page, text
    assert "Files left out" not in write(tmp_path).read_text()


def test_without_a_truth_errors_are_differences_from_the_full_network(tmp_path):
    images = {name: image for name, image in panel().items() if name != "truth"}
    page = write_report(tmp_path, METRICS, SearchFindings(FOUND), panel=images).read_text()
    assert "the absolute difference from the full network" in page
    assert "No true image is known" in page
    figure = figures.pictures(images)
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "zero-filled",
        "full network",
        "slim network",
    ]


def test_names_are_escaped(written):
    page = written.read_text()
    assert "<with>" not in page
    assert "agreement &lt;with&gt; the teacher" in page


def points(axes):
    """All (x, y) that lines of the axes show, by color."""
    found = {}
    for line in axes.lines:
        if line.get_linestyle() in ("None", ""):
            found.setdefault(line.get_color(), []).extend(np.transpose(line.get_data()).tolist())
    return found


def test_the_plot_marks_feasible_chosen_and_infeasible_trials():
    figure = tradeoff(dataclasses.replace(FOUND, quality_name="PSNR / dB"), chosen=1)
    axes, strip = figure.axes
    assert points(axes)[figures.FEASIBLE] == [[0.31, 35.5]]
    assert points(axes)[figures.CHOSEN] == [[0.46, 36.6]]
    assert points(strip)[figures.INFEASIBLE] == [[0.77, 0]]
    for part in (axes, strip):
        assert any(list(line.get_xdata()) == [0.5, 0.5] for line in part.lines)
    assert axes.get_xlim()[0] < 0.30 and axes.get_xlim()[1] > 0.79
    np.testing.assert_allclose(strip.collections[0].get_segments()[0][:, 0], [0.76, 0.79])
    bars = axes.containers[-1].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[0][:, 0], [0.45, 0.48])
    assert axes.get_ylabel() == "PSNR / dB"


@pytest.mark.parametrize("kept", [[], [3], [2, 3], [0]], ids=str)
def test_the_plot_needs_no_trial_of_any_kind(kept):
    trials = tuple(FOUND.trials[number] for number in kept)
    figure = tradeoff(dataclasses.replace(FOUND, trials=trials))
    assert figures.png(figure).startswith(b"\x89PNG")


def test_the_bars_show_widths_before_and_after():
    axes = figures.widths_before_after(GROUPS).axes[0]
    before, after = axes.containers
    assert [bar.get_width() for bar in before] == [32, 48]
    assert [bar.get_width() for bar in after] == [9, 48]
    assert [text.get_text().strip() for text in axes.texts] == ["32 → 9", "48 → 48"]


def test_pictures_and_error_maps_share_one_scale():
    images = panel()
    figure = figures.pictures(images)
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    top = images["truth"].max()
    assert len(shown) == 7
    assert {image.get_clim() for image in shown} == {(0, top)}
    errors = [image.get_array() for image in shown if image.get_cmap().name == "magma"]
    np.testing.assert_allclose(errors[0], 1.5)
    np.testing.assert_allclose(errors[1], 0.05)
    np.testing.assert_allclose(errors[2], 0.1)


class OneGroup:
    """Stands in for a `LayerTable` of one group."""

    widths = {"prior/<conv_0>": (8, 32)}  # noqa: RUF012

    def staircase(self, group):
        return Staircase.of(self.widths[group], [1.0, 2.0])


def test_the_runs_page_has_the_sections_of_its_search(tmp_path):
    table = OneGroup()
    path = write_report(tmp_path, METRICS, SearchFindings(FOUND, table))
    page = path.read_text()
    for title in ("Quality against latency", "Trials in order", "Staircases"):
        assert f">{title}</h2>" in page
    assert "All trials of the search" not in page and "One test slice" not in page
    assert page.count("Widths before and after") == 1
    assert page.index("Quality and cost") < page.index("Trials in order") < page.index("How it was")


def classification():
    metrics = copy.deepcopy(METRICS)
    del metrics["rivals"]
    metrics["columns"] = {"accuracy": "accuracy", "cross_entropy": "cross-entropy"}
    metrics["quality"] = {
        name: {"accuracy": accuracy, "cross_entropy": 0.1}
        for name, accuracy in (("full", 0.98), ("pruned", 0.9), ("finetuned", 0.975))
    }
    return metrics


def test_a_run_without_images_has_its_own_columns_and_no_pictures(tmp_path):
    metrics = classification()
    assert columns(metrics)[:3] == ("", "accuracy", "cross-entropy")
    assert table_rows(metrics)[2][:3] == ("slim, fine-tuned", "0.9750", "0.1000")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(closing_table(metrics))
    assert "cross-entropy" in console.export_text()
    page = write_report(tmp_path, metrics, SearchFindings(FOUND)).read_text()
    assert "accuracy change" in page and "-0.0050" in page and "against full, 0.9800" in page
    assert "One test slice" not in page
    assert {entry.name for entry in tmp_path.iterdir()} == {"report.html"}


@pytest.mark.parametrize(("excess", "title"), [(0.0, "Budget met"), (0.001, "Budget not met")])
def test_a_budget_in_words_is_judged_by_the_excess(excess, title):
    metrics = {
        **METRICS,
        "latency_budget": "p99<=9.5ms",
        "budget": "p99 of at most 9.5 ms",
        "exported_excess": excess,
    }
    said, sentence = verdict(metrics)
    assert said == title
    assert "takes a median of 9.2 ms, which is 0.458 of the full network's time" in sentence
    assert sentence.endswith("allowed is p99 of at most 9.5 ms.")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_gives_the_pip_line_and_writes_nothing(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spade-keras\[report\]'"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_quality_that_was_not_kept_comes_before_the_budget(tmp_path):
    lost = "Quality not kept: agreement 3.1, below the least acceptable 20. Refit."
    metrics = {**METRICS, "search": {**METRICS["search"], "chosen": {"warning": lost}}}
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard")
    console.print(closing_table(metrics))
    caption = out.getvalue()[out.getvalue().index("Quality not kept") - 20 :]
    assert "\x1b[1;31m" in caption.split("Budget met")[0]
    page = write_report(tmp_path, metrics, SearchFindings(FOUND)).read_text()
    assert page.index(lost) < page.index("<strong>Budget met</strong>")
    assert (
        "Quality not kept" not in write_report(tmp_path, METRICS, SearchFindings(FOUND)).read_text()
    )
