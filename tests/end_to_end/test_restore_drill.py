"""The drill of docs/OPERATIONS.md: copy while it works, lose everything but the keys, put the copy back, go on."""

import shutil

from tests.admin.shell import blind_oracle
from tests.end_to_end.load import load_on
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, system_with


def operator(system: System, *words: object) -> str:
    result = blind_oracle(*map(str, words), environment={"BLIND_ORACLE_CONFIG": str(system.directory / "oracle.yaml")})
    assert result.status == 0, result.errors
    return result.output


def test_an_oracle_goes_on_from_a_copy_that_was_taken_under_load(offline: Offline) -> None:
    with system_with({"modern": offline.exports["modern"]}) as system:
        copy = system.directory / "copy"
        with load_on(system, [offline.keygrips["modern"]]) as load:
            load.wait_for(20)
            operator(system, "backup", "take", copy)
            load.wait_for(20)
            operator(system, "backup", "check", copy)
        operator(system, "backup", "take", copy)
        signed = len(system.signed())

        system.stop()
        shutil.rmtree(system.audit)
        for file in (system.directory / "oracle").glob("registry.sqlite*"):
            file.unlink()

        checked = operator(system, "backup", "check", copy, "--public-key", copy / "configuration" / "audit.pub")
        assert "1 build servers" in checked
        shutil.copytree(copy / "audit", system.audit)
        shutil.copy2(copy / "registry.sqlite", system.directory / "oracle" / "registry.sqlite")
        system.start()
        assert system.sign().returncode == 0
        assert len(system.signed()) == signed + 1
        assert (
            load.digests.items() <= {record["signature_sha256"]: record["digest"] for record in system.signed()}.items()
        )
        system.assert_log_is_whole()
        assert "does not fit" not in system.log("oracle")  # no relay has seen more of the log than the copy had


def test_a_copy_from_before_the_last_signatures_shows_as_a_log_that_was_cut(offline: Offline) -> None:
    with system_with({"modern": offline.exports["modern"]}) as system:
        copy = system.directory / "copy"
        assert system.sign().returncode == 0
        operator(system, "backup", "take", copy)
        assert system.sign().returncode == 0
        system.stop()
        shutil.rmtree(system.audit)
        shutil.copytree(copy / "audit", system.audit)
        heads = system.directory / "relay" / "state" / "heads.json"
        proof = blind_oracle("audit", "verify", system.audit, "--head", heads)
        assert proof.status == 1
        assert "cut off" in proof.output
