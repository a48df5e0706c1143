"""What the compose files must not do, read from their text: no engine is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def blocks(text: str, indent: str) -> dict[str, str]:
    """The mappings at one depth, by name."""
    parts = re.split(rf"^{indent}([\w-]+):", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(params=["docker-compose.yml", "compose.external.yml"])
def compose(request: pytest.FixtureRequest) -> dict[str, str]:
    """The sections of a file."""
    return blocks((ROOT / request.param).read_text(), "")


def test_images_that_are_made_here_are_never_pulled(compose: dict[str, str]) -> None:
    """Their names may be a stranger's at a registry, and the roles are given keys and passwords."""
    assert re.search(r"^  pull_policy: never\b", compose["x-role"], re.MULTILINE)
    made, built = set(), set()
    for section in (*blocks(compose["services"], "  ").values(), compose.get("x-participant", "")):
        if image := re.search(r"image: (deepledger/\w+)", section):
            assert re.search(r"<<: (\*role|\[.*\*role\])", section)
            assert "pull_policy" not in section
            made.add(image[1])
        if "build:" in section:
            built.add(image[1] if image else "deepledger/node")  # a participant's
    assert made == built


def test_every_service_that_is_run_by_itself_can_be_built(compose: dict[str, str]) -> None:
    for name, section in blocks(compose["services"], "  ").items():
        if "profiles:" in section or "*on-demand, *role" in section:
            assert "build:" in section, name


def test_what_is_built_is_a_target_of_the_one_dockerfile(compose: dict[str, str]) -> None:
    targets = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for name, section in blocks(compose["services"], "  ").items():
        if build := re.search(r"build: \{(.*)\}", section):
            (target,) = re.findall(r"target: (\w+)", build[1])
            assert target in targets, name
            assert f"image: deepledger/{target}\n" in section or "*participant" in section
            assert ("args: *torch" in build[1]) == (target != "auditor")


def test_plain_up_builds_and_plain_down_clears_every_service_of_the_devnet() -> None:
    """`down --volumes` leaves what belongs to a profile that is not named."""
    text = (ROOT / "docker-compose.yml").read_text()
    assert "profiles:" not in text
    assert re.search(r"^  scale: 0$", blocks(text, "")["x-on-demand"], re.MULTILINE)


def test_updates_go_neither_to_a_folder_in_memory_nor_to_that_of_keys(compose: dict[str, str]) -> None:
    services = blocks(compose["services"], "  ")
    for name, volume in {"coordinator": '"temporary:/var/tmp"', "audit": "/var/tmp"}.items():
        assert "TMPDIR: /var/tmp}" in services[name]
        assert re.search(rf"volumes: \[.*{volume}\]", services[name])
    assert re.search(r"^  temporary:$", compose["volumes"], re.MULTILINE)


def test_nobody_acts_in_a_job_that_nobody_named() -> None:
    """A bond or a stake would go into whichever job is the first of a contract that others use, too."""
    text = (ROOT / "compose.external.yml").read_text()
    assert set(re.findall(r"\$\{DEEPLEDGER_JOB\b[^}]*\}", text)) == {
        "${DEEPLEDGER_JOB:-}",  # for compose, else it would refuse to make an account
        "${DEEPLEDGER_JOB:?say in .env which job}",  # for the shell in the container
    }
    script = re.search(r"&in-the-job '(.*)'", text)
    assert script is not None
    shell = ["sh", "-ec", script[1].replace("$$", "$").replace("exec deepledger", "echo"), "join", "--yes"]
    refused = subprocess.run(shell, env={"DEEPLEDGER_JOB": ""}, capture_output=True, text=True, check=False)
    assert (refused.returncode != 0, "say in .env which job" in refused.stderr) == (True, True)
    assert subprocess.check_output(shell, env={"DEEPLEDGER_JOB": "7"}, text=True) == "join 7 --yes\n"
    services = blocks(blocks(text, "")["services"], "  ")
    for name, role in {"participant": "join", "coordinator": "coordinator", "audit": "audit"}.items():
        assert f"entrypoint: [/bin/sh, -ec, *in-the-job, {role}]" in services[name]
