"""docs/hub.md: what it shows of the Hub runs against the double, and its format is the schema's."""

import re
import subprocess
import sys
from pathlib import Path

from skmoecbm import (
    _schema_foreign,
    _schema_networks,
    _schema_nodes,
    _schema_provenance,
    _schema_tokens,
    schema,
)
from skmoecbm._schema_parts import Part
from tests.hub_server import environment, served

PAGE = Path(__file__).parents[1] / "docs" / "hub.md"
FORMAT = PAGE.with_name("format.md")
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_every_line_of_python_runs_when_there_is_a_hub(tmp_path):
    script = "\n".join(text for _, text in BLOCK.findall(PAGE.read_text("utf-8")))
    with served() as hub:
        hub.tokens["secret"] = "user"
        (tmp_path / "cache").mkdir()
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=environment(hub, tmp_path / "cache", "secret"),
            check=True,
        )
        repository = hub.repositories["user/skin"]
        assert repository.private and set(repository.tags) == {"v1", "v2"}


def test_every_key_of_the_format_is_described_and_no_other():
    text = FORMAT.read_text("utf-8").partition("\n`format_version`")[2]
    named = set(re.findall(r"`(\w+)`", text))
    rooms = (
        _schema_foreign,
        _schema_networks,
        _schema_nodes,
        _schema_provenance,
        _schema_tokens,
        schema,
    )
    nodes = [
        one
        for room in rooms
        for one in vars(room).values()
        if isinstance(one, type) and issubclass(one, Part)
    ]
    keys = {name for node in nodes for name in node.model_fields}
    assert len(keys) > 80
    assert keys - named == set()
    others = {"fit"}
    kinds = {node.model_fields["kind"].default for node in nodes if "kind" in node.model_fields}
    assert named - keys - kinds <= others
