"""The HTML report: self-contained, escaped, readable without scripts, and no more hopeful than the evidence."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import date
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from auditor.cli.gating import Gating, gated
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Policy, RiskLevel, Thresholds, Verdict
from auditor.contracts.report import Gallery
from auditor.contracts.scores import NotMeasured
from auditor.report.render_html import render_html
from auditor.report.render_markdown import render_markdown
from auditor.report.render_repair_html import render_repair_html
from auditor.report.render_repair_markdown import render_repair_markdown
from auditor.testing.reports import (
    sample_attacks,
    sample_fisher,
    sample_gallery,
    sample_prior,
    sample_repair_report,
    sample_report,
    sample_target,
)
from auditor.testing.waivers import sample_waiver

VOID = {"meta", "img", "input", "br", "line", "circle", "rect"}
HOSTILE = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """Checks nesting and collects elements."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"stray </{tag}>"
            assert self.open.pop() == tag, f"wrong nesting at </{tag}>"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def excused():
    """A leak that is waived in part, and known in the baseline as to the rest."""
    hostile = sample_waiver().model_copy(update={"reason": "<img src=x onerror=alert(1)>", "expires": date(2100, 1, 1)})
    return gated(sample_report(), Gating((hostile,), sample_report()))


PAGES = {
    "pass": lambda: render_html(sample_report(Verdict.PASS)),
    "fail": lambda: render_html(sample_report(Verdict.FAIL), sample_gallery()),
    "inconclusive": lambda: render_html(sample_report(Verdict.INCONCLUSIVE)),
    "bare": lambda: render_html(
        sample_report(
            attacks=(),
            priors=(),
            evaluator=NotMeasured(metric="evaluator", reason="no private data was given"),
            judge=NotMeasured(metric="judge", reason="no private data was given"),
            fisher=NotMeasured(metric="fisher", reason="no white-box access"),
        )
    ),
    "uninformative": lambda: render_html(sample_report(fisher=sample_fisher("uninformative"))),
    "crashed": lambda: render_html(
        sample_report(
            attacks=tuple(
                a.model_copy(update={"status": OutcomeStatus.FAILED, "reason": "boom", "scores": (), "per_class": ()})
                for a in sample_attacks()
            )
        )
    ),
    "excused": lambda: render_html(excused()),
    "repair": lambda: render_repair_html(sample_repair_report()),
    "no repair": lambda: render_repair_html(sample_repair_report(chosen=None)),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request):
    return PAGES[request.param]()


