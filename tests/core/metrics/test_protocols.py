import pytest

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.protocols import CONVENTION_METRICS, PROTOCOLS, metric_names


def test_protocols_name_their_metrics() -> None:
    assert metric_names(PROTOCOLS["both"], None) == ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "ssim_yiq")
    assert metric_names(PROTOCOLS["osediff"], None) == ("psnr_y", "ssim_y")
    assert metric_names(PROTOCOLS["rgb"], None) == ("psnr_rgb", "ssim_rgb")
    assert metric_names(PROTOCOLS["paper"], None) == ("psnr_rgb", "ssim_yiq")


def test_bare_psnr_and_ssim_are_those_of_the_protocol() -> None:
    assert metric_names(PROTOCOLS["osediff"], " PSNR, ssim,niqe ,niqe") == ("psnr_y", "ssim_y", "niqe")
    assert metric_names(PROTOCOLS["paper"], "ssim") == ("ssim_yiq",)
    assert metric_names(PROTOCOLS["both"], "psnr,ssim_yiq") == ("psnr_y", "psnr_rgb", "ssim_yiq")


def test_a_metric_of_another_colour_space_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--protocol osediff means .*16-235.*excludes psnr_rgb"):
        metric_names(PROTOCOLS["osediff"], "psnr_y,psnr_rgb")
    with pytest.raises(UsageError, match="names no metric"):
        metric_names(PROTOCOLS["both"], " ,")


def test_full_is_every_metric_of_the_published_tables() -> None:
    for convention, metrics in CONVENTION_METRICS.items():
        assert metric_names(PROTOCOLS[convention], "full") == metrics
        assert set(metrics) < set(metric_names(PROTOCOLS["both"], "full"))


def test_maniqa_is_that_of_the_protocol() -> None:
    assert metric_names(PROTOCOLS["osediff"], "maniqa") == ("maniqa-pipal",)
    assert metric_names(PROTOCOLS["paper"], "maniqa") == ("maniqa",)
    assert metric_names(PROTOCOLS["both"], "maniqa") == ("maniqa-pipal", "maniqa")
    assert metric_names(PROTOCOLS["rgb"], "maniqa") == ("maniqa",)
    with pytest.raises(UsageError, match="MANIQA of KonIQ, which excludes maniqa-pipal"):
        metric_names(PROTOCOLS["paper"], "maniqa-pipal")
