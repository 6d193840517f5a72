"""A plugin's geometry is known in a process that has not imported its adapter."""

from __future__ import annotations

import subprocess
import sys

from sdrpn_core.grid.geometry import Geometry
from sdrpn_core.plugins.manager import get_plugins

PLUGIN = """
from sdrpn_core import hookimpl

SDRPN_API = 1

@hookimpl
def sdrpn_register_geometries(registry):
    registry.add("mirrored", "mirrored_geometry:Mirrored")
"""
GEOMETRY = """
from dataclasses import dataclass
from sdrpn_core.grid.geometry import Resized

@dataclass(frozen=True)
class Mirrored(Resized):
    kind = "mirrored"
"""
READ = """
import sys
import mirrored_plugin
from sdrpn_core.grid.geometry import Geometry
from sdrpn_core.plugins.manager import get_plugins
get_plugins().register(mirrored_plugin, "mirrored")
assert "mirrored_geometry" not in sys.modules
fields = {"kind": "mirrored", "source_size": [9, 6], "grid": [2, 3], "cell": 14}
print(type(Geometry.from_dict(fields)).__name__)
"""


def test_a_plugins_geometry_is_read_where_nothing_imported_it(tmp_path):
    (tmp_path / "mirrored_plugin.py").write_text(PLUGIN)
    (tmp_path / "mirrored_geometry.py").write_text(GEOMETRY)
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "Mirrored\n", done.stderr


def test_every_geometry_of_the_core_is_registered_under_its_kind():
    geometries = get_plugins().geometries
    kinds = {name: geometries.get(name).kind for name in geometries.names()}
    assert all(name == kind for name, kind in kinds.items())
    ours = {
        kind
        for kind, cls in Geometry._kinds.items()
        if cls.__module__ == "sdrpn_core.grid.geometry"
    }
    assert ours <= kinds.keys()
