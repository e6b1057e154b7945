"""The table at the end: what leads, what ties, what is not known."""

import numpy as np
import pytest

from jaxir.evaluation.plots import draw_heat_maps
from jaxir.evaluation.tables import column_values, print_comparison, print_settings


def _report(monolingual, cross_lingual=0.5, multilingual=0.4, distance=100.0):
    return {
        "monolingual": {"map": monolingual},
        "cross_lingual": {"map": cross_lingual},
        "multilingual": {"map": multilingual, "rank_distance": distance},
    }


def test_settings_within_the_range_of_seeds_tie_and_others_do_not(capsys):
    ties = print_comparison(
        "task",
        {
            "a": [_report(0.80, distance=100), _report(0.90, distance=110)],
            "b": [_report(0.79, distance=300), _report(0.80, distance=310)],
            "c": [_report(0.10, distance=104), _report(0.12, distance=108)],
        },
    )
    monolingual = [tie for tie in ties if tie.startswith("monolingual")]
    assert monolingual == ["monolingual mAP: b ties with a"]
    # less distance is better: a leads with 105 on average, c is 106
    assert [tie for tie in ties if tie.startswith("rank")] == ["rank distance: c ties with a"]
    assert "0.850 ±0.050" in capsys.readouterr().out


def test_what_is_not_known_is_a_dash(capsys):
    assert np.isnan(column_values(_report(0.5, cross_lingual=None))[1])
    print_settings("task", {"only": _report(0.5, cross_lingual=None)})
    assert " - " in capsys.readouterr().out


def test_what_no_run_knows_is_a_dash_and_no_tie(capsys):
    runs = [_report(0.5, cross_lingual=None), _report(0.6, cross_lingual=None)]
    ties = print_comparison("task", {"a": runs, "b": runs})
    assert not [tie for tie in ties if tie.startswith("cross-lingual")]
    assert " - " in capsys.readouterr().out


@pytest.mark.parametrize("systems", [1, 2])
def test_heat_maps_of_matrices_with_gaps(tmp_path, systems):
    matrix = np.array([[0.5, np.nan], [0.1, 0.9]])
    maps = {f"system {number}": matrix / (number + 1) for number in range(systems)}
    draw_heat_maps(maps, ("de", "en"), "mAP, x", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5_000
