"""What is shipped for clusters fits the code: options are known, ports and names agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import uhlm_edge
from uhlm_edge.cloud.options import VerifierOptions

yaml = pytest.importorskip("yaml")
DEPLOY = Path(uhlm_edge.__file__).parent / "deploy"
SERVE = yaml.safe_load((DEPLOY / "serve.yaml").read_text(encoding="utf-8"))
SERVICE = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
EMBEDDED = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])


@pytest.mark.parametrize("config", [SERVE, EMBEDDED], ids=["serve.yaml", "kuberay.yaml"])
def test_the_configuration_of_a_cluster_has_only_options_that_exist(config: Any) -> None:
    (application,) = config["applications"]
    options = VerifierOptions.model_validate(application["args"]["verifier"])
    assert options.sessions_per_key >= options.sessions  # devices of one service share a key
    module = application["import_path"].split(":")[0].removeprefix("uhlm_edge.")
    assert (DEPLOY.parent / f"{module.replace('.', '/')}.py").is_file()
    assert config["http_options"]["port"] == VerifierOptions().port


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_the_application_is_built_from_the_arguments_of_both_files() -> None:
    """In a process of its own: importing ray warns, which is an error here."""
    build = (
        "import json, sys; from uhlm_edge.cloud.ray.application import ClusterOptions, app; "
        "app(ClusterOptions.model_validate(json.load(sys.stdin)))"
    )
    for config in (SERVE, EMBEDDED):
        args = json.dumps(config["applications"][0]["args"])
        wrong = json.dumps({"replicas": 3, "most_replicas": 2})
        for given, code in ((args, 0), (wrong, 1)):
            done = subprocess.run(
                [sys.executable, "-c", build], input=given, text=True, capture_output=True,
                timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == code, done.stderr
    assert "most_replicas (2) is less" in done.stderr


def test_workers_have_what_a_replica_asks_for_and_drain_before_they_are_killed() -> None:
    args = EMBEDDED["applications"][0]["args"]
    (group,) = SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert float(container["resources"]["limits"]["cpu"]) >= args["cpus"]
    assert pod["terminationGracePeriodSeconds"] > args["drain_seconds"]
    assert (group["minReplicas"], group["maxReplicas"]) == (args["replicas"], args["most_replicas"])
    names = [one["name"] for one in container["env"]]
    assert names == ["UHLM_API_KEY"]
    assert all("valueFrom" in one for one in container["env"])  # no key in the file


def test_the_image_listens_where_the_verifier_does_and_not_as_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert f"EXPOSE {VerifierOptions().port}\n" in text
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.MULTILINE)
    assert [name for _, name in stages] == ["build", "base", "device", "verifier"]
    assert re.search(r"^USER [1-9][0-9]*$", text, re.MULTILINE)
    assert "UHLM_API_KEY=" not in text
