"""What cannot be tested at all is said before any check."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sdrpn_core.testing import BackboneContract
from tests.tiny import tiny_llava


class NothingMade(BackboneContract):
    pass


class ModelMade(BackboneContract):
    @staticmethod
    def make():
        return tiny_llava().model


class ShallowMade(BackboneContract):
    @staticmethod
    def make():
        return tiny_llava(num_hidden_layers=4)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (NothingMade, "make: set it to a function"),
        (ModelMade, "make: returned a LlavaForConditionalGeneration, not an adapter"),
        (ShallowMade, "make: the checks need 5 decoder layers or more, the model has 4"),
    ],
)
def test_an_unfit_subject_is_named(contract, message):
    with pytest.raises(AssertionError, match=message):
        contract.made()


def test_a_missing_pytest_is_one_line_that_says_what_to_install():
    code = "import sys; sys.modules['pytest'] = None; import sdrpn_core.testing"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "sdrpn_core.testing needs a package that is not installed" in last
    assert last.endswith("pip install 'sdrpn[test]'")
