"""Every option that chooses cases is in the manual."""

from pathlib import Path

import click

from trafficlight.cli.collect import command

MANUAL = Path(__file__).parents[3] / "docs" / "how-to" / "choose-what-runs.md"


def test_every_option_is_in_the_manual() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    options = [option for option in command.params if isinstance(option, click.Option)]
    missing = [option.opts[0] for option in options if option.name != "config" and option.opts[0] not in text]
    assert missing == []
