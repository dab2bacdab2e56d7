"""The report on a search, from synthetic trials, layer times and a receipt."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import re
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from spade_keras.errors import MissingExtraError
from spade_keras.latency import Comparison, Latency, Ratio
from spade_keras.pruning import PruningPlan
from spade_keras.pruning.plan import ChannelStep
from spade_keras.report import (
    FrontPanel,
    Remeasured,
    SearchFindings,
    figures,
    search_overview,
    summarize_search,
    write_search_report,
)
from spade_keras.report.findings import group_ms, search_verdict, time_split
from spade_keras.report.front import slider, tradeoff
from spade_keras.search import (
    Configuration,
    LatencyBudget,
    LayerTable,
    SearchResult,
    SearchSpace,
    TrialRecord,
)
from spade_keras.search.layer_table import LayerTime
from spade_keras.search.receipt import ModelIdentity, Quality, Receipt
from spade_keras.search.result import Timing

pytestmark = pytest.mark.once

SECONDS = {"build": 0.2, "compile": 0.5, "measure": 0.3, "evaluate": 0.9, "overhead": 0.02}
ROWS = [
    # state, origin, ratio, quality, widths of a and b
    ("feasible", "uniform", 0.30, 31.0, (8, 8)),
    ("infeasible", "uniform", 0.80, None, (32, 32)),
    ("feasible", "knapsack", 0.45, 34.0, (16, 32)),
    ("feasible", "tpe", 0.46, 33.0, (32, 16)),
    ("stopped", "tpe", 0.40, None, (16, 16)),
    ("failed", "tpe", None, None, (8, 32)),
    ("feasible", "tpe", 0.40, 32.0, (32, 8)),
]


def result(rows=ROWS, budget=None, **changes):
    """What a search returns."""
    records = []
    for number, (state, origin, ratio, quality, (a, b)) in enumerate(rows):
        timing = ratio and Timing(
            20 * ratio, ratio, ratio - 0.01, ratio + 0.02, 22 * ratio, (ratio + 0.02) / 0.48 - 1
        )
        records.append(
            TrialRecord(
                number=number,
                state=state,
                origin=origin,
                configuration=Configuration({"net/<a>": a, "net/b": b}),
                timing=timing,
                quality=quality,
                seconds={**SECONDS, "evaluate": 0.9 if quality else 0.0},
                reason="ValueError: <b>no</b>" if state == "failed" else None,
            )
        )
    found = SearchResult(
        budget=budget or LatencyBudget(fraction=0.5, safety_margin=0.04),
        trials=tuple(records),
        quality_name="agreement <with> the teacher / dB",
        space=SearchSpace.from_edges({"net/<a>": [8, 16, 32], "net/b": [8, 16, 32]}),
        fingerprint={"device": {"kind": "cpu", "name": "Some CPU"}, "backend": "tensorflow"},
    )
    return dataclasses.replace(found, **changes)


def layer_time(group, *times):
    return LayerTime(group, calls=1, ms=times[-1], by_group={group: times})


TABLE = LayerTable(
    layers=(layer_time("net/<a>", 1.0, 2.0, 3.9, 4.0), layer_time("net/b", 0.5, 0.5, 2.9, 3.0)),
    widths=dict.fromkeys(("net/<a>", "net/b"), (8, 16, 24, 32)),
    iterations=None,
    blocks={},
    dtype="float32",
    fingerprint={},
)
IMPORTANCES = {"net/<a>": [3.0] * 16 + [1.0] * 16, "net/b": [1.0] * 32}


def receipt(ratio=0.47):
    fingerprint = {"device": {"kind": "cpu", "name": "Receipt's CPU"}}
    times = {"compile_ms": 0.0, "samples": (), "calls_per_window": 1, "stable": True}
    full, slim = (
        Latency(median, 1.0, 3.0, 4.0, **times, peak_memory_bytes=None, fingerprint=fingerprint)
        for median in (20.0, 9.4)
    )
    return Receipt(
        budget=LatencyBudget(fraction=0.5),
        comparison=Comparison(full, slim, Ratio(ratio, ratio - 0.008, ratio + 0.008, 0.95, 30)),
        plan=PruningPlan("net", (ChannelStep((), "group_l1"),)),
        configuration=Configuration({"net/<a>": 32, "net/b": 16}),
        full=ModelIdentity("full.keras", "f" * 64, "0" * 64),
        slim=ModelIdentity("slim.keras", "5" * 64, "1" * 64),
        trial=3,
        quality=Quality("agreement", 31.0, 20.0, 31.0),
        date="2026-11-21T10:00:00+00:00",
    )


def panels():
    ramp = np.linspace(0, 1, 12).reshape(3, 4)
    trials = result().trials
    return [
        FrontPanel(dataclasses.replace(trials[1], quality=36.0), 2 * ramp, ramp),
        FrontPanel(trials[0], ramp, 4 * ramp),
        FrontPanel(trials[3], ramp, ramp),
    ]


def findings(**given):
    return SearchFindings(**{"result": result(), "table": TABLE, **given})


class Page(html.parser.HTMLParser):
    """Ids, images, labels and balance of a page's elements."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a search that left everything behind."""
    folder = tmp_path_factory.mktemp("search")
    path = write_search_report(
        folder,
        findings(receipt=receipt(), front_panels=panels(), importances=IMPORTANCES),
    )
    assert path == folder / "report.html"
    assert {entry.name for entry in folder.iterdir()} == {"report.html", "report.json"}
    return path.read_text()


