"""What pages, Markdown and terminal show of attacks on a cut model."""

from auditor.cli.table import print_report
from auditor.contracts.access import Access
from auditor.contracts.report import Gallery, GalleryRow
from auditor.report.render_html import render_html
from auditor.report.render_markdown import render_markdown
from auditor.testing.reports import (
    measured,
    sample_attacks,
    sample_gallery,
    sample_outcome,
    sample_report,
    sample_target,
)

LAYER = "layer1<script>"


def report():
    given = sample_outcome("rmle", access=Access.SPLIT, prior="none")
    values = {"psnr": 27.5, "control_psnr": 14.25, "mean_image_psnr": 16.5, "ssim": 0.91, "perceptual": 0.12}
    scores = tuple(measured(name, value).model_copy(update={"unit": "dB"}) for name, value in values.items())
    attack = given.model_copy(update={"scores": (*given.scores, *scores)})
    target = sample_target(
        split={"layer": LAYER, "shape": (32, 8, 8)}, access=(Access.WHITE_BOX, Access.SPLIT, Access.SCORE, Access.LABEL)
    )
    return sample_report(attacks=(*sample_attacks(), attack), target=target)


def pictures():
    row = sample_gallery().rows[0]
    pngs = row.reconstructions_png
    return Gallery(rows=(GalleryRow.model_validate(row.model_dump() | {"originals_png": pngs}),))


def test_the_page_shows_scores_with_both_controls_and_escapes_the_layer():
    page = render_html(report())
    assert "What passes at layer1&lt;script&gt;" in page
    assert "<script" not in page
    for text in ("27.50", "14.25", "16.50", "PSNR, other image", "SSIM, mean image", "32\u00d78\u00d78"):
        assert text in page
    assert "their attacker is the server" in page


def test_pairs_of_private_image_and_reconstruction_are_blurred_like_all_pictures():
    page = render_html(report(), pictures())
    n = len(pictures().rows[0].reconstructions_png)
    assert page.count("private image, rebuilt as") == n > 0
    assert page.index("private image, rebuilt as") < page.index("recognised</figcaption>")
    assert "filter: blur" in page
    shown = page[page.index('class="rows"') :]
    assert shown.count("<img") == shown.count('<div class="frame"><img')


def test_an_original_that_is_no_picture_is_never_embedded():
    row = pictures().rows[0].model_copy(update={"originals_png": (b"<svg onload=x>",)})
    page = render_html(report(), Gallery(rows=(row,)))
    assert "private image, rebuilt as" not in page


def test_markdown_has_the_table_and_other_reports_have_none():
    text = render_markdown(report())
    assert "PSNR, other image" in text
    assert "27.50" in text
    assert "PSNR" not in render_markdown(sample_report())
    assert "What passes at" not in render_html(sample_report())


def test_the_terminal_shows_the_three_scores(capsys):
    print_report(report())
    out = capsys.readouterr().out
    assert "PSNR dB 27.50 [27.48, 27.52] (other image 14.25, mean image 16.50)" in out
    assert "perceptual 0.12" in out
    print_report(sample_report())
    assert "PSNR" not in capsys.readouterr().out
