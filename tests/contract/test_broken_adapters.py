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
from tests.contract.broken.layout import TestHealthy as Healthy

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

#: How the core refuses what an adapter's method returns.
REFUSED = re.compile(
    r"ConfigError: \S+: (?:image_features|positions|frame_crop|preprocess\w*) (?:gave|returned) "
)

each_contract = pytest.mark.parametrize(
    "contract", CONTRACTS, ids=lambda contract: contract.__name__
)


class Recorder:
    """Messages of failed checks, by contract and check.

    Args:
        everything: run all checks of every contract, not only those that have to notice its
            mistake. A healthy adapter's are all run in any case.
    """

    def __init__(self, *, everything: bool) -> None:
        self.everything = everything
        self.failed: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.everything or _has_to_run(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, contract, check = report.nodeid.split("::")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else report.longreprtext
            self.failed[contract][check.partition("[")[0]].append(message)
        self.passed += report.when == "call" and report.passed


def _has_to_run(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    noticed = item.cls.noticed
    return not noticed or item.originalname in noticed


def run(*, everything: bool) -> Recorder:
    """One run of the broken adapters, in this process: the libraries are loaded already."""
    recorder = Recorder(everything=everything)
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


def _is_refused(message: str) -> bool:
    return REFUSED.search(message) is not None


def check_messages(contract: type[Broken], failed: dict[str, list[str]]) -> None:
    """The contract's checks failed, no others did, and each said what is wrong.

    What the core itself refuses in words about the adapter's method, it refuses in every check.
    """
    found = {check for check, messages in failed.items() if not all(map(_is_refused, messages))}
    assert found - set(contract.noticed) == set(), failed
    assert set(contract.noticed) <= set(failed), failed
    for check, pattern in contract.noticed.items():
        for message in failed[check]:
            assert re.search(pattern, message), message


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    return run(everything=False)


@each_contract
def test_a_mistake_is_noticed_by_its_checks(recorded, contract):
    check_messages(contract, recorded.failed[contract.__name__])


def test_every_check_can_fail():
    noticed = {check for contract in CONTRACTS for check in contract.noticed}
    assert noticed == CHECKS - NEEDS_CUDA
    assert len(NEEDS_CUDA) == 2


def test_all_checks_of_a_healthy_adapter_pass(recorded):
    assert not Healthy.noticed
    assert recorded.passed >= len(CHECKS - NEEDS_CUDA)


@pytest.mark.long  # sixty checks of fifty adapters
def test_no_other_check_takes_a_mistake_for_its_own():
    recorder = run(everything=True)
    for contract in CONTRACTS:
        check_messages(contract, recorder.failed[contract.__name__])
    assert recorder.passed > len(CONTRACTS) * len(CHECKS) * 0.8
