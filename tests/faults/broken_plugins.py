"""Sources of plugins, each with one fault: what a stranger's module may do when it is loaded."""

from __future__ import annotations

HEALTHY = """
from sdrpn_core import hookimpl
SDRPN_API = 1

@hookimpl
def sdrpn_register_commands(registry):
    registry.add("hello", "sdrpn_healthy:hello", help="Greet.")

def hello():
    print("hello")
"""

HOOK = """
from sdrpn_core import hookimpl
SDRPN_API = 1

@hookimpl
def sdrpn_register_commands(registry):
    {body}

@hookimpl
def sdrpn_register_datasets(registry):
    registry.add("mine", lambda n, seed: [])
"""

UNPRINTABLE = """
class Unprintable({base}):
    def __str__(self):
        {act}
    __repr__ = __str__
raise Unprintable
"""


def hook(body: str) -> str:
    return HOOK.format(body=body)


def plus(*lines: str) -> str:
    """A plugin that would be sound without these lines at its top."""
    return "\n".join(lines) + hook("registry.add('greet', 'x:y')")


#: Faults that leave the plugin out: name -> the source of its module.
FAULTS = {
    # what is raised while the module is imported
    "exit": "import sys; sys.exit(0)",
    "exit with a message": "raise SystemExit('bye')",
    "quit": "quit()",
    "missing dependency": "import no_such_dependency",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "generator exit": "raise GeneratorExit",
    "cancelled": "import asyncio; raise asyncio.CancelledError",
    "memory": "raise MemoryError",
    "base exception": "class Odd(BaseException): pass\nraise Odd('odd')",
    "recursion": "def deeper(): deeper()\ndeeper()",
    "os error": "import errno; raise OSError(errno.EPIPE, 'Broken pipe')",
    "another plugin's error": "from sdrpn_core.errors import PluginError\n"
    "raise PluginError('core', 'is to blame')",
    "message raises": UNPRINTABLE.format(base="Exception", act="raise ValueError('no message')"),
    "message exits": UNPRINTABLE.format(base="Exception", act="raise SystemExit(0)"),
    "message is no text": UNPRINTABLE.format(base="Exception", act="return 5"),
    "message is huge": "raise ValueError('x' * 5_000_000)",
    "message is binary": "raise ValueError('\\udcff\\x1b[2J\\x00 [/red] \\n\\n two lines')",
    "exit whose message raises": UNPRINTABLE.format(base="SystemExit", act="raise KeyError"),
    # what Python cannot compile
    "syntax": "def (",
    "syntax error without a place": "raise SyntaxError('odd', ('f', None, -5, 'text\\n'))",
    "syntax error with a wrong place": "error = SyntaxError('odd')\n"
    "error.lineno, error.offset, error.text, error.filename = 'x', [], 7, 3.5\nraise error",
    "null bytes": "x = 1\x00",
    "nesting": "x = " + "(" * 5000,
    # what is done to the process
    "stdout is none": plus("import sys", "sys.stdout = None"),
    "stdout is replaced": plus("import io, sys", "sys.stdout = io.StringIO()"),
    "stdout is deleted": plus("import sys", "del sys.stdout"),
    "stdout is closed": plus("import sys", "sys.stdout.close()"),
    "stderr is closed": plus("import sys", "sys.stderr.close()"),
    "first stdout is closed": plus("import sys", "sys.__stdout__.close()"),
    "both first streams are closed": plus(
        "import sys", "sys.__stderr__.close()", "sys.__stdout__.close()"
    ),
    "descriptors are closed": plus("import os", "os.close(1)", "os.close(2)"),
    "descriptor is redirected": plus("import os", "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)"),
    "working directory": plus("import os", "os.chdir('/')"),
    "signal handlers": plus(
        "import signal",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.signal(signal.SIGTERM, lambda *_: None)",
    ),
    "alarm": plus("import signal", "signal.setitimer(signal.ITIMER_REAL, 0.2)"),
    "path is emptied": plus("import sys", "sys.path.clear()"),
    "path is replaced": plus("import sys", "sys.path = ['/nowhere']"),
    "arguments": plus("import sys", "sys.argv[1:] = ['--version']"),
    "low recursion limit": plus(
        "import sys, inspect", "sys.setrecursionlimit(len(inspect.stack()) + 40)"
    ),
    "modules are forgotten": plus("import sys", "sys.modules.clear()"),
    "modules are replaced": plus("import sys", "sys.modules['json'] = sys.modules['typer'] = None"),
    "builtins": plus("import builtins", "builtins.print = builtins.len = None"),
    "exit is replaced": plus("import sys", "sys.exit = sys.excepthook = None"),
    "environment": plus("import os", "os.environ.clear()"),
    "warnings as errors": plus("import warnings", "warnings.simplefilter('error', FutureWarning)"),
    "thread": plus(
        "import threading, time",
        "threading.Thread(target=time.sleep, args=(0.5,)).start()",
    ),
    "endless thread": plus(
        "import threading, time",
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
    ),
    # what the module is
    "no api": "",
    "another api": "SDRPN_API = 'one'",
    "api that cannot be compared": "class Odd:\n"
    "    def __ne__(self, other): raise SystemExit(0)\n"
    "    __repr__ = __ne__\nSDRPN_API = Odd()",
    "attributes raise": "SDRPN_API = 1\n"
    "def __dir__(): return ['sdrpn_register_commands']\n"
    "def __getattr__(name): raise SystemExit(0)",
    "listing raises": "SDRPN_API = 1\ndef __dir__(): raise SystemExit(0)",
    "module is replaced": "import sys\nsys.modules[__name__] = None",
    "module is an odd object": "import sys\n"
    "class Odd:\n"
    "    SDRPN_API = 1\n"
    "    __hash__ = None\n"
    "    def __eq__(self, other): raise SystemExit(0)\n"
    "    @property\n"
    "    def sdrpn_register_commands(self): raise SystemExit(0)\n"
    "sys.modules[__name__] = Odd()",
    "hook is no function": "SDRPN_API = 1\nfrom sdrpn_core import hookimpl\n"
    "class Odd: pass\nsdrpn_register_commands = Odd()\nsdrpn_register_commands.sdrpn_impl = {}",
    "hook is unknown": plus().replace("register_datasets", "register_datsets"),
    "hook is unmarked": plus().replace("@hookimpl", ""),
    "hook has another argument": plus().replace("(registry)", "(registri)"),
    # what its hooks do
    "hook raises": hook("raise RuntimeError('boom')"),
    "hook exits": hook("raise SystemExit(0)"),
    "hook closes stdout": hook("import sys; sys.stdout.close()"),
    "hook interrupts": hook("raise KeyboardInterrupt"),
    "name is none": hook("registry.add(None, 'x:y')"),
    "name is no text": hook("registry.add(5, 'x:y')"),
    "name is unhashable": hook("registry.add([], 'x:y')"),
    "name is odd text": hook(
        "registry.add(type('Odd', (str,), {'__hash__': lambda s: 1 / 0})('x'), 'x:y')"
    ),
    "name is an option": hook("registry.add('--help', 'x:y')"),
    "name is binary": hook("registry.add('\\udcff', 'x:y')"),
    "name is taken": hook("registry.add('train', 'x:y')"),
    "target is none": hook("registry.add('greet', None)"),
    "target is a number": hook("registry.add('greet', 5)"),
    "target is malformed": hook("registry.add('greet', 'x')"),
    "target raises": hook(
        "registry.add('greet', type('Odd', (), {'__getattribute__': lambda s, n: exit(0)})())"
    ),
    "help is a number": hook("registry.add('greet', 'x:y', help=5)"),
    "help is none": hook("registry.add('greet', 'x:y', help=None)"),
    "no name at all": hook("registry.add()"),
    "another kind's object": hook("pass").replace("lambda n, seed: []", "'a', 'b'"),
    "model types are a number": hook("pass")
    .replace("datasets", "backbones")
    .replace("lambda n, seed: []", "'x:y', model_types=5"),
    "model types are one text": hook("pass")
    .replace("datasets", "presets")
    .replace("lambda n, seed: []", "'x:y', model_types='llava'"),
    "model types are missing": hook("pass")
    .replace("datasets", "backbones")
    .replace("lambda n, seed: []", "'x:y'"),
    "preset is no preset": hook("pass")
    .replace("datasets", "presets")
    .replace("lambda n, seed: []", "{'branch': 1}, model_types=('llava',)"),
    "policy is a function": hook("pass").replace("datasets", "crop_policies"),
}