def test_the_front_holds_what_no_other_trial_beats():
    assert [t.number for t in result().front] == [0, 6, 2]
    assert result([]).front == ()


@pytest.mark.parametrize(
    ("budget", "key", "limit", "target", "label"),
    [
        (LatencyBudget(fraction=0.5, safety_margin=0.1), "latency_ratio", 0.5, 0.45, "full"),
        (LatencyBudget(median_ms=8.0, safety_margin=0.1), "latency_ms", 8.0, 7.2, "median"),
        (LatencyBudget(p99_ms=8.0, batch_size=4), "p99_ms", 8.0, 8.0, "p99 latency at batch size"),
        (LatencyBudget(throughput=200.0, batch_size=4), "latency_ms", 20.0, 20.0, "median"),
        (
            LatencyBudget(throughput=200.0, batch_size=4, safety_margin=0.2, dtype="bfloat16"),
            "latency_ms",
            20.0,
            16.0,
            "batch size 4 in bfloat16",
        ),
    ],
    ids=str,
)
def test_the_axis_is_what_the_budget_limits(budget, key, limit, target, label):
    limits = budget.as_time(budget.limit), budget.as_time(budget.target)
    assert (budget.quantity, *limits) == (key, pytest.approx(limit), pytest.approx(target))
    assert summarize_search(findings(result=result(budget=budget)))["budget"] == str(budget)
    axes, strip = tradeoff(result(budget=budget), chosen=2).axes
    assert label in strip.get_xlabel()
    factor = {"latency_ratio": 1, "latency_ms": 20, "p99_ms": 22}[key]
    [star] = [x for x in axes.lines if x.get_color() == figures.CHOSEN]
    assert list(star.get_xdata()) == [pytest.approx(0.45 * factor)]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.array([0.3, 0.4, 0.45]) * factor)


def test_one_very_uncertain_trial_does_not_squeeze_the_others():
    first, second, *others = result().trials
    uncertain = dataclasses.replace(second.timing, ratio_high=9.0)
    second = dataclasses.replace(second, timing=uncertain)
    axes, strip = tradeoff(result(trials=(first, second, *others))).axes
    assert axes.get_xlim()[1] == pytest.approx(1.05 + 0.04 * (1.05 - 0.29) + 0.005)
    assert strip.collections[0].get_segments()[0][1, 0] == 9.0


def test_times_of_a_group_are_not_interpolated_over_a_step():
    staircase = TABLE.staircase("net/<a>")
    assert [group_ms(staircase, width) for width in (4, 8, 9, 16, 25, 32, 40)] == [
        1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 4.0,
    ]  # fmt: skip


def test_the_profile_tells_channels_time_and_importance_of_each_group():
    found = findings(importances=IMPORTANCES)
    assert found.taken.number == 2
    assert [dataclasses.asdict(row) for row in found.groups(found.taken)] == [
        {
            "group": "net/<a>",
            "before": 32,
            "after": 16,
            "ms_before": 4.0,
            "ms_after": 2.0,
            "importance_kept": 0.75,
        },
        {
            "group": "net/b",
            "before": 32,
            "after": 32,
            "ms_before": 3.0,
            "ms_after": 3.0,
            "importance_kept": 1.0,
        },
    ]
    bare = findings(table=None).groups(found.taken)
    assert [row.ms_after for row in bare] == [None, None]
    assert [row.importance_kept for row in bare] == [None, None]


