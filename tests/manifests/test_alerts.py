"""The alerts of the overlay `monitoring`: the same with and without an operator, and raised when they should be."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "k8s/overlays/monitoring"
ALERTS = MONITORING / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")


def promtool(*arguments: str | Path) -> str:
    if not (program := shutil.which("promtool")):
        pytest.skip("promtool is not installed; it comes with prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_of_the_operator_are_those_of_the_file() -> None:
    operators = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert operators["spec"] == yaml.safe_load(ALERTS.read_text())


def test_the_rules_are_valid() -> None:
    assert "10 rules found" in promtool("check", "rules", ALERTS)


def test_each_alert_is_raised_and_withheld_by_a_case() -> None:
    promtool("test", "rules", CASES)
    cases = yaml.safe_load(CASES.read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    raised = {check["alertname"] for check in checks if check["exp_alerts"]}
    withheld = {check["alertname"] for check in checks if not check["exp_alerts"]}
    names = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert raised == withheld == names
