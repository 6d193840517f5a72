"""The contract notices broken adapters: each by the right checks, in words that help."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest

from sdrpn_core.testing import BackboneContract
from tests.contract.broken import (
    batches,
    geometry,
    layout,
    limits,
    positions,
    rpn,
    stock,
    taps,
)
from tests.contract.broken.harness import Broken

pytestmark = pytest.mark.slow

#: By themselves they are not collected: most of their checks fail.
MODULES = (layout, geometry, positions, stock, taps, batches, rpn, limits)
CONTRACTS = [
    value
    for module in MODULES
    for name, value in vars(module).items()
    if name.startswith("Test") and issubclass(value, Broken)
]
CHECKS = {name for name in dir(BackboneContract) if name.startswith("test_")}
NEEDS_CUDA = {
    name
    for name in CHECKS
    if "cuda_backbone" in inspect.signature(getattr(BackboneContract, name)).parameters
}


class Recorder:
    """Messages of failed checks, by contract and check."""

    def __init__(self) -> None:
        self.failed: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, contract, check = report.nodeid.split("::")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else report.longreprtext
            self.failed[contract][check.partition("[")[0]].append(message)
        self.passed += report.when == "call" and report.passed


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    """One run of all broken adapters, in this process: the libraries are loaded already."""
    recorder = Recorder()
    switched_off = ("terminal", "cacheprovider", "xdist", "faulthandler", "hypothesispytest")
    options = [word for plugin in switched_off for word in ("-p", f"no:{plugin}")]
    code = pytest.main(
        [
            *(str(Path(module.__file__)) for module in MODULES),
            *("--override-ini", "addopts="),
            "--import-mode=importlib",
            "--capture=no",
            *options,
        ],
        plugins=[recorder],
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    return recorder


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_a_mistake_is_noticed_by_its_checks_and_by_no_other(recorded, contract):
    failed = recorded.failed[contract.__name__]
    assert set(failed) == set(contract.noticed), dict(failed)
    for check, pattern in contract.noticed.items():
        for message in failed[check]:
            assert re.search(pattern, message), message


def test_every_check_can_fail():
    noticed = {check for contract in CONTRACTS for check in contract.noticed}
    assert noticed == CHECKS - NEEDS_CUDA
    assert len(NEEDS_CUDA) == 2


def test_most_checks_of_a_broken_adapter_pass(recorded):
    assert recorded.passed > len(CONTRACTS) * len(CHECKS) * 0.8
