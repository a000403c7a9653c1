"""The alert rules, checked and run by the real promtool, and held against metrics and documents."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deployment" / "prometheus"
RULES = FILES / "blind-oracle.rules.yml"
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
DAY = 86_400


def promtool(*words: object) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_rules_and_configuration() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", FILES / "prometheus.yml")


# For each alert: series that must bring it, and the same that must not. Values are for one sample a minute.
ORACLE = 'instance="o", job="blind-oracle"'
RELAY = 'instance="r", job="blind-oracle-relay"'
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "OracleDown": ({f"up{{{ORACLE}}}": "0x180"}, {f"up{{{ORACLE}}}": "1x180"}),
    "SignerDown": ({f"blind_oracle_signer_up{{{ORACLE}}}": "0x180"}, {f"blind_oracle_signer_up{{{ORACLE}}}": "1x180"}),
    "AuditLogNotWritable": (
        {f"blind_oracle_audit_log_writable{{{ORACLE}}}": "0x180", f"blind_oracle_signer_up{{{ORACLE}}}": "1x180"},
        {f"blind_oracle_audit_log_writable{{{ORACLE}}}": "0x180", f"blind_oracle_signer_up{{{ORACLE}}}": "0x180"},
    ),
    "RegistryOutOfReach": (
        {f"blind_oracle_registry_fresh{{{ORACLE}}}": "0x180"},
        {f"blind_oracle_registry_fresh{{{ORACLE}}}": "1x180"},
    ),
    "CheckpointOverdue": (
        {
            f"blind_oracle_audit_checkpoint_timestamp_seconds{{{ORACLE}}}": "0x180",
            f"blind_oracle_audit_log_sequence{{{ORACLE}}}": "0+10x180",
        },
        {
            f"blind_oracle_audit_checkpoint_timestamp_seconds{{{ORACLE}}}": "0x180",
            f"blind_oracle_audit_log_sequence{{{ORACLE}}}": "7x180",  # nothing to sign
        },
    ),
    "AuditLogGrowsFast": (
        {f"blind_oracle_audit_log_bytes{{{ORACLE}}}": "0+10000000x180"},
        {f"blind_oracle_audit_log_bytes{{{ORACLE}}}": "0+1000000x180"},
    ),
    "SignaturesFail": (
        {f'blind_oracle_failures_total{{{ORACLE}, code="backend"}}': "0+1x180"},
        {f'blind_oracle_failures_total{{{ORACLE}, code="backend"}}': "5x180"},
    ),
    "WrongSignature": (
        {f'blind_oracle_failures_total{{{ORACLE}, code="bad_signature"}}': "0x170 1x10"},
        {f'blind_oracle_failures_total{{{ORACLE}, code="bad_signature"}}': "1x180"},
    ),
    "ManyRefusals": (
        {f'blind_oracle_refusals_total{{{ORACLE}, code="forbidden"}}': "0+60x180"},
        {f'blind_oracle_refusals_total{{{ORACLE}, code="rate_limited"}}': "0+60x180"},
    ),
    "ManyRejections": (
        {f'blind_oracle_rejections_total{{{ORACLE}, code="token_unknown"}}': "0+60x180"},
        {f'blind_oracle_rejections_total{{{ORACLE}, code="token_unknown"}}': "0+1x180"},
    ),
    "RateLimitHit": (
        {f"blind_oracle_rate_limit_hits_total{{{ORACLE}}}": "0+1x180"},
        {f"blind_oracle_rate_limit_hits_total{{{ORACLE}}}": "9x180"},
    ),
    "QueueLong": (
        {f'blind_oracle_queue_length{{{ORACLE}, priority="{p}"}}': "600x180" for p in ("bulk", "normal")},
        {f'blind_oracle_queue_length{{{ORACLE}, priority="bulk"}}': "600x180"},
    ),
    "UrgentWorkWaits": (
        {f'blind_oracle_queue_length{{{ORACLE}, priority="urgent"}}': "51x180"},
        {f'blind_oracle_queue_length{{{ORACLE}, priority="bulk"}}': "51x180"},
    ),
    "SignaturesSlow": (
        {
            f'blind_oracle_stage_seconds_bucket{{{ORACLE}, stage="signer", le="1.0"}}': "0x180",
            f'blind_oracle_stage_seconds_bucket{{{ORACLE}, stage="signer", le="2.0"}}': "0+60x180",
            f'blind_oracle_stage_seconds_bucket{{{ORACLE}, stage="signer", le="+Inf"}}': "0+60x180",
        },
        {
            f'blind_oracle_stage_seconds_bucket{{{ORACLE}, stage="signer", le="0.01"}}': "0+60x180",
            f'blind_oracle_stage_seconds_bucket{{{ORACLE}, stage="signer", le="+Inf"}}': "0+60x180",
        },
    ),
    "AuditWritesSlow": (
        {
            f'blind_oracle_signer_stage_seconds_bucket{{{ORACLE}, stage="audit", le="0.5"}}': "0x180",
            f'blind_oracle_signer_stage_seconds_bucket{{{ORACLE}, stage="audit", le="1.0"}}': "0+60x180",
            f'blind_oracle_signer_stage_seconds_bucket{{{ORACLE}, stage="audit", le="+Inf"}}': "0+60x180",
        },
        {
            f'blind_oracle_signer_stage_seconds_bucket{{{ORACLE}, stage="audit", le="0.01"}}': "0+60x180",
            f'blind_oracle_signer_stage_seconds_bucket{{{ORACLE}, stage="audit", le="+Inf"}}': "0+60x180",
        },
    ),
    "EndsWithin30Days": (
        {f'blind_oracle_expiry_timestamp_seconds{{{ORACLE}, what="key modern"}}': f"{20 * DAY}x180"},
        {f'blind_oracle_expiry_timestamp_seconds{{{ORACLE}, what="key modern"}}': f"{40 * DAY}x180"},
    ),
    "EndsWithin7Days": (
        {f'blind_oracle_expiry_timestamp_seconds{{{ORACLE}, what="token of b1"}}': f"{3 * DAY}x180"},
        {f'blind_oracle_expiry_timestamp_seconds{{{ORACLE}, what="token of b1"}}': f"{20 * DAY}x180"},
    ),
    "CertifyingKeyAccepted": (
        {f'blind_oracle_certifying_key_accepted{{{ORACLE}, key="legacy"}}': "1x180"},
        {f'blind_oracle_certifying_key_accepted{{{ORACLE}, key="legacy"}}': "0x180"},
    ),
    "RelayDown": ({f"up{{{RELAY}}}": "0x180"}, {f"up{{{RELAY}}}": "1x180"}),
    "RelayWithoutOracle": (
        {f"blind_oracle_relay_connected{{{RELAY}}}": "0x180"},
        {f"blind_oracle_relay_connected{{{RELAY}}}": "1x180"},
    ),
    "OracleAwayForRelay": (
        {
            f'blind_oracle_relay_oracle_up{{{RELAY}, oracle="o:7443"}}': "0x180",
            f'blind_oracle_relay_oracle_spare{{{RELAY}, oracle="o:7443"}}': "0x180",
        },
        {
            f'blind_oracle_relay_oracle_up{{{RELAY}, oracle="o:7443"}}': "0x180",
            f'blind_oracle_relay_oracle_spare{{{RELAY}, oracle="o:7443"}}': "1x180",
        },
    ),
    "FallbackActive": (
        {f"blind_oracle_relay_fallback_active{{{RELAY}}}": "1x180"},
        {f"blind_oracle_relay_fallback_active{{{RELAY}}}": "0x180"},
    ),
}


OWN_KEY = f'blind_oracle_relay_expiry_timestamp_seconds{{{RELAY}, what="own key 0F1D"}}'
SERVED_KEY = (
    f'blind_oracle_relay_expiry_timestamp_seconds{{{RELAY}, what="key modern"}}'  # the oracle's alert is enough
)

# The same for what an alert has more than one reason for.
MORE_CASES: tuple[tuple[str, dict[str, str], dict[str, str]], ...] = (
    (
        "ManyRejections",
        {f'blind_oracle_rejections_total{{{ORACLE}, code="address_forbidden"}}': "0+60x180"},
        {f'blind_oracle_rejections_total{{{ORACLE}, code="not_operational"}}': "0+60x180"},  # our own fault
    ),
    ("EndsWithin30Days", {OWN_KEY: f"{20 * DAY}x180"}, {SERVED_KEY: f"{20 * DAY}x180"}),
    ("EndsWithin7Days", {OWN_KEY: f"{-3 * DAY}x180"}, {SERVED_KEY: f"{3 * DAY}x180"}),
    (
        "CheckpointOverdue",
        {f"blind_oracle_audit_log_sequence{{{ORACLE}}}": "0+10x180"},  # the first one failed already
        {f"blind_oracle_audit_log_sequence{{{ORACLE}}}": "_x165 0+10x15"},  # an oracle that has just begun
    ),
)


ALL_CASES = (*((name, *both) for name, both in CASES.items()), *MORE_CASES)


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize(("name", "bad", "good"), ALL_CASES, ids=[name for name, _, _ in ALL_CASES])
def test_every_alert_comes_when_it_should_and_only_then(
    tmp_path: Path, name: str, bad: dict[str, str], good: dict[str, str]
) -> None:
    groups = [
        {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                    "eval_time": "175m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for series, fires in ((bad, True), (good, False))
    ]
    file = tmp_path / "alerts.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": groups}))
    assert "SUCCESS" in promtool("test", "rules", file)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_every_alert_has_its_paragraph_for_whoever_is_called(name: str) -> None:
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    found = re.search(rf"^\*\*{name}\*\* \((\w+)\): (.+?)$", text, re.MULTILINE)
    assert found is not None
    assert found[1] == ALERTS[name]["labels"]["severity"]
    assert len(found[2]) > 40


def test_no_paragraph_is_about_an_alert_that_is_gone() -> None:
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    assert set(re.findall(r"^\*\*(\w+)\*\* \((?:critical|warning|info)\):", text, re.MULTILINE)) == ALERTS.keys()


def test_every_metric_of_a_rule_is_one_that_we_tell() -> None:
    used = set(re.findall(r"blind_oracle_\w+", RULES.read_text()))
    text = "".join((ROOT / name).read_text() for name in ("agentproxy/oracle/metrics.py", "relay/metrics.py"))
    told = {f"blind_oracle_{name}" for name in re.findall(r'(?:gauge|counter|histogram)\(\s*"(\w+)"', text)}
    assert {re.sub(r"_(total|bucket)$", "", name) for name in used} - told == set()
