"""deploy/helm rendered by Helm's own engine (helm-python-sdk) and held against Kubernetes' schemas;
alert rules run by promtool; rules and dashboard name only metrics that there are.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from engine import EngineClient, Stats, WorkerState
from qtts_openai.http.metrics import Metrics
from qtts_openai.settings_file import parse_settings

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy" / "helm" / "qtts"
MONITORING = ROOT / "deploy" / "monitoring"
KUBERNETES = ("1.27", "1.34")

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "gpus": {
        "gpu": {"count": 2},
        "auth": {"keys": ["anna: sk-1", "sk-2"]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
    "many": {
        "voices": {"bucket": "s3://voices/tts", "envFromSecret": "aws"},
        "redis": {"url": "redis://redis:6379/0", "passwordSecret": {"name": "redis"}},
        "persistence": {"enabled": False},
        "autoscaling": {"enabled": True},
        "auth": {"existingSecret": "keys"},
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "speech"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "extraEnv": [{"name": "X", "value": "y"}],
    },
}


def render(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values=values, name="speech", namespace="tts")
    texts = (text for path, text in files.items() if path.endswith(".yaml"))
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return {one["kind"]: one for one in found}


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_renders_what_kubernetes_takes(name):
    validate = pytest.importorskip("kubernetes_validate", reason="is not installed").validate
    kinds = render(VALUES[name])
    for kind, one in kinds.items():
        if one["apiVersion"].startswith("monitoring.coreos.com"):
            continue  # of the Prometheus operator
        for version in KUBERNETES:
            validate(one, version, strict=True)
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "speech", kind
    needed = {"Deployment", "Service", "ConfigMap", "ServiceAccount", "NetworkPolicy"}
    assert needed | {"PodDisruptionBudget"} <= kinds.keys()


def test_helm_finds_nothing_to_say():
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    result = helm.lint(str(CHART), strict=True)
    worse = [one for one in result.get("messages", []) if one.get("severity", 0) > 1]
    assert not worse, worse


@pytest.mark.parametrize("name", VALUES)
def test_the_server_takes_the_configuration(name):
    kinds = render(VALUES[name])
    settings = parse_settings(kinds["ConfigMap"]["data"]["config.yaml"])
    assert settings.server.host == "0.0.0.0" and settings.server.json_logs
    if name == "gpus":
        assert (settings.engine.device, settings.engine.data_parallel_size) == ("cuda", 2)
        assert kinds["Secret"]["stringData"]["api-keys"] == "anna: sk-1\nsk-2\n"
    if name == "many":
        assert settings.voices.object_store == "s3://voices/tts"
        assert settings.limits.store == "redis://redis:6379/0"
        assert settings.auth.keys_file == "/etc/qtts/keys/api-keys"
        assert "PersistentVolumeClaim" not in kinds and "Secret" not in kinds


def test_pods_are_confined_and_end_after_their_answers():
    kinds = render(VALUES["gpus"])
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    confined = container["securityContext"]
    assert confined["readOnlyRootFilesystem"] and confined["capabilities"] == {"drop": ["ALL"]}
    drain_s = parse_settings(kinds["ConfigMap"]["data"]["config.yaml"]).server.drain_s
    assert pod["terminationGracePeriodSeconds"] >= drain_s + 20
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert kinds["Deployment"]["spec"]["strategy"]["type"] == "Recreate"
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in pod["volumes"]}


def test_many_replicas_scale_on_what_is_spoken_and_waits():
    kinds = render(VALUES["many"])
    assert "replicas" not in kinds["Deployment"]["spec"]
    (metric,) = kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in exported()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "ReadWriteOnce"),
        ({"auth": {"keys": ["a"], "existingSecret": "b"}}, "not both"),
    ],
)
def test_what_cannot_work_is_not_rendered(values, said):
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with pytest.raises(helm.HelmError, match=said):
        render(values)


class FakeClient:
    status = "ready"
    num_places = 16
    stats = (Stats(**dict.fromkeys(Stats.__struct_fields__, 3)),)
    workers = (WorkerState("ready", 1, stats[0]),)


def exported() -> set[str]:
    """Names as a scrape has them."""
    text = Metrics(cast(EngineClient, FakeClient())).render()[0].decode()
    named = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    return named | {f"{name}_bucket" for name in named}


def used(text: str) -> set[str]:
    return set(re.findall(r"\b(?:qtts|vllm)[_:][a-z_:]+", text))


def test_rules_and_dashboard_name_metrics_that_there_are():
    rules = yaml.safe_load((CHART / "rules.yaml").read_text())
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    names = used(json.dumps(rules)) | used(json.dumps(dashboard["panels"]))
    assert len(names) > 10 and names <= exported(), names - exported()


def test_promtool_fires_the_alerts_and_likes_the_names():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; apt-get install prometheus")
    command = [promtool, "test", "rules", str(MONITORING / "rules_test.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    text = Metrics(cast(EngineClient, FakeClient())).render()[0]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    said = [line for line in checked.stderr.decode().splitlines() if not line.startswith("vllm:")]
    assert not said
