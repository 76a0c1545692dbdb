"""The Helm chart and the kustomize manifests, by the engines that will read them.

`manifests.py VERB` with
    validate   the chart is free of lint, and everything it renders is accepted by every Kubernetes known here
    refuse     values that make no sense are refused by name
    documented every value has its comment, and the schema knows the same values
    equal      deploy/kubernetes is what the chart renders (`write` writes it)
    render     the pods of each set of values, as JSON on standard output
It ends with 1 and the reasons when something does not hold.
"""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/hydrometer"
MANIFESTS = ROOT / "deploy/kubernetes"
FIXTURES = ROOT / "tests/fixtures/helm"
NAMESPACE = "hydrometer"
# Models that were made of the operators' own definitions.
DEFINITIONS = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
}
# What the kustomize manifests are rendered with; each file holds what one template gives.
KUSTOMIZED = {"monitoring": {kind: {"enabled": True} for kind in ("podMonitor", "prometheusRule", "dashboards")}}
FILES = {
    "agent.yaml": "base/agent.yaml",
    "control-plane.yaml": "base/control-plane.yaml",
    "certificates.yaml": "cert-manager/certificates.yaml",
    "monitoring.yaml": "monitoring/monitoring.yaml",
}
WRITTEN = "# What deploy/helm/hydrometer renders; `cargo xtask manifests` writes it anew.\n"
# Labels that say who installed it.
HELM_LABELS = re.compile(r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n", re.MULTILINE)
# Values that Kubernetes describes.
NATIVE = {"resources", "affinity", "nodeSelector", "tolerations", "updateStrategy", "seccompProfile"}


def value_sets():
    full = yaml.safe_load((FIXTURES / "full.yaml").read_text())
    minimal = yaml.safe_load((FIXTURES / "minimal.yaml").read_text())
    secrets = {"tls": {"mode": "secrets"}, "controlPlane": {"metrics": {"enabled": False}}}
    return {"default": {}, "minimal": minimal, "full": full, "secrets": secrets, "kustomized": KUSTOMIZED}


def render(values):
    """What each template gives, by its name."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="hydrometer", namespace=NAMESPACE, is_install=True)
    return {Path(path).name: text for path, text in rendered.items() if path.endswith(".yaml")}


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def objects(values):
    return [document for text in render(values).values() for document in documents(text)]


def check_object(document, version):
    """What is wrong with it, if anything."""
    module = DEFINITIONS.get(document["apiVersion"])
    if module is None:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except Exception as error:
            yield f"Kubernetes {version}: {error}"
        return
    try:
        model = getattr(importlib.import_module(module), document["kind"]).model_validate(document)
    except Exception as error:
        yield str(error)
        return
    # A model passes over fields that it does not know.
    known = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
    yield from (f"{field} is no field" for field in lost(document, known, ""))


def lost(given, kept, path):
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        for at, (value, other) in enumerate(zip(given, kept)):
            yield from lost(value, other, f"{path}[{at}]")


def versions():
    """The oldest and the newest Kubernetes that the validator knows."""
    known = sorted({tuple(map(int, version.split("."))) for version in kubernetes_validate.utils.all_versions()})
    return [".".join(map(str, version)) for version in (known[0], known[-1])]


def validate():
    seen = set()
    for name, values in value_sets().items():
        lint = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE)
        yield from (f"{name}: lint: {error}" for error in lint["errors"])
        yield from (f"{name}: lint: {found}" for found in lint["messages"] if found["severity"] > 1)
        for version in versions():
            for document in objects(values):
                seen.add(document["kind"])
                label = f"{name}: {document['kind']} {document['metadata']['name']}"
                yield from (f"{label}: {problem}" for problem in check_object(document, version))
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        for document in documents(path.read_text()):
            if document["apiVersion"].startswith("kustomize"):
                continue
            for version in versions():
                label = f"{path.relative_to(ROOT)}: {document['kind']}"
                yield from (f"{label}: {problem}" for problem in check_object(document, version))
    yield from validator_is_awake()
    expected = {"DaemonSet", "StatefulSet", "Service", "NetworkPolicy", "PriorityClass", "Certificate", "Issuer",
                "PodMonitor", "PrometheusRule", "ConfigMap", "ServiceAccount"}
    if expected - seen:
        yield f"nothing renders {expected - seen}"
    print(f"{len(seen)} kinds of objects, Kubernetes {' and '.join(versions())}")


def validator_is_awake():
    """Faults that every validator has to find."""
    faulty = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"},
         "spec": {"selector": {}, "podMetricsEndpoints": [{"prot": "metrics"}]}},
        {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "a"},
         "spec": {"issuerRef": {"name": "a"}}},
    ]
    for document in faulty:
        if not list(check_object(document, versions()[-1])):
            yield f"a faulty {document['kind']} is accepted"


# Values that must not pass, and what the refusal has to name.
WRONG = [
    ({"agnet": {}}, "agnet"),
    ({"agent": {"interface": ["eth0"]}}, "interface"),
    ({"agent": {"interfaces": []}}, "/agent/interfaces"),
    ({"agent": {"services": ["8000", "8000"]}}, "/agent/services"),
    ({"agent": {"services": ["http"]}}, "/agent/services/0"),
    ({"agent": {"services": [8000]}}, "/agent/services/0"),
    ({"agent": {"log": "verbose"}}, "/agent/log"),
    ({"agent": {"metrics": {"port": 70000}}}, "/agent/metrics/port"),
    ({"agent": {"metrics": {"clients": 5000}}}, "/agent/metrics/clients"),
    ({"agent": {"controlPlane": {"address": "http://control:7070"}}}, "/agent/controlPlane/address"),
    ({"agent": {"image": {"digest": "sha256:12"}}}, "/agent/image/digest"),
    ({"agent": {"updateStrategy": {"type": "Recreate"}}}, "/agent/updateStrategy/type"),
    ({"agent": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}}, "/agent/updateStrategy/rollingUpdate/maxSurge"),
    ({"controlPlane": {"replicas": 3}}, "replicas"),
    ({"controlPlane": {"retainDays": 0}}, "/controlPlane/retainDays"),
    ({"controlPlane": {"persistence": {"size": "big"}}}, "/controlPlane/persistence/size"),
    ({"tls": {"mode": "none"}}, "/tls/mode"),
    ({"tls": {"clients": [{"name": "siem", "role": "admin"}]}}, "/tls/clients/0/role"),
    ({"monitoring": {"podMonitor": {"interval": "often"}}}, "/monitoring/podMonitor/interval"),
]


def refuse():
    with helm_python.Chart.load(CHART) as chart:
        for values, named in WRONG:
            try:
                chart.render(values, name="hydrometer", namespace=NAMESPACE)
                yield f"{values} is accepted"
            except helm_python.HelmError as error:
                if named not in str(error):
                    yield f"{values} is refused without {named}: {error}"
    print(f"{len(WRONG)} wrong values refused")


def documented():
    lines = (CHART / "values.yaml").read_text().splitlines()
    native_indent = None
    keys = 0
    for at, line in enumerate(lines):
        key = re.match(r"( *)([A-Za-z][\w.-]*):", line)
        if not key or (native_indent is not None and len(key[1]) > native_indent):
            continue
        native_indent = len(key[1]) if key[2] in NATIVE else None
        keys += 1
        if not lines[at - 1].lstrip().startswith("#"):
            yield f"values.yaml:{at + 1}: {key[2]} has no comment"
    values = yaml.safe_load("\n".join(lines))
    schema = json.loads((CHART / "values.schema.json").read_text())
    yield from same(values, schema, "")
    print(f"{keys} values documented")


def same(values, schema, path):
    properties = schema.get("properties", {})
    if not properties or path.rpartition(".")[2] in NATIVE | {"issuerRef"}:
        return
    yield from (f"{path}.{key} is not in the schema" for key in values.keys() - properties.keys())
    yield from (f"{path}.{key} is not in values.yaml" for key in properties.keys() - values.keys() - {"global"})
    for key in values.keys() & properties.keys():
        if isinstance(values[key], dict):
            yield from same(values[key], properties[key], f"{path}.{key}")


def kustomized():
    """What each file of deploy/kubernetes has to hold."""
    rendered = render(KUSTOMIZED)
    return {MANIFESTS / FILES[name]: WRITTEN + HELM_LABELS.sub("", text.strip()) + "\n" for name, text in rendered.items()}


def equal():
    for path, text in kustomized().items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(ROOT)} is not what the chart renders: run `cargo xtask manifests`"
    # Each kustomization names all that lies beside it, and gives what its parts give.
    for path in sorted(MANIFESTS.rglob("kustomization.yaml")):
        kustomization = yaml.safe_load(path.read_text())
        beside = {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        named = {name for name in kustomization.get("resources", []) if name.endswith(".yaml")}
        if named != beside:
            yield f"{path.relative_to(ROOT)} names {sorted(named)}, and beside it lie {sorted(beside)}"
    yield from built()


def parts(folder):
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for name in kustomization.get("resources", []) + kustomization.get("components", []):
        if name.endswith(".yaml"):
            yield from documents((folder / name).read_text())
        else:
            yield from parts((folder / name).resolve())


def built():
    """The same by kustomize itself, where kubectl brings it."""
    kubectl = shutil.which("kubectl")
    for folder in (MANIFESTS, MANIFESTS / "base"):
        expected = {identity(document) for document in parts(folder)}
        if len(expected) < 5:
            yield f"{folder.relative_to(ROOT)} holds only {sorted(expected)}"
        if kubectl is None:
            continue
        answer = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
        if answer.returncode:
            yield f"kubectl kustomize {folder.relative_to(ROOT)}: {answer.stderr}"
        elif {identity(document) for document in documents(answer.stdout)} != expected:
            yield f"kubectl kustomize {folder.relative_to(ROOT)} gives other objects than it names"


def identity(document):
    return document["kind"], document["metadata"]["name"]


def write():
    for path, text in kustomized().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))
    return []


def pods():
    """For each set of values: the container, volumes and settings of each pod, by its component."""
    result = {}
    for name, values in value_sets().items():
        found = objects(values)
        settings = {document["metadata"]["name"]: document["data"] for document in found if document["kind"] == "ConfigMap"}
        result[name] = {}
        for document in found:
            if document["kind"] in ("DaemonSet", "StatefulSet"):
                pod = document["spec"]["template"]["spec"]
                (container,) = pod["containers"]
                result[name][container["name"]] = {
                    "container": container,
                    "volumes": pod["volumes"] + document["spec"].get("volumeClaimTemplates", []),
                    "settings": settings[document["metadata"]["name"]],
                }
    print(json.dumps(result))
    return []


VERBS = {"validate": validate, "refuse": refuse, "documented": documented, "equal": equal, "write": write, "render": pods}

if __name__ == "__main__":
    problems = list(VERBS[sys.argv[1]]())
    if problems:
        sys.exit("\n".join(problems))
