"""The image, as far as it can be tried without an engine: what its Dockerfile names is there, and what it installs runs
with a root that cannot be written, as the chart has it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from packaging.version import Version

from evercurrent.v1 import observation_pb2, session_pb2
from tests.certificates import CA, CERTIFICATE, KEY, write_pki
from tests.helm import confined
from tests.helm.cases import CASES, ROLES
from tests.helm.charts import CHART, ROOT, all_of, container, default_values, pod_templates, render

DOCKERFILE = (ROOT / "Dockerfile").read_text()
OBSERVE = CHART / "files" / "observe.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@dataclass(frozen=True)
class Step:
    """An instruction, with its lines joined, in a stage."""

    stage: int
    word: str
    text: str


def steps() -> list[Step]:
    """The Dockerfile's instructions."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    found: list[Step] = []
    stage = -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        stage += word == "FROM"
        if word:
            found.append(Step(stage, word, rest))
    return found


def of(word: str, stage: int | None = None) -> list[str]:
    return [step.text for step in steps() if step.word == word and stage in (None, step.stage)]


LAST = max(step.stage for step in steps())


def is_sent(path: str) -> bool:
    """Whether a path goes to the engine: .dockerignore, whose last match counts."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [path.partition("/")[0], path, Path(path).name, *(part for part in Path(path).parts[1:])]
        if any(fnmatch(name, pattern) for name in (names if "**/" in line else names[:1])):
            sent = line.startswith("!")
    return sent


def test_the_base_is_one_exact_version_in_every_stage() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", image)
    assert [base.partition(" ")[0] for base in of("FROM")] == ["${PYTHON_IMAGE}"] * (LAST + 1)
    assert LAST > 0


def test_what_is_copied_is_there_and_sent() -> None:
    names = [base.partition(" AS ")[2] for base in of("FROM")]
    copied: set[str] = set()
    for step in steps():
        if step.word != "COPY":
            continue
        *sources, target = step.text.split()
        if sources[0].startswith("--from="):
            assert sources.pop(0).removeprefix("--from=") in names[: step.stage]
            assert sources == [target], "a virtual environment names its own place"
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert is_sent(source), source
            copied.add(source)
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied
    assert PROJECT["project"]["readme"] in copied


def test_nothing_else_is_sent() -> None:
    for path in (".git/config", ".venv/bin/python", "tests/conftest.py", "evercurrent.db", "out/x", "docs/client.md"):
        assert not is_sent(path), path
    assert not is_sent("evercurrent/__pycache__/x.pyc")


def test_what_runs_is_no_root_and_has_no_tools() -> None:
    assert of("USER", LAST)[-1] == "65532:65532"
    account = default_values()["podSecurity"]
    assert (account["runAsUser"], account["runAsGroup"]) == (65532, 65532)
    (prepared,) = of("RUN", LAST)
    assert prepared.startswith("python -m pip uninstall")
    assert not re.search(r"(?<!un)install (?!--directory)", prepared)
    assert not any(tool in DOCKERFILE for tool in ("apt-get", "curl ", "gcc", "ADD "))


def test_the_entry_point_is_the_program() -> None:
    (entry,) = of("ENTRYPOINT", LAST)
    assert json.loads(entry) == ["evercurrent"]
    assert "evercurrent" in PROJECT["project"]["scripts"]
    (environment,) = of("ENV", LAST)
    assert "PATH=/opt/evercurrent/bin:${PATH}" in environment
    assert "PYTHONDONTWRITEBYTECODE=1" in environment
    ports = {port["containerPort"] for pod in role_pods() for port in container(pod)["ports"]}
    assert {str(port) for port in ports} == set(of("EXPOSE", LAST)[0].split())


def role_pods() -> list[dict[str, Any]]:
    pods = pod_templates(render(CASES["open"]))
    return [pods[role] for role in ROLES]


def test_the_chart_mounts_over_what_the_image_has() -> None:
    (prepared,) = of("RUN", LAST)
    directories = set(re.findall(r"install --directory .*?(/\w+)(?: |$)", prepared))
    assert directories == {"/data", "/models"}
    (own,) = (
        container(pod)
        for pod in pod_templates(render(CASES["embedded"])).values()
        if "args" in container(pod) and "worker" in container(pod)["args"]
    )
    assert "--search-path=/models" in own["args"]
    assert "/data" in {mount["mountPath"] for mount in own["volumeMounts"]}


def test_pip_knows_what_it_is_told() -> None:
    """Each option of each call, asked of a pip; and that there is just one torch to ask for."""
    calls = re.findall(r"python -m pip (?:--python \S+ )?(install|wheel|uninstall) ([^&]*)", " && ".join(of("RUN")))
    assert {command for command, _ in calls} == {"install", "wheel", "uninstall"}
    for command, rest in calls:
        known = subprocess.run(
            [sys.executable, "-m", "pip", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"(?<![\w-])--[\w-]+", rest):
            assert option in known, (command, option)
    version = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    assert Version(version.stdout.split()[1]) >= Version("22.3"), "--python, which the image's newer pip has too"
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert len(pins) == 1


def test_labels_and_arguments_agree() -> None:
    assert f"ARG VERSION={PROJECT['project']['version']}" in DOCKERFILE
    for name in re.findall(r"\$\{?(\w+)\}?", " ".join(step.text for step in steps())):
        assert name == "PATH" or f"ARG {name}" in DOCKERFILE, name


@dataclass(frozen=True)
class Root:
    """A file system as a container has it: `site` is installed and cannot be written; `data` and `tmp` can."""

    site: Path
    data: Path
    tmp: Path

    def command(self, *words: str) -> list[str]:
        """Confined to what may be written."""
        allowed = (str(self.data), str(self.tmp))
        return [sys.executable, "-P", confined.__file__, *allowed, "--", *words]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.site),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.tmp),
        }

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=100,
            cwd="/",
            env=self.environment | environment,
            check=False,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what the Dockerfile copies, installed, console script and all."""
    folder = tmp_path_factory.mktemp("image")
    for source in (word for text in of("COPY", 0) for word in text.split()[:-1]):
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / source, folder / "src" / source, ignore=ignored)
        else:
            (folder / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / source, folder / "src" / source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # What the build needs is installed here already: nothing is fetched.
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"), "."]
    subprocess.run(wheel, cwd=folder / "src", check=True)
    (built,) = (folder / "wheels").glob("evercurrent-*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(built)]
    subprocess.run(install, check=True)
    return folder / "site"


@pytest.fixture
def root(site: Path, tmp_path: Path) -> Root:
    found = Root(site, tmp_path / "data", tmp_path / "tmp")
    found.data.mkdir()
    found.tmp.mkdir()
    if found.run("true").returncode == confined.ABSENT:
        pytest.skip("this kernel has no Landlock")
    return found


@contextmanager
def serving(root: Root, log: IO[str], *words: str) -> Iterator[tuple[str, str]]:
    """A process of the installed program; its address, and that of its metrics. Must end well when told to."""
    process = subprocess.Popen(
        root.command(str(root.site / "bin" / "evercurrent"), *words, "--metrics-address", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd="/",
        env=root.environment,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        assert said[:2] == ["ready", words[0]], (said, Path(log.name).read_text())
        metrics = re.search(r"metrics served.*?address=(\S+)", Path(log.name).read_text())
        assert metrics is not None
        yield said[-1], metrics[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, Path(log.name).read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def metrics_of(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return {line.split()[2] for line in answer.read().decode().splitlines() if line.startswith("# TYPE")}


def test_it_serves_without_a_home_and_writes_only_its_store(root: Root, tmp_path: Path) -> None:
    """The installed program, both roles and what `helm test` runs. Nothing else could have been written: whatever had
    to be would have failed here."""
    observation = default_values()["tests"]["observation"]
    store = f"sqlite:{root.data}/evercurrent.db"
    with (tmp_path / "worker.log").open("w") as worker_log, (tmp_path / "router.log").open("w") as router_log:
        worker = ("worker", "--name=here-worker-0", "--address=127.0.0.1:0", f"--store={store}", "--search-path=/")
        with serving(root, worker_log, *worker) as (address, worker_metrics):
            router = ("router", "--address=127.0.0.1:0", f"--workers=here-worker-0={address}")
            with serving(root, router_log, *router) as (address, router_metrics):
                asked = root.run(
                    sys.executable, "-P", "-c", OBSERVE.read_text(), ADDRESS=address, OBSERVATION=observation
                )
                assert asked.returncode == 0, asked.stderr
                assert asked.stdout.startswith("version 1: predicted [0.")
                measured = metrics_of(worker_metrics) | metrics_of(router_metrics)
    assert {path.name.partition("-")[0] for path in root.data.iterdir()} == {"evercurrent.db"}
    assert list(root.tmp.iterdir()) == []
    (rule,) = all_of(render(CASES["everything"]), "PrometheusRule").values()
    expressions = " ".join(alert["expr"] for group in rule["spec"]["groups"] for alert in group["rules"])
    used = {name.removesuffix("_bucket") for name in re.findall(r"evercurrent_\w+", expressions)}
    assert used <= measured | {f"{name}_total" for name in measured}


def test_the_confinement_confines(root: Root, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.db"
    word = str(root.site / "bin" / "evercurrent")
    ended = root.run(word, "worker", "--address=127.0.0.1:0", f"--store=sqlite:{outside}")
    assert ended.returncode == 1
    assert "unable to open database file" in ended.stderr
    assert not outside.exists()
    touched = root.run(sys.executable, "-c", f"open({str(root.data / 'inside')!r}, 'w')")
    assert (touched.returncode, (root.data / "inside").exists()) == (0, True)


def test_it_is_the_installed_program_that_was_tried(root: Root) -> None:
    code = "import evercurrent, router, worker; print(*(m.__file__ for m in (evercurrent, router, worker)), sep='\\n')"
    shown = root.run(sys.executable, "-P", "-c", code)
    assert shown.returncode == 0, shown.stderr
    assert all(Path(line).is_relative_to(root.site) for line in shown.stdout.splitlines())


class Answering:
    """Answers observations of who shows a token, and says at first that it cannot yet."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._num_asked = 0

    def observe(self, request: object, context: grpc.ServicerContext) -> session_pb2.ObserveResponse:
        self._num_asked += 1
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        if self._num_asked == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no worker yet")
        result = observation_pb2.ObservationResult(version=3, prediction=[0.5])
        return session_pb2.ObserveResponse(result=result)

    def handler(self) -> grpc.GenericRpcHandler:
        method = grpc.unary_unary_rpc_method_handler(
            self.observe, session_pb2.ObserveRequest.FromString, session_pb2.ObserveResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler("evercurrent.v1.SessionService", {"Observe": method})


@pytest.mark.parametrize(("token", "code"), [("right\n", 0), ("wrong", 1)])
def test_helm_test_speaks_tls_and_shows_what_it_has(token: str, code: int, tmp_path: Path) -> None:
    """With the environment that the chart gives it, but for the paths."""
    pki = write_pki(tmp_path, "one.example")
    pair = ((pki / KEY).read_bytes(), (pki / CERTIFICATE).read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / CA).read_bytes(), require_client_auth=True)
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((Answering("right").handler(),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        environment = {
            "ADDRESS": f"127.0.0.1:{port}",
            "OBSERVATION": "{}",
            "TOKEN": token,
            "TLS_NAME": "one.example",
            "TLS_CA": str(pki / CA),
            "TLS_CERTIFICATE": str(pki / CERTIFICATE),
            "TLS_KEY": str(pki / KEY),
        }
        asked = subprocess.run(
            [sys.executable, "-P", "-c", OBSERVE.read_text()],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=60,
            check=False,
        )
        server.stop(grace=None).wait()
    assert asked.returncode == code, asked.stderr
    assert (asked.stdout == "version 3: predicted [0.5]\n") == (code == 0)
    given = {
        variable["name"]
        for case in ("identities", "everything")
        for variable in container(pod_templates(render(CASES[case]))["test"])["env"]
    }
    assert given == set(environment)


def test_the_builds_shell_is_a_shells() -> None:
    for command in of("RUN"):
        text = re.sub(r"^(--mount=\S+ +)+", "", command)
        assert shlex.split(text)
        assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0
