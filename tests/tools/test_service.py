"""The units of systemd are valid, closed off, and installed with a key that only root reads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import uhlm_edge

TOOLS = Path(uhlm_edge.__file__).parent / "tools" / "service"
EXPOSED = 20  # of 100, by systemd's own count; a service with nothing set has 96

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
services = pytest.mark.parametrize("service", ["serve", "cloud"])


def install(
    root: Path, service: str, command: str = "/bin/true"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(TOOLS / "install.sh"), service, command],
        env={"DESTDIR": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@services
def test_a_service_gets_a_key_of_its_own_and_keeps_it(tmp_path: Path, service: str) -> None:
    assert install(tmp_path, service).returncode == 0
    file = tmp_path / f"etc/uhlm-edge/{service}.env"
    key = file.read_text()
    assert re.search(r"^UHLM_(SERVE|API)_KEY=[0-9a-f]{48}$", key, re.MULTILINE)
    assert file.stat().st_mode & 0o077 == 0
    install(tmp_path, service)
    assert file.read_text() == key
    unit = tmp_path / f"etc/systemd/system/uhlm-edge-{service}.service"
    assert f"ExecStart=/bin/true {service}\n" in unit.read_text()


def test_a_wrong_name_and_a_missing_command_are_told(tmp_path: Path) -> None:
    assert "SERVICE=serve" in install(tmp_path, "server").stderr
    assert "make install" in install(tmp_path, "serve", "/not/there").stderr


@needs_systemd
@services
def test_systemd_takes_the_unit_and_finds_it_closed_off(tmp_path: Path, service: str) -> None:
    install(tmp_path, service)
    unit = str(tmp_path / f"etc/systemd/system/uhlm-edge-{service}.service")
    verify = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert verify.returncode == 0, verify.stderr
    assert f"uhlm-edge-{service}" not in verify.stderr
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSED}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert security.returncode == 0, security.stdout[-3000:] + security.stderr
