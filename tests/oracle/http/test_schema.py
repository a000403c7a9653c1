"""The API against its own OpenAPI document: whatever schemathesis makes up is answered as that says."""

import os
import subprocess
import sys
from pathlib import Path

import trio

from tests.oracle.http.conftest import Api

# Valid by its form, a state may still be impossible; a runner may lack the key that was asked for.
NOT_FOR_US = "positive_data_acceptance"
EXAMPLES = 15  # of each operation; the seed is fixed, so each run makes the same ones
LIMIT_SECONDS = 300.0


async def test_every_answer_is_as_the_openapi_document_says(api: Api) -> None:
    directory = api.world.directory
    api.a.certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "client.pem"))
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"https://{api.address}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {api.a.token}", "--request-cert", str(directory / "client.pem")]
    command += ["--tls-verify", str(directory / "authority.crt"), "--seed", "1", "--max-examples", str(EXAMPLES)]
    command += ["--phases", "examples,coverage,fuzzing", "--checks", "all", "--exclude-checks", NOT_FOR_US]
    command += [
        "--suppress-health-check",
        "all",
        "--generation-database",
        "none",
        "--no-color",
        "--continue-on-failure",
    ]
    with trio.fail_after(LIMIT_SECONDS):
        done = await trio.run_process(
            command,
            cwd=directory,
            env={**os.environ, "HOME": str(directory)},
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-6000:]
    assert "7 tested" in said or "Tested: 7" in said, said[-3000:]