def test_the_receipts_trial_is_the_one_shown():
    assert findings(receipt=receipt()).taken.number == 3
    assert findings(receipt=receipt(), chosen=6).taken.number == 6


def test_the_bottleneck_is_the_group_of_most_time():
    found = findings()
    assert found.bottleneck(found.taken) == (
        "net/b, whose layers take 3 ms with 32 of 32 channels, 60 % of the time of all groups"
    )
    assert found.bottleneck(None).startswith("net/<a>, whose layers take 4 ms")
    without = findings(table=None, result=result(bottleneck="conv_3"))
    assert without.bottleneck(None) == "conv_3"
    assert findings(table=None).bottleneck(None) is None


def test_time_is_split_into_its_parts():
    split = time_split(result().trials)
    assert split["total"]["evaluate"] == pytest.approx(4 * 0.9)
    assert split["median"]["evaluate"] == 0.9  # of those that were judged
    assert split["total"]["overhead"] == pytest.approx(7 * 0.02)
    assert time_split([]) == {
        "trials": [],
        "total": dict.fromkeys(SECONDS, 0),
        "median": dict.fromkeys(SECONDS, 0.0),
    }
    bars = figures.seconds(split).axes[0].containers
    tops = [bar.get_y() + bar.get_height() for bar in bars[-1]]
    assert tops[0] == pytest.approx(sum(SECONDS.values()))
    assert tops[1] == pytest.approx(sum(SECONDS.values()) - 0.9)


def test_a_promise_is_made_only_after_measuring_again():
    assert search_verdict(findings(receipt=receipt())).status == "met"
    missed = search_verdict(findings(receipt=receipt(0.52)))
    assert (missed.status, missed.title) == ("missed", "Budget not met")
    unconfirmed = search_verdict(findings())
    assert unconfirmed.status == "open"
    said = " ".join(unconfirmed.sentences)
    assert "4 of 7 trials met the budget: 0.5 of the full network's latency" in said
    assert "trial 2 with 0.450 of the full network's latency (95 % interval 0.440 to 0.470)" in said
    assert "nothing is promised" in said


def test_the_honest_ending_names_the_fastest_and_the_bottleneck(tmp_path):
    over = [("infeasible", o, ratio, None, w) for _, o, ratio, _, w in ROWS if ratio]
    found = findings(result=result(over))
    ending = search_verdict(found)
    said = " ".join(ending.sentences)
    assert ending.status == "missed"
    assert "No configuration met the budget, 0.5 of the full network's latency, in 6 trials" in said
    assert "The fastest was trial 0 with 0.300 of the full network's latency (95 % interval" in said
    assert "It kept 25 % of the channels." in said
    assert "The bottleneck is net/<a>, whose layers take 1 ms with 8 of 32 channels, 67 %" in said
    page = write_search_report(tmp_path, found).read_text()
    assert "Budget not met" in page and "net/&lt;a&gt;, whose layers take 1 ms" in page
    assert "Along the front" not in page
    assert "6 trials: 0 within the budget, 6 over it" in page
    assert "is not known: no layer was timed alone" in " ".join(
        search_verdict(findings(result=found.result, table=None)).sentences
    )


def test_a_search_whose_finalists_were_rejected_promises_nothing(tmp_path):
    ratio = Ratio(0.52, 0.51, 0.53, 0.95, 30).as_dict()
    rejected = {"trial": 2, "accepted": False, "ratio": ratio, "quality": None}
    finalists = [Remeasured.from_dict(rejected)]
    path = write_search_report(tmp_path, findings(finalists=finalists))
    page = path.read_text()
    assert "1 trial met it in the search and missed it when timed again" in page
    assert ">Measured again</h2>" in page and "0.520 (0.510 to 0.530)" in page
    assert '<section class="verdict missed">' in page
    assert "chosen" not in page.split("</style>", 2)[1].lower()
    assert findings(finalists=finalists).taken is None
    accepted = [*finalists, Remeasured(6, True, finalists[0].ratio, 32.0)]
    assert findings(finalists=accepted, chosen=6).taken.number == 6


