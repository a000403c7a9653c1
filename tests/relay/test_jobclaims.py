import pytest

from relay.jobclaims import (
    WANTED_VARIABLES,
    EnvironmentClaims,
    claims_of_disttag,
    claims_of_environment,
    claims_of_hint,
)


@pytest.mark.parametrize(
    ("hint", "claims"),
    [
        ("", EnvironmentClaims()),
        ("USE_CURSES=1", EnvironmentClaims()),
        ("blind-oracle", EnvironmentClaims()),
        ("blind-oracle-not project=x", EnvironmentClaims()),
        (
            "blind-oracle project=group/hello pipeline=77 job=1234 url=https://ci.example.org/jobs/1234",
            EnvironmentClaims(
                {"project": "group/hello", "pipeline": "77", "job": "1234", "url": "https://ci.example.org/jobs/1234"}
            ),
        ),
        ("blind-oracle project=a%20b%c3%bc%3D100%25", EnvironmentClaims({"project": "a bü=100%"})),
        ("blind-oracle project=%0a%1b%zz%", EnvironmentClaims({"project": "??%zz%"})),
        ("blind-oracle project=%ff", EnvironmentClaims({"project": "\ufffd"})),
        ("blind-oracle project= =x = pipeline token=secret CI_JOB_TOKEN=secret", EnvironmentClaims()),
        ("blind-oracle project=first project=second", EnvironmentClaims({"project": "first"})),
        ("blind-oracle distribution=el10-x86_64", EnvironmentClaims({}, ("el10-x86_64",))),
        ("blind-oracle distribution=el%2010", EnvironmentClaims()),
        ("blind-oracle distribution=" + "x" * 65, EnvironmentClaims()),
        (
            "blind-oracle file=/x/hello.rpm package=hello-0:1-1.noarch",
            EnvironmentClaims({}, (), "/x/hello.rpm", "hello-0:1-1.noarch"),
        ),
        ("blind-oracle project=" + "x" * 900, EnvironmentClaims({"project": "x" * 256})),
        ("blind-oracle url=https://me:secret@ci.example.org/1?token=secret#x", EnvironmentClaims({"url": "https://ci.example.org/1"})),
    ],
)  # fmt: skip
def test_a_hint_is_read_or_left_out(hint: str, claims: EnvironmentClaims) -> None:
    assert claims_of_hint(hint) == claims


@pytest.mark.parametrize(
    ("disttag", "names"),
    [
        (None, ()),
        ("", ()),
        ("el10", ("el10",)),
        (".el9", ("el9",)),
        (".el9_4.alma.1", ("el9",)),
        ("fc41", ("fc41",)),
        ("el10-x86_64", ("el10-x86_64",)),
        ("10", ("10",)),
        ("el\n9", ("el",)),
        ("*", ()),
        ("x" * 65, ()),
    ],
)
def test_a_disttag_names_a_distribution(disttag: str | None, names: tuple[str, ...]) -> None:
    assert claims_of_disttag(disttag) == names


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "5"}, {"project": "o/r", "pipeline": "5"}),
        ({"JOB_NAME": "hello", "BUILD_URL": "https://j/6"}, {"project": "hello", "url": "https://j/6"}),
        ({"BUILD_URL": "https://ci:hunter@2@j/7"}, {"url": "https://j/7"}),
        ({"CI_PROJECT_PATH": "g/p", "JOB_NAME": "other"}, {"project": "g/p"}),
        ({"CI_JOB_ID": ""}, {}),
        ({"CI_JOB_ID": "7\nsigned, forged"}, {"job": "7?signed, forged"}),
    ],
)  # fmt: skip
def test_jobs_of_several_ci_systems_are_known(variables: dict[str, str], job: dict[str, str]) -> None:
    assert claims_of_environment(variables.items()) == EnvironmentClaims(job)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        (b"", []),
        (b"CI_JOB_ID=1\0PATH=/bin\0CI_PIPELINE_ID=2\0", [(b"CI_JOB_ID", b"1"), (b"CI_PIPELINE_ID", b"2")]),
        (b"A=1\0CI_JOB_ID=1\0CI_JOB_ID=2\0", [(b"CI_JOB_ID", b"1"), (b"CI_JOB_ID", b"2")]),
        (b"XCI_JOB_ID=1\0CI_JOB_ID_=2\0ci_job_id=3\0", []),
        (b"A=CI_JOB_ID=1\0B=x\nCI_JOB_ID=2\0", []),
        (b"CI_JOB_ID=a=b\nc\0", [(b"CI_JOB_ID", b"a=b\nc")]),
        (b"CI_JOB_ID=\0\0CI_JOB_ID\0=\0", [(b"CI_JOB_ID", b"")]),
        (b"CI_JOB_URL=https://cut", [(b"CI_JOB_URL", b"https://cut")]),
    ],
)
def test_of_an_environment_only_whole_names_count(environ: bytes, found: list[tuple[bytes, bytes]]) -> None:
    assert WANTED_VARIABLES.findall(b"\0" + environ) == found
