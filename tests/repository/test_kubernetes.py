"""The chart and the manifests say of the gateway what is so, and one another nothing else."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from pydantic import BaseModel

import gateway
from docs.generate import section_of
from docs.instruments import instruments
from gateway.cli import main
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.pod import MANIFESTS, Pod, container, objects, pod

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def environ() -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container()["env"]}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_manifests_are_what_the_chart_renders() -> None:
    """It takes Helm to tell; this tells that nothing has changed since Helm was asked."""
    recorded = {}
    for line in (MANIFESTS / "rendered.sha256").read_text("utf-8").splitlines():
        digest, _, path = line.partition("  ")
        recorded[path] = digest
    inputs = [CHART / "Chart.yaml", CHART / "values.yaml", *(CHART / "templates").iterdir()]
    rendered = [file for file in MANIFESTS.glob("*.yaml") if file.name != "kustomization.yaml"]
    now = {
        str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [*inputs, *rendered]
    }
    assert now == recorded, "bash .ci/chart --record"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == chart["version"] == gateway.__version__
    assert container()["image"] == f"streaming-gateway:{gateway.__version__}"


def test_the_chart_has_no_rules_and_no_dashboards_of_its_own() -> None:
    links = {file.name: file.resolve() for file in (CHART / "files").iterdir()}
    assert links == {
        "gateway.rules.yml": ROOT / "deploy" / "prometheus" / "gateway.rules.yml",
        **{file.name: file for file in (ROOT / "deploy" / "grafana" / "dashboards").iterdir()},
    }
    assert all(file.is_symlink() and file.exists() for file in (CHART / "files").iterdir())
    templates = "".join(file.read_text("utf-8") for file in (CHART / "templates").iterdir())
    named = re.findall(r'\.Files\.(?:Get|Glob) "files/([^"]+)"', templates)
    assert all(any(fnmatch(name, pattern) for pattern in named) for name in links)
    assert "alert:" not in templates
    assert list(yaml.safe_load(links["gateway.rules.yml"].read_text("utf-8"))) == ["groups"]


def test_the_schema_of_values_knows_every_value_and_no_other() -> None:
    schema = orjson.loads((CHART / "values.schema.json").read_bytes())
    assert set(schema["properties"]) - {"global"} == set(VALUES)
    for name, value in VALUES.items():
        known = schema["properties"][name]
        if "$ref" in known:
            known = schema["$defs"][known["$ref"].removeprefix("#/$defs/")]
        if known.get("additionalProperties") is False:
            assert set(known["properties"]) == set(value), name


def test_every_variable_is_a_setting() -> None:
    for name in environ():
        model: type[BaseModel] | None = Settings
        for part in name.removeprefix("GATEWAY_").lower().split("__"):
            assert model is not None, name
            assert part in model.model_fields, name
            model = section_of(model.model_fields[part])


def settings() -> Settings:
    """What is in force in a pod, where no file is read."""
    literal = {name: value for name, value in environ().items() if not value.startswith("file:")}
    return load(environ=literal)


def test_one_worker_to_a_pod() -> None:
    assert environ()["GATEWAY_WORKERS"] == "1"


def test_the_kubelet_waits_longer_than_the_notice_and_the_drain() -> None:
    in_force = settings()
    patience = pod()["spec"]["terminationGracePeriodSeconds"]
    assert (
        patience >= in_force.drain_notice_seconds + in_force.drain_seconds + VALUES["drain"]["marginSeconds"]
    )
    assert in_force.drain_seconds == Settings.model_fields["drain_seconds"].default
    assert "preStop" not in str(pod()), "the notice is what a preStop would be for"


def test_a_pod_that_hangs_is_not_waited_for_as_one_that_drains_is() -> None:
    assert container()["livenessProbe"]["terminationGracePeriodSeconds"] <= 30


def test_the_container_is_the_images_user_with_no_rights() -> None:
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
    within = pod()["spec"]["securityContext"]
    assert within["runAsUser"] == within["runAsGroup"] == within["fsGroup"] == int(user)
    assert within["runAsNonRoot"] is True
    assert within["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["spec"]["automountServiceAccountToken"] is False
    assert pod()["spec"]["enableServiceLinks"] is False


def test_ports_are_those_that_the_image_listens_on() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    in_force = settings()
    assert in_force.listen == f"0.0.0.0:{ports['http']}"
    assert in_force.admin_listen == f"0.0.0.0:{ports['private']}"
    assert f"GATEWAY_LISTEN={in_force.listen} " in DOCKERFILE
    assert f"GATEWAY_ADMIN_LISTEN={in_force.admin_listen} " in DOCKERFILE
    (exposed,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert sorted(exposed.split()) == sorted(map(str, ports.values()))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["port"] == "private"


def test_what_goes_by_labels_and_ports_finds_the_pods() -> None:
    labels = pod()["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    found = objects()
    assert matches(found["Deployment/gateway"]["spec"]["selector"]["matchLabels"], labels)
    assert matches(found["PodDisruptionBudget/gateway"]["spec"]["selector"]["matchLabels"], labels)
    policy = found["NetworkPolicy/gateway"]["spec"]
    assert matches(policy["podSelector"]["matchLabels"], labels)
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == set(ports.values())
    for spread in pod()["spec"]["topologySpreadConstraints"]:
        assert matches(spread["labelSelector"]["matchLabels"], labels)
    for name, served in (("gateway", "http"), ("gateway-private", "private")):
        service = found[f"Service/{name}"]["spec"]
        assert matches(service["selector"], labels)
        assert [port["targetPort"] for port in service["ports"]] == [served]


def test_clients_do_not_reach_the_private_listener() -> None:
    by_port = {
        rule["ports"][0]["port"]: rule for rule in objects()["NetworkPolicy/gateway"]["spec"]["ingress"]
    }
    assert by_port[9090]["from"] == VALUES["networkPolicy"]["monitoring"]
    assert all(rule.get("from") for rule in by_port.values())


def test_pods_reach_names_redis_and_the_world_but_nothing_inside() -> None:
    egress = objects()["NetworkPolicy/gateway"]["spec"]["egress"]
    reached = {(port["protocol"], port["port"]): rule["to"] for rule in egress for port in rule["ports"]}
    assert set(reached) == {("UDP", 53), ("TCP", 53), ("TCP", 6379), ("TCP", 443)}
    world = [peer["ipBlock"] for peer in reached["TCP", 443]]
    assert [block["cidr"] for block in world] == ["0.0.0.0/0", "::/0"]
    assert "169.254.0.0/16" in world[0]["except"], "where clouds hand out credentials"


def test_prometheus_finds_the_private_listener_of_all_under_one_job() -> None:
    (monitor,) = objects("service-monitor.yaml").values()
    service = objects()["Service/gateway-private"]
    public = objects()["Service/gateway"]
    (endpoint,) = monitor["spec"]["endpoints"]
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert matches(selector, service["metadata"]["labels"])
    assert not matches(selector, public["metadata"]["labels"])
    assert [endpoint["port"]] == [port["name"] for port in service["spec"]["ports"]]
    assert service["spec"]["publishNotReadyAddresses"] is True, "pods that drain are still to be seen"
    of_the_operator = {"namespace", "service", "pod", "container", "endpoint", "job", "instance"}
    assert not of_the_operator & {label for _, _, labels, _, _ in instruments() for label in labels}
    jobs = [each["replacement"] for each in endpoint["relabelings"] if each["targetLabel"] == "job"]
    assert len(jobs) == 1, "all of a release are one job, which is what rules call a gateway"


def adapter_rule() -> dict[str, Any]:
    """The rule for prometheus-adapter that the documents show."""
    text = (ROOT / "docs" / "operations" / "kubernetes.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(rules:\n.*?)```", text, re.DOTALL)
    (rule,) = yaml.safe_load(block)["rules"]["custom"]
    return rule


def test_the_autoscaler_goes_by_what_is_measured() -> None:
    (autoscaler,) = objects("autoscaler.yaml").values()
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "gateway"
    (metric,) = [each["pods"]["metric"]["name"] for each in autoscaler["spec"]["metrics"] if "pods" in each]
    assert (metric, "gauge") in {(name, kind) for name, kind, _, _, _ in instruments()}
    rule = adapter_rule()
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert (
        autoscaler["spec"]["minReplicas"] > objects()["PodDisruptionBudget/gateway"]["spec"]["maxUnavailable"]
    )


def test_memory_holds_the_bodies_and_the_two_readers_of_the_largest() -> None:
    """Where it does not, the kernel ends the whole container: the kubelet has it do so."""
    edge = settings().edge
    limit = int(container()["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    process, readers = 150 * 2**20, 2 * (18 * 2**20 + 6 * edge.max_json_body_bytes)
    assert edge.body_memory_bytes == 0, "a quarter of the limit"
    assert process + limit / 4 + readers < limit
    assert "cpu" not in container()["resources"]["limits"]


def test_kustomize_knows_every_manifest() -> None:
    text = (MANIFESTS / "kustomization.yaml").read_text("utf-8")
    active = yaml.safe_load(text)
    assert active["resources"] == ["gateway.yaml"]
    whole = yaml.safe_load(re.sub(r"^(  )?# (?=  |- |patches:)", r"\1", text, flags=re.MULTILINE))
    named = {file.name for file in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(whole["resources"]) == named
    assert active["images"][0]["name"] == container()["image"].partition(":")[0]
    (patch,) = whole["patches"]
    assert orjson.loads(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]


def test_the_configuration_inside_is_valid_as_it_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted = Pod(tmp_path)
    mounted.mount("config", objects()["ConfigMap/gateway"]["data"])
    mounted.mount("secrets", {"upstream-key": "sk-x\n", "redis-url": "redis://:secret@redis:6379/0\n"})
    for name, value in mounted.environ.items():
        monkeypatch.setenv(name, value)
    _, *options = mounted.arguments
    assert main(["check", *options]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "warning" not in said.err.lower(), said.err


def test_a_secret_is_named_and_never_held() -> None:
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    for volume in ("secrets", "keys"):
        assert volumes[volume]["secret"]["secretName"] == VALUES[volume]["existingSecret"]
        assert volumes[volume]["secret"]["defaultMode"] == 0o440
    assert not [name for name in objects() if name.startswith("Secret/")]
    templates = "".join(file.read_text("utf-8") for file in (CHART / "templates").iterdir())
    assert "kind: Secret\n" not in templates
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert mounts["keys"]["mountPath"] == environ()["GATEWAY_KEYS_DIR"]
    assert not any("subPath" in mount for mount in mounts.values()), "it would never change"
