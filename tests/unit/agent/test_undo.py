"""`bmcmedic agent --undo`, which the unit runs after every end of an agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmcmedic.agent import main
from bmcmedic.agent.config import AgentConfig
from bmcmedic.host.relieve.undo_journal import DIRECTORY


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the directories in which an undo looked for changes."""
    places: list[str] = []

    def undo(config: AgentConfig) -> int:
        places.append(config.process.runtime_dir)
        return 0

    monkeypatch.setattr(main, "undo", undo)
    return places


def test_it_looks_where_the_configuration_says(tmp_path: Path, undone: list[str]) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'[process]\nruntime_dir = "{tmp_path}"\n')
    assert main.main(["--config", str(file), "--undo"]) == 0
    assert undone == [str(tmp_path)]


def test_a_broken_configuration_does_not_prevent_an_undo(
    tmp_path: Path, undone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("nonsense = 1\n")
    assert main.main(["--config", str(file), "--undo"]) == 0
    assert undone == [DIRECTORY]
    assert "there is no section [nonsense]" in capsys.readouterr().err
    assert main.main(["--config", str(file)]) == 2
