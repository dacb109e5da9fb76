"""`schema` writes what the config's module describes, whole, for whatever reads it."""

import json

from ebpf_userspace_exporter.config.json_schema import config_schema
from tests.supervisor.commands.command import command


def test_the_schema_is_the_config_s_as_json() -> None:
    done = command("schema", nobody=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(config_schema()))
    assert done.stdout.isascii()