def test_when_nothing_could_be_timed_the_reasons_are_told(tmp_path):
    failed = result([("failed", "tpe", None, None, (8, 8))])
    path = write_search_report(tmp_path, SearchFindings(failed))
    page = path.read_text()
    assert "in 1 trial. None of them could be timed." in page
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in page
    assert "0 trials" in write_search_report(tmp_path, findings(result=result([]))).read_text()
    summary = json.loads((tmp_path / "report.json").read_text())
    assert summary["chosen"] is None and summary["counts"]["total"] == 0


def test_the_page_opens_offline_and_escapes_names(page):
    assert not re.search(r"https?://|<link|@import|src=\"(?!data:)|url\(", page)
    assert "<with>" not in page and "net/<a>" not in page
    assert "agreement &lt;with&gt; the teacher" in page
    for text in (
        "Budget met",
        "2.13x as fast",
        "Receipt&#39;s CPU",
        "f" * 64,
        receipt().digest,
        "10:00",
    ):
        assert text in page, text


def test_the_page_is_accessible(page):
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("alt" in image for image in parsed.all("img"))
    [control] = parsed.all("input")
    assert {"for": control["id"]} in parsed.all("label")
    assert control["aria-describedby"] in ids
    for section in parsed.all("section"):
        assert section.get("aria-labelledby") in [None, *ids]
    scrolled = [a for a in parsed.all("div") if a.get("class", "").startswith("scroll")]
    assert scrolled and all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_every_section_has_its_figure_and_its_numbers(page):
    parsed = Page(page)
    pngs = [
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        for image in parsed.all("img")
    ]
    assert all(png.startswith(b"\x89PNG") for png in pngs)
    # Six figures; three stops with an image, an error map and the scales below them.
    assert len(pngs) == 6 + 3 * 4
    for title in (
        "Along the front",
        "Quality against latency",
        "Trials in order",
        "Widths before and after",
        "Importance and latency of each group",
        "Staircases",
        "Where the time of the search went",
        "How it was measured",
    ):
        assert f">{title}</h2>" in page, title
    for text in (
        "7 trials: 4 within the budget, 1 over it, 1 stopped early, 1 failed.",
        "The search aimed at 0.48",
        "0.400 (0.390 to 0.420)",
        "8, 16, 32",
    ):
        assert text in page, text


def test_sections_without_input_are_absent(tmp_path):
    page = write_search_report(tmp_path, SearchFindings(result())).read_text()
    for title in ("Staircases", "Latency of each group", "Importance"):
        assert f">{title}" not in page
    assert "not yet confirmed" in page
    assert "No pictures: none were handed to this report" in page
    assert "spade-keras replay" not in page
    assert "Some CPU" in page


def test_the_slider_goes_from_fast_to_slow_on_one_scale():
    along = slider(findings(receipt=receipt(), front_panels=panels()))
    assert [stop["label"] for stop in along["stops"]] == [
        "trial 0, as pruned",
        "trial 3, chosen, as pruned",
        "trial 1, as pruned",
    ]
    assert along["first"] == 1  # the slowest that is no slower than the chosen trial
    assert (along["image_top"], along["error_top"]) == (2.0, 4.0)
    xs, ys = zip(*((stop["x"], stop["y"]) for stop in along["stops"]), strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys, reverse=True)
    slim = along["stops"][0]
    shown = imread(io.BytesIO(base64.b64decode(slim["image"].split(",")[1])))
    np.testing.assert_allclose(
        shown[..., 0], np.linspace(0, 0.5, 12).reshape(3, 4), atol=1.01 / 255
    )
    assert slim["rows"][0] == ("median latency / full (95 % interval)", "0.300 (0.290 to 0.320)")


def test_the_slider_shows_numbers_alone_where_there_are_no_images():
    along = slider(findings())
    assert [stop["label"] for stop in along["stops"]] == ["trial 0", "trial 6", "trial 2, chosen"]
    assert along["first"] == 2 and along["image_top"] is None
    assert ("median latency / full (95 % interval)", "0.450 (0.440 to 0.470)") in along["stops"][2][
        "rows"
    ]
    assert slider(findings(result=result(ROWS[:2]))) is None


