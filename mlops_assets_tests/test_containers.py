"""The container files, checked without a container engine: what they copy is there, what they run exists and answers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_assets.operations.supervise import free_port
from mlops_assets_tests.end_to_end.dagster_dev import ROOT, make_project
from mlops_assets_tests.waiting import wait_until

BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and the rest of the line, continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]


def healthcheck() -> list[str]:
    (text,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    return json.loads(text[text.index("[") :])


def exec_form(rest: str) -> list[str]:
    command: list[str] = json.loads(rest)
    return command


def test_what_is_copied_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source


def test_the_last_stage_is_slim_not_root_and_checks_its_health():
    parsed = instructions()
    last = parsed[max(position for position, (name, _) in enumerate(parsed) if name == "FROM") :]
    assert last[0] == ("FROM", "python:3.11-slim")
    users = [rest for name, rest in last if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert [name for name, _ in last][-2:] == ["HEALTHCHECK", "CMD"]


def test_packages_come_from_the_lock_with_hashes():
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "--require-hashes --requirement /tmp/requirements.lock" in installs[0]
    assert all("--no-deps" in install for install in installs[1:])


def test_every_program_that_is_started_is_one_of_ours():
    started = [exec_form(rest)[0] for name, rest in instructions() if name == "CMD"]
    started += [service["command"][0] for service in compose().values() if "command" in service]
    assert len(started) == 3
    for program in started:
        assert shutil.which(program, path=str(BIN)), program


def test_compose_publishes_on_loopback_only_and_keeps_state_in_one_volume():
    for name, service in compose().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["volumes"] == ["state:/opt/mlops-assets/.mlops"]
        assert service["build"] == {"context": "..", "dockerfile": "Dockerfile"}


@pytest.mark.slow
def test_the_images_command_serves_and_its_health_check_tells(tmp_path: Path):
    """The image's CMD and HEALTHCHECK, run as they stand but for address and port, in a folder like the image's."""
    project = make_project(tmp_path)
    port = free_port()
    (command,) = [exec_form(rest) for name, rest in instructions() if name == "CMD"]
    command = [part.replace("0.0.0.0", "127.0.0.1").replace("3000", str(port)) for part in command]
    check = [part.replace("3000", str(port)) for part in healthcheck()]
    environment = {**os.environ, "DAGSTER_HOME": str(project), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def is_healthy() -> bool:
        return subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0

    assert not is_healthy()
    server = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)
    try:
        wait_until(is_healthy, timeout_s=120, every_s=1)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assert not is_healthy()
    assert (project / ".mlops" / "dagster").is_dir()
