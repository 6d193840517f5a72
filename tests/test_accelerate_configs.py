"""The configurations that ship: accelerate reads them, and means what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "accelerate"
PAGE = (ROOT / "docs" / "distributed.md").read_text()
KINDS = {
    "ddp_cpu": DistributedType.MULTI_GPU,
    "ddp_multi_gpu": DistributedType.MULTI_GPU,
    "ddp_multi_node": DistributedType.MULTI_GPU,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
    "fsdp": DistributedType.FSDP,
}


def test_every_configuration_is_checked_and_documented():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)
    assert set(re.findall(r"configs/accelerate/(\w+)\.yaml", PAGE)) == set(KINDS)


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_accelerate_reads_it(name, kind):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == kind
    assert config.num_processes > 1
    assert config.mixed_precision == "no"  # sdrpn's own affair
    # Left to itself, accelerate would silently ignore a misspelt part.
    parts = yaml.safe_load(path.read_text())
    options = {action.dest for action in launch_command_parser()._actions}
    for part in ("fsdp_config", "deepspeed_config"):
        assert set(parts.get(part, {})) <= options
    assert config.deepspeed_config.get("zero_stage") == {
        "deepspeed_zero2": 2,
        "deepspeed_zero3": 3,
    }.get(name)


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"deepspeed_zero2", "deepspeed_zero3"}))
def test_the_launcher_accepts_it(name):
    words = [f"--config_file={FOLDER / name}.yaml", "-m", "sdrpn_core"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.use_fsdp == (name == "fsdp")
    assert args.multi_gpu == (name != "fsdp")
    assert args.num_machines == (2 if name == "ddp_multi_node" else 1)
    assert not args.cpu