class TestEveryPage:
    def test_is_well_formed_and_needs_nothing(self, page):
        parsed = Page(page)
        assert not parsed.all("script")
        assert not parsed.all("link")
        assert not parsed.all("iframe")
        for tag, attrs in parsed.elements:
            assert "style" not in attrs, tag
            assert not [name for name in attrs if name.startswith("on")], tag
            for name in ("src", "href"):
                target = attrs.get(name)
                assert target is None or target.startswith(("#", "data:image/png;base64,")), target
        assert "url(" not in page
        assert "@import" not in page

    def test_allows_its_own_style_and_nothing_else(self, page):
        style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = next(
            attrs["content"] for attrs in Page(page).all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy.startswith("default-src 'none'")
        assert f"style-src 'sha256-{digest}'" in policy

    def test_pictures_have_words_and_charts_have_titles(self, page):
        parsed = Page(page)
        assert all(attrs.get("alt") for attrs in parsed.all("img"))
        for chart in re.findall(r'<svg class="chart".*?</svg>(?=<|\s)', page, re.S):
            assert "<title>" in chart
            assert "<desc>" in chart

    def test_charts_are_well_formed(self, page):
        for figure in re.findall(r"<figure>(.*?)</figure>", page, re.S):
            for start in re.finditer(r'<svg class="chart"', figure):
                ElementTree.fromstring(figure[start.start() : figure.rindex("</svg>") + 6])  # noqa: S314

    def test_ids_are_unique_and_links_lead_somewhere(self, page):
        parsed = Page(page)
        ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        for attrs in parsed.all("a"):
            assert attrs["href"].removeprefix("#") in ids

    def test_it_never_says_safe(self, page):
        assert not re.search(r"\bsafe(?!tensors)", Page(page).text, re.I)

    def test_it_prints_and_follows_the_reader_scheme(self, page):
        assert "@media print" in page
        assert "prefers-color-scheme: dark" in page


class TestAuditPage:
    def test_it_says_how_attacks_become_one_verdict(self):
        assert "The verdict is that of the worst attack" in Page(render_html(sample_report())).text

    def test_a_leak_that_is_excused_is_no_plain_pass(self):
        read = Page(render_html(excused()))
        assert "PASS WITH WAIVERS AND AGAINST THE BASELINE · high" in read.text
        assert "The leak is proven and stands" in read.text
        assert "<img src=x onerror=alert(1)>" in read.text, "as text"
        assert not [attrs for attrs in read.all("img") if "onerror" in attrs]

    @pytest.mark.parametrize(
        ("verdict", "word"), [(Verdict.PASS, "PASS"), (Verdict.FAIL, "FAIL"), (Verdict.INCONCLUSIVE, "INCONCLUSIVE")]
    )
    def test_the_banner(self, verdict, word):
        page = render_html(sample_report(verdict))
        assert f'class="banner {verdict}"' in page
        text = Page(page).text
        assert word in text
        if verdict is Verdict.PASS:
            assert "No attack of this suite succeeded within this budget." in text
            assert "says nothing about stronger attackers" in text
        else:
            assert "No attack of this suite succeeded" not in text

    def test_an_open_verdict_shows_no_level_and_what_would_settle_it(self):
        page = render_html(sample_report(Verdict.INCONCLUSIVE))
        assert "What would settle it" in page
        assert "do not read this as a pass" in page
        assert "Level <b>" not in page

    def test_it_carries_what_a_reviewer_needs(self):
        report = sample_report(Verdict.FAIL)
        text = Page(render_html(report)).text
        for needed in (
            "0.38",
            "[0.31, 0.46]",
            "AML.T0024.001",
            "ML03:2023",
            "NISTAML.032",
            "not legal advice",
            report.id,
            report.target.digest,
            report.provenance.code_digest,
            report.verdict.policy_digest,
            report.verdict.vector,
            "freeze the first 3 units",
            "person-059",
            "passed: at most 2.1e-06 from onnxruntime",
            "0 exact and 0 near duplicates",
        ):
            assert needed in text, needed
        for row in report.data:
            assert row.digest in text
        for name, value in report.policy.thresholds.model_dump().items():
            assert f"{name} {value}" in text

    def test_the_layers_show_intervals_every_point_and_other_readings(self):
        """Everything the contract holds is on the page and in the Markdown: who reads one must not know less."""
        fisher = sample_fisher()
        page = render_html(sample_report(fisher=fisher))
        text = Page(page).text
        markdown = render_markdown(sample_report(fisher=fisher))
        for words in (
            "ppa (prior vae) and pixel-tv (no public knowledge)",
            "5.0% [3.0, 8.0]",
            "Inversion shares along the way of pixel-tv",
            "The same question asked otherwise",
            "0.39 [0.28, 0.47]",
            "0.5: 4, 1: 3, 2: 2",
            "60 reconstructions of pixel-tv",
        ):
            assert words in text, words
            assert words in markdown.replace("\\[", "["), words
        chart = page[page.index("Fisher shares by unit") :]
        assert chart[: chart.index("</svg>")].count('class="whisker"') == 2 * len(fisher.units)

    def test_layers_of_an_older_report_are_shown_as_far_as_they_go(self):
        fisher = sample_fisher()
        unit = {"empirical_share": {}, "inversion_true_share": {}, "classification_interval": None,
                "inversion_interval": None, "placebo_interval": None, "inversion_trimmed": None}  # fmt: skip
        old = fisher.model_copy(
            update={
                "units": tuple(item.model_copy(update=unit) for item in fisher.units),
                "trajectories": (), "readings": (), "trajectory_attack": "ppa", "weighted_boundaries": {},
                "per_step_share": fisher.trajectories[0].per_step_share,
            }
        )  # fmt: skip
        text = Page(render_html(sample_report(fisher=old))).text
        assert "along the way of ppa" in text
        assert "asked otherwise" not in text

    def test_names_from_outside_stay_text(self):
        report = sample_report(target=sample_target(name="x", architecture=HOSTILE, warnings=(HOSTILE,)))
        outcome = report.attacks[0]
        rows = (outcome.per_class[0].model_copy(update={"name": HOSTILE}), *outcome.per_class[1:])
        outcome = outcome.model_copy(update={"key": HOSTILE, "per_class": rows, "notes": (HOSTILE,)})
        fisher = sample_fisher()
        units = (fisher.units[0].model_copy(update={"name": HOSTILE}), *fisher.units[1:])
        report = report.model_copy(
            update={
                "attacks": (outcome, *report.attacks[1:]),
                "fisher": fisher.model_copy(update={"units": units}),
                "limitations": (HOSTILE,),
            }
        )
        row = sample_gallery(1).rows[0].model_copy(update={"name": HOSTILE})
        page = render_html(report, Gallery(rows=(row,)))
        assert "<script" not in page
        assert HOSTILE in " ".join(Page(page).words)

    def test_pictures_are_blurred_until_asked_for(self):
        page = render_html(sample_report(), sample_gallery())
        style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
        assert ".pictures img { width: 100%; height: 100%; object-fit: cover; display: block; filter: blur(" in style
        assert "#reveal:checked ~ .rows img { filter: none; }" in style
        reveal = page.index('id="reveal"')
        assert "checked" not in page[reveal - 30 : reveal + 30]
        assert reveal < page.index('class="rows"')
        assert page.count("data:image/png;base64,") == 4 * 6
        assert "3 of 5 recognised by both" in page

    def test_without_pictures_it_says_so(self):
        assert "stored no pictures" in render_html(sample_report())
        kept = render_html(sample_report(gallery_digest="ab" * 32))
        assert "not included in this file" in kept
        assert "data:image" not in kept

    def test_only_png_is_embedded(self):
        row = sample_gallery(1).rows[0]
        fake = row.model_copy(
            update={
                "reconstructions_png": (b"<svg onload=1>", *row.reconstructions_png),
                "accepted": (True, *row.accepted),
                "nearest_public_png": b"GIF89a",
            }
        )
        page = render_html(sample_report(), Gallery(rows=(fake,)))
        assert page.count("data:image/png;base64,") == 5
        assert "no public image" in page

    def test_incomplete_coverage_is_visible(self):
        attacks = sample_attacks()
        report = sample_report(Verdict.PASS, attacks=attacks[:2])
        text = Page(render_html(report)).text
        assert "2/3" in text
        assert "66.7%" in text
        assert "incomplete" in text

    def test_a_loose_policy_is_called_loose(self):
        loose = Policy(thresholds=Thresholds(min_attacks=1), fail_on=RiskLevel.CRITICAL)
        assert "looser than the built-in one" in render_html(sample_report(policy=loose))

    def test_another_policy_is_not_called_as_the_built_in_one(self):
        report = sample_report(policy=Policy(thresholds=Thresholds(min_attacks=1)))
        for text in (render_html(report), render_markdown(report)):
            assert "olicy (unnamed) 1" in text
            assert "olicy default" not in text
        report = sample_report(policy=Policy(fail_on=RiskLevel.CRITICAL))
        assert "policy default@critical 1" in render_html(report)
        assert "Policy default@\u200bcritical 1" in render_markdown(report), "nobody on GitHub is meant"
        assert "policy default 1" in render_html(sample_report())

    def test_a_level_of_loose_thresholds_is_not_said_to_mean_more(self):
        def text(**thresholds):
            policy = Policy(name="own", fail_on=RiskLevel.CRITICAL, thresholds=Thresholds(**thresholds))
            report = sample_report(Verdict.PASS, lift=(0.38, 0.31, 0.46), policy=policy)
            return render_html(report), render_markdown(report)

        loose, strict = text(critical_lift=0.9, high_lift=0.8), text()
        assert "Level <b>high</b>: recognisable private content was rebuilt" in strict[0]
        assert "Level <b>medium</b>: what this policy, which is looser than the built-in one, calls so" in loose[0]
        for page in (*loose, *strict):
            assert "this policy, which is looser than the built-in one, fails on critical" in page

    def test_a_weak_prior_is_a_finding(self):
        text = Page(render_html(sample_report(Verdict.PASS, priors=(sample_prior(0.15),)))).text
        assert "Attacks with it can prove a leak, not its absence" in text

    def test_the_same_report_gives_the_same_bytes(self):
        assert render_html(sample_report(), sample_gallery()) == render_html(sample_report(), sample_gallery())


class TestRepairPage:
    def test_it_claims_only_what_the_interval_proves(self):
        assert "lowered the lift by 0.18 [0.09, 0.27]" in render_repair_html(sample_repair_report())
        unclear = render_repair_html(sample_repair_report(gain=(0.05, -0.04, 0.14)))
        assert "no proven effect on the lift" in unclear
        worse = render_repair_html(sample_repair_report(gain=(-0.1, -0.2, -0.02)))
        assert "the repair made it worse" in worse

    def test_what_a_repair_cost_and_what_it_changed_for_who_knows_it(self):
        report = sample_repair_report()
        text = Page(render_repair_html(report)).text
        assert "Calibration error" in text
        assert "attackers who know it" not in text
        knowing = report.differences[0].model_copy(update={"attack": "adaptive-averaged"})
        led = Page(render_repair_html(report.model_copy(update={"adaptive_differences": (knowing,)}))).text
        assert led.index("attackers who know it") < led.index("What it cost")
        assert "adaptive-averaged" in led

    def test_whether_the_fisher_scores_chose_well_is_said_in_both_formats(self):
        report = sample_repair_report()
        text, markdown = Page(render_repair_html(report)).text, render_repair_markdown(report).replace("\\[", "[")
        for words in (
            "Regret: 0.06 [0.00, 0.15] of lift",
            "the best is 4",
            "1.00 [0.50, 1.00] over 3 boundaries",
            "2 (proposed)",
        ):
            assert words in text, words
            assert words in markdown, words
        old = report.model_copy(update={"heuristic": None})
        assert "choose well" not in render_repair_html(old) + render_repair_markdown(old)

    def test_boundaries_on_the_front_are_marked_in_both_formats(self):
        report = sample_repair_report(chosen=None).model_copy(update={"front": (5,)})
        text, markdown = Page(render_repair_html(report)).text, render_repair_markdown(report)
        for shown in (text, markdown):
            assert shown.count("over, on the front") == 1
            assert "within, on the front" not in shown

    def test_boundaries_that_a_sweep_dropped_are_listed_in_both_formats(self):
        report = sample_repair_report()
        dropped = report.candidates[0].model_copy(
            update={"freeze": report.candidates[0].freeze.model_copy(update={"boundary": 1})}
        )
        report = report.model_copy(update={"trials": (dropped, *report.candidates)})
        for shown in (Page(render_repair_html(report)).text, render_repair_markdown(report)):
            assert shown.count("dropped") == 1
            assert shown.count("trained to the end") == len(report.candidates)

    def test_nothing_repaired_is_said(self):
        text = Page(render_repair_html(sample_repair_report(chosen=None))).text
        assert "Nothing was repaired" in text
        assert "no repaired model" in text

    def test_a_changed_frozen_part_is_shouted(self):
        report = sample_repair_report()
        candidate = report.candidates[0]
        broken = candidate.model_copy(
            update={"freeze": candidate.freeze.model_copy(update={"digest_after": "00" * 32})}
        )
        report = report.model_copy(update={"candidates": (broken, *report.candidates[1:])})
        assert "CHANGED" in render_repair_html(report)
