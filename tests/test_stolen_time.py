"""What the bench says of processors that were not its own."""

from pathlib import Path

from bench.processes import Stolen

BEFORE = """cpu  100 0 50 800 10 0 5 35 20 0
cpu0 100 0 50 800 10 0 5 35 20 0
"""


def test_the_share_is_of_what_all_processors_had_since_the_first_look(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(BEFORE)
    stolen = Stolen(stat)
    assert stolen.share() == 0.0
    # 60 ticks of work, 20 of rest, 20 stolen; a guest's 500 are among those of user, and no ticks of their own.
    stat.write_text("cpu  150 0 60 820 10 0 5 55 520 0\n")
    assert stolen.share() == 0.2


def test_a_moment_in_which_a_counter_goes_back_has_a_share_of_nothing(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(BEFORE)
    stolen = Stolen(stat)
    stat.write_text("cpu  100 0 50 801 9 0 5 35 20 0\n")
    assert stolen.share() == 0.0


def test_the_kernel_s_own_file_has_what_is_read() -> None:
    assert 0.0 <= Stolen().share() <= 1.0