def test_panels_that_are_not_finite_are_refused():
    for key in ("image", "error", "quality"):
        broken = panels()
        if key == "quality":
            spoiled = {"trial": dataclasses.replace(broken[1].trial, quality=np.nan)}
        else:
            spoiled = {key: getattr(broken[1], key) * np.nan}
        broken[1] = dataclasses.replace(broken[1], **spoiled)
        with pytest.raises(ValueError, match=r"`front_panels` must have .*finite.*Received"):
            slider(findings(front_panels=broken))


def test_the_history_shows_what_proposed_each_trial_and_the_best_yet():
    axes, strip = figures.history(result(), chosen=2).axes
    shown = {line.get_label(): np.transpose(line.get_data()).tolist() for line in axes.lines}
    assert shown["best yet"] == [[0, 31], [2, 34], [3, 34], [6, 34]]
    assert shown["uniform"] == [[0, 31]]
    assert shown["knapsack"] == [[2, 34]]
    assert shown["tpe"] == [[3, 33], [6, 32]]
    assert shown["chosen"] == [[2, 34]]
    assert [text.get_text() for text in strip.get_yticklabels()] == [
        "over budget",
        "stopped early",
        "failed",
    ]
    assert [list(line.get_xdata()) for line in strip.lines] == [[1], [4], [5]]


def test_groups_show_time_and_shares_kept():
    found = findings(importances=IMPORTANCES)
    rows = found.groups(found.taken)
    bars, shares = figures.group_costs(rows).axes
    assert [[bar.get_width() for bar in bars_of] for bars_of in bars.containers] == [[4, 3], [2, 3]]
    kept, importance = shares.lines
    assert list(kept.get_xdata()) == [0.5, 1.0]
    assert list(importance.get_xdata()) == [0.75, 1.0]
    unknown = figures.group_costs(findings().groups(found.taken))
    assert len(unknown.axes[1].lines) == 1


def test_staircases_mark_edges_and_the_chosen_width():
    steps = findings().staircases
    first, second = figures.staircases(steps, {"net/<a>": 16, "net/b": 32}).axes[:2]
    _, timed, edges, chosen = first.lines
    assert list(timed.get_xdata()) == [24]
    assert list(edges.get_xdata()) == [8, 16, 32]
    assert (list(chosen.get_xdata()), list(chosen.get_ydata())) == ([16], [2.0])
    assert list(second.lines[1].get_xdata()) == [8]
    many = {f"group_{i}": steps["net/b"] for i in range(30)}
    drawn = [axes for axes in figures.staircases(many, {}).axes if axes.lines]
    assert len(drawn) == figures.MAX_STAIRCASES


def test_the_terminal_says_the_same_in_80_columns():
    def shown(*given):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(search_overview(SearchFindings(*given)))
        return console.export_text()

    text = shown(result(), TABLE, receipt())
    assert text.startswith("Budget met")
    assert "*2  0.450" not in text and "0.450 (0.440 to 0.470)" in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "Seconds: build 1.4, compile 3.5, measure 2.1, evaluate 3.6, overhead 0.1." in " ".join(
        text.split()
    )
    assert "*2  0.450" in shown(result())
    over = [("infeasible", o, ratio, None, w) for _, o, ratio, _, w in ROWS if ratio]
    assert "The bottleneck is net/<a>" in shown(result(over), TABLE)


def test_the_summary_is_json_and_agrees_with_the_page(page):
    summary = summarize_search(findings(receipt=receipt(), importances=IMPORTANCES))
    assert json.loads(json.dumps(summary)) == summary
    assert summary["verdict"]["title"] in page
    assert [trial["number"] for trial in summary["front"]] == [0, 6, 2]
    assert summary["chosen"]["number"] == 3
    assert summary["counts"] == {
        "total": 7,
        "feasible": 4,
        "infeasible": 1,
        "stopped": 1,
        "failed": 1,
    }
    assert [row["after"] for row in summary["groups"]] == [32, 16]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_gives_the_pip_line_and_writes_nothing(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spade-keras\[report\]'"):
        write_search_report(tmp_path, findings(front_panels=panels()))
    assert not list(tmp_path.iterdir())
