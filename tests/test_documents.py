"""What the documents promise is there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
PAGES = (*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md")


def test_every_test_that_the_threat_table_names_exists() -> None:
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    named = set(re.findall(r"`(?:[\w/]+/)?(test_\w+)`", text))
    there = {name for path in TESTS.rglob("*.py") for name in re.findall(r"def (test_\w+)\(", path.read_text())}

    assert named
    assert named - there == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_tests_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:tests|end_to_end|relay|oracle|signer|admin)/[\w/]+\.py)`", page.read_text())

    for name in named:
        assert (ROOT / name).exists() or (TESTS / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_program_of_ours_that_a_page_calls_is_installed_by_that_name(page: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    packaged = re.findall(r'"usr/bin/([\w-]+)"', (ROOT / "deployment/packages/contents.py").read_text())
    called = re.findall(r"^(?: {4,})?((?:blind-oracle|sign-package)[\w.-]*) ", page.read_text(), re.MULTILINE)

    assert set(called) - {*scripts, *packaged} == set()


def test_a_runner_that_was_taken_over_is_enabled_only_behind_a_new_enrolment_file() -> None:
    # Where the first file still lies, `runner enroll` fails and ends nothing.
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    steps = r"rm -f build-01\.enrolment .*\n *blind-oracle runner enroll build-01 &&.*\n *blind-oracle runner enable "

    assert re.search(steps, text)


def test_in_a_container_that_goes_away_init_is_given_the_node_and_files_are_kept() -> None:
    # Else the audit log has that container's id as its node, and an enrolment file is gone with it.
    text = (ROOT / "docs" / "CONTAINERS.md").read_text()
    made, *others = re.findall(r"^podman run --rm -u 0:0 .* blind-oracle-oracle blind-oracle .*", text, re.MULTILINE)

    assert re.search(r" init --system --node \S+ ", made)
    assert others
    assert [line for line in others if not re.search(r" -v \$PWD/(\S+):/\1 -w /\1 ", line)] == []


def test_the_page_about_removal_names_the_configuration_that_goes_with_a_purge() -> None:
    # dpkg deletes conffiles then, and says nothing of them.
    conffiles = re.findall(r'configuration=\("([^"]+)",\)', (ROOT / "deployment/packages/contents.py").read_text())
    _, _, removing = (ROOT / "docs" / "INSTALL.md").read_text().partition("## Removing\n")

    assert conffiles
    assert [path for path in conffiles if path not in removing.partition("\n## ")[0]] == []
