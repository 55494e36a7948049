"""Values that the chart is rendered with: each of its conditions is met by one and not by another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

ROLES = ("router", "worker")
S3 = "s3://bucket/prefix?region=eu-central-1"


def merged(*parts: Values) -> dict[str, Any]:
    """Values over values, as helm merges them."""
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], value) if both else value
    return found


def of(path: str, value: object) -> dict[str, Any]:
    """One value, by its path."""
    key, _, rest = path.partition(".")
    return {key: of(rest, value) if rest else value}


OPEN: Values = {"config": {"worker": {"store": S3}}, "security": {"insecure": True}}
TLS: Values = {
    "config": {"worker": {"store": S3}, "router": {"token_audience": "us"}},
    "security": {
        "tls": {"secretName": "pair"},
        "clusterToken": {"secretName": "cluster"},
        "jwks": {"secretName": "keys"},
    },
}
EMBEDDED: Values = {"security": {"insecure": True}, "embedded": {"enabled": True}, "worker": {"replicas": 1}}

POD: dict[str, Any] = {
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/one"}},
    "podAnnotations": {"note": "one"},
    "podLabels": {"azure.workload.identity/use": "true"},
    "nodeSelector": {"pool": "learning"},
    "tolerations": [{"key": "learning", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "kind", "operator": "In", "values": ["fast"]}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 2,
            "topologyKey": "rack",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"some": "label"}},
        }
    ],
    "priorityClassName": "high",
    "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
    "extraVolumes": [{"name": "models", "configMap": {"name": "models"}}],
    "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
}

CASES: dict[str, Values] = {
    "open": OPEN,
    "tls": TLS,
    "tls and no tokens": merged(OPEN, of("security.tls.secretName", "pair")),
    "identities": {
        "config": {"worker": {"store": S3, "cluster_identities": ["one.example", "two.example"]}},
        "security": {"tls": {"secretName": "pair", "serverName": "one.example", "clientCertificates": True}},
    },
    "keys at a URL": merged(
        {"config": {"router": {"token_jwks": "https://issuer.example/keys"}}},
        TLS,
        of("security.jwks.secretName", ""),
    ),
    "keys in a ConfigMap": merged(TLS, {"security": {"jwks": {"secretName": "", "configMapName": "keys"}}}),
    "embedded": EMBEDDED,
    "embedded in a class": merged(
        EMBEDDED,
        of("embedded.persistence", {"size": "1Gi", "storageClassName": "fast"}),
        of("config.worker.store", "sqlite:/data/one.db?timeout_s=3"),
    ),
    "embedded in passing": merged(EMBEDDED, of("embedded.persistence.enabled", False)),
    "everything": merged(
        TLS,
        {
            "fullnameOverride": "here-evercurrent",
            "image": {"repository": "registry.example/evercurrent", "digest": f"sha256:{'0a' * 32}"},
            "imagePullSecrets": [{"name": "pull"}],
            "s3": {"secretName": "credentials"},
            "network": {"ipv6": True},
            "networkPolicy": {
                "clientsFrom": [{"namespaceSelector": {"matchLabels": {"name": "shop"}}}],
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            },
            "metrics": {
                "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            },
            "router": POD
            | {
                "service": {
                    "type": "LoadBalancer",
                    "port": 443,
                    "annotations": {"note": "two"},
                    "appProtocol": "kubernetes.io/h2c",
                    "loadBalancerSourceRanges": ["10.0.0.0/8"],
                },
                "autoscaling": {
                    "metrics": [
                        {
                            "type": "Pods",
                            "pods": {
                                "metric": {"name": "events"},
                                "target": {"type": "AverageValue", "averageValue": "1k"},
                            },
                        }
                    ]
                },
            },
            "worker": POD | {"preStopSleepSeconds": 3},
            "tests": {"token": {"secretName": "token"}},
        },
    ),
    "little": merged(
        OPEN,
        {
            "nameOverride": "learners",
            "fullnameOverride": "here-evercurrent",
            "image": {"tag": "0.1.0-rc1"},
            "podSecurity": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "networkPolicy": {"enabled": False},
            "metrics": {"enabled": False},
            "tests": {"enabled": False},
            "router": {
                "autoscaling": {"enabled": False},
                "podDisruptionBudget": {"enabled": False},
                "serviceAccount": {"create": False, "name": "theirs"},
                "preStopSleepSeconds": 0,
                "topologySpreadConstraints": [],
            },
            "worker": {
                "podDisruptionBudget": {"enabled": False},
                "serviceAccount": {"create": False, "name": "default"},
                "topologySpreadConstraints": [],
            },
        },
    ),
    "services are monitored": merged(
        OPEN, of("metrics.serviceMonitor", {"enabled": True, "labels": {"release": "prometheus"}})
    ),
    "services are monitored plainly": merged(
        OPEN,
        of("metrics.serviceMonitor.enabled", True),
        of("router.autoscaling.behavior", None),
        of("s3.secretName", "credentials"),
        of("worker.extraEnvFrom", []),
    ),
    "pods are monitored plainly": merged(
        OPEN,
        of("metrics.podMonitor.enabled", True),
        of("metrics.prometheusRule.enabled", True),
        of("router.service.type", "NodePort"),
        of("router.extraEnvFrom", [{"secretRef": {"name": "more"}}]),
        of("networkPolicy.enabled", False),
    ),
    "nothing is measured": merged(
        OPEN, of("metrics.enabled", False), of("networkPolicy.metricsFrom", [{"namespaceSelector": {}}])
    ),
    "settings": merged(
        OPEN,
        {
            "config": {
                "router": {
                    "replay_on_full": "block",
                    "replay_bytes_max": "512MiB",
                    "frame_bytes_max": 8388608,
                    "drain_timeout_s": 50,
                    "trace_ratio": 0.5,
                    "otlp_endpoint": "http://collector.monitoring:4317",
                    "log_format": "json",
                    "identity_bytes_per_s_max": "1MB",
                    "token_issuer": None,
                },
                "worker": {
                    "model": "my_models:Tutor",
                    "model_version": "v2",
                    "residents_max": 2000000,
                    "resident_bytes_max": 4294967296,
                    "event_log": True,
                    "drain_timeout_s": 100,
                    "stop_timeout_s": 200,
                    "journal_interval_ms": 250,
                    "dead_after_ms": 3000,
                    "store": "s3://b-1/a-b/c?endpoint=http://minio:9000&path_style=true",
                },
            }
        },
    ),
}

WRONG: dict[str, tuple[Values, str]] = {
    "nothing is said": ({}, "config.worker.store: must be s3://"),
    "no store": (of("security.insecure", True), "config.worker.store: must be s3://"),
    "a file without saying so": (
        merged(OPEN, of("config.worker.store", "sqlite:/data/x.db")),
        "config.worker.store: must",
    ),
    "memory": (merged(OPEN, of("config.worker.store", "memory:")), "config.worker.store: must be s3://"),
    "a file for many": (merged(EMBEDDED, of("worker.replicas", 2)), "worker.replicas: must be 1"),
    "a file elsewhere": (
        merged(EMBEDDED, of("config.worker.store", "sqlite:x.db")),
        "config.worker.store: must be sqlite:/data",
    ),
    "S3 and a file": (merged(EMBEDDED, of("config.worker.store", S3)), "config.worker.store: must be sqlite:/data"),
    "no security": (of("config.worker.store", S3), "security.tls.secretName: name a Secret"),
    "nothing that tells workers who calls": (
        merged(TLS, of("security.clusterToken.secretName", "")),
        "security.clusterToken.secretName: workers must know",
    ),
    "nothing that tells routers who calls": (
        merged(TLS, of("security.jwks.secretName", "")),
        "security.jwks: routers must know",
    ),
    "tokens of anybody": (
        merged(TLS, of("config.router.token_audience", None)),
        "config.router.token_audience: needed with tokens",
    ),
    "keys from two places": (
        merged(TLS, of("security.jwks.configMapName", "keys")),
        "security.jwks.configMapName: security.jwks.secretName is set too",
    ),
    "keys from a URL as well": (
        merged(TLS, of("config.router.token_jwks", "https://issuer.example")),
        "config.router.token_jwks: security.jwks is set too",
    ),
    "a token in the clear": (
        merged(OPEN, of("security.clusterToken.secretName", "cluster")),
        "security.clusterToken.secretName: needs security.tls.secretName",
    ),
    "tokens in the clear": (
        merged(OPEN, of("security.jwks.secretName", "keys"), of("config.router.token_audience", "us")),
        "security.jwks: needs security.tls.secretName",
    ),
    "tokens of a URL in the clear": (
        merged(OPEN, of("config.router", {"token_jwks": "https://issuer.example", "token_audience": "us"})),
        "config.router.token_jwks: needs security.tls.secretName",
    ),
    "certificates without TLS": (
        merged(OPEN, of("security.tls.clientCertificates", True)),
        "security.tls.clientCertificates: needs security.tls.secretName",
    ),
    "identities without TLS": (
        merged(OPEN, of("config.worker.cluster_identities", ["one.example"])),
        "config.worker.cluster_identities: needs security.tls.secretName",
    ),
    "a test's token in the clear": (
        merged(OPEN, of("tests.token.secretName", "token")),
        "tests.token.secretName: needs security.tls.secretName",
    ),
    "scaling by a share of nothing": (
        merged(OPEN, of("router.resources", {"requests": {"cpu": None}})),
        "router.resources.requests.cpu: router.autoscaling",
    ),
    "scaling downwards": (
        merged(OPEN, of("router.autoscaling", {"minReplicas": 11})),
        "router.autoscaling.minReplicas: above",
    ),
    "monitors of nothing": (
        merged(OPEN, of("metrics", {"enabled": False, "podMonitor": {"enabled": True}})),
        "metrics.podMonitor.enabled: needs metrics.enabled",
    ),
    "alerts on nothing": (
        merged(OPEN, of("metrics", {"enabled": False, "prometheusRule": {"enabled": True}})),
        "metrics.prometheusRule.enabled: needs metrics.enabled",
    ),
    "counted twice": (
        merged(OPEN, of("metrics", {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}})),
        "metrics.serviceMonitor.enabled: metrics.podMonitor.enabled is set too",
    ),
    "nobody's account": (
        merged(OPEN, of("worker.serviceAccount.create", False)),
        "worker.serviceAccount.name: needed",
    ),
    "a setting that is none": (
        merged(OPEN, of("config.worker.residents_maks", 1)),
        "config.worker: Additional property residents_maks",
    ),
    "a setting of another kind": (
        merged(OPEN, of("config.worker.residents_max", "many")),
        "config.worker.residents_max",
    ),
    "a setting out of range": (merged(OPEN, of("config.router.trace_ratio", 2)), "config.router.trace_ratio"),
    "a value that is none": (merged(OPEN, of("worker.replica", 1)), "worker: Additional property replica"),
    "a long name": (merged(OPEN, of("fullnameOverride", "a" * 41)), "fullnameOverride"),
    "a digest that is none": (merged(OPEN, of("image.digest", "sha256:12")), "image.digest"),
}