#: What is kept from doing harm, while the plugin stays: name -> the source of its module.
NOISE = {
    "prints": plus("print('{')"),
    "prints without an end": plus("print('{', end='')"),
    "prints bytes": plus("import sys", "sys.stdout.buffer.write(b'{')"),
    "prints to the first stdout": plus("import sys", "sys.__stdout__.write('{')"),
    "prints to the descriptor": plus("import os", "os.write(1, b'{')"),
    "prints from a child": plus("import subprocess", "subprocess.run(['echo', '{'])"),
    "prints while it is asked": hook("print('{')"),
    "keeps stdout": plus("import sys, atexit", "atexit.register(print, '{', file=sys.stdout)"),
    "prints at the end": plus("import atexit", "atexit.register(print, '{')"),
    "fails at the end": plus("import atexit", "atexit.register(lambda: 1 / 0)"),
    "logs": plus("import logging", "logging.basicConfig()", "logging.error('{')"),
    "warns": plus("import warnings", "warnings.warn('{')"),
    "swallows its own exit": plus(
        "import sys", "try:", "    sys.exit(3)", "except SystemExit:", "    pass"
    ),
    "help looks like markup": hook("registry.add('greet', 'x:y', help='[/bold] [red]\\n two')"),
}

#: Targets that are imported when the name is first used: name -> the source of the module.
LATE = {
    "missing": None,
    "exits": "import sys; sys.exit(0)",
    "interrupts": "raise KeyboardInterrupt",
    "message raises": UNPRINTABLE.format(base="Exception", act="raise SystemExit(0)"),
    "lacks the name": "",
    "attribute exits": "def __getattr__(name): raise SystemExit(0)",
    "is a number": "target = 5",
    "is none": "target = None",
    "recursion": "def deeper(): deeper()\ndeeper()",
    "syntax": "def (",
}

#: Lists of entry points that cannot be read, beside those of sound distributions.
ENTRY_POINTS = {
    "no equals sign": "[sdrpn]\nacme\n",
    "binary": b"[sdrpn]\nacme = \xff\xfe\n",
    "value is no module": "[sdrpn]\nacme = not a module!!\n",
    "value is empty": "[sdrpn]\nacme = \n",
    "value has no attribute": "[sdrpn]\nacme = json:\n",
    "value is a number": "[sdrpn]\nacme = 5\n",
    "object is none": "[sdrpn]\nacme = json:__path__.none\n",
    "object is a text": "[sdrpn]\nacme = os:sep\n",
}
