"""Programs that try to be graded right without solving anything; importable, and runnable as any user.

python tests/program_attacks.py weak      every attack's score and status as JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # an ordinary user runs this file by its path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rewards.program import Program
from rewards.reward import Sample, Status

SECRET = 90_481_237
FUNCTION = {
    "kind": "function",
    "entry_point": "f",
    "asserts": [f"assert f(1) == {SECRET}", "assert f(2) == 'a secret text'", "assert f([3]) == [4, 5]"],
}
STDIO = {"kind": "stdio", "cases": [{"input": "1", "output": f"\n{SECRET}\n77"}, {"input": "2", "output": "0.5"}]}

EVERY_DESCRIPTOR = """
import os
def tell(text):
    for number in range(64):
        try:
            os.write(number, text)
        except OSError:
            pass
"""
LIAR = """
class {name}({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __index__(self): return {secret}
    def __reduce__(self): return (int, ("{secret}",))
    def __instancecheck__(self, other): return True
def f(x): return {name}()
"""

FUNCTION_ATTACKS: dict[str, str] = {
    "leave at once": "import sys; sys.exit(0)",
    "leave hard": "import os; os._exit(0)",
    "leave when called": "import sys\ndef f(x): sys.exit(0)",
    "leave hard when called": "import os\ndef f(x): os._exit(0)",
    "leave when the interpreter ends": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return None",
    "object equal to all": LIAR.format(name="Any", base="object", secret=SECRET),
    "integer equal to all": LIAR.format(name="Any", base="int", secret=SECRET),
    "text equal to all": LIAR.format(name="Any", base="str", secret=SECRET),
    "list equal to all": LIAR.format(name="Any", base="list", secret=SECRET),
    "mock": "from unittest.mock import ANY\ndef f(x): return ANY",
    "metaclass equal to all": """
class Meta(type):
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class Any(metaclass=Meta): pass
def f(x): return Any
""",
    "frames of the caller": f"""
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values(), *(frame.f_code.co_consts or ())]:
            if value == {SECRET} or "secret" in str(value) and "assert" in str(value):
                return {SECRET}
        frame = frame.f_back
""",
    "objects of the collector": """
import gc, re
def f(x):
    for value in gc.get_objects():
        if isinstance(value, (dict, list, tuple)):
            found = re.search(r"assert f\\((.*?)\\) == (.*)", "".join(v for v in value if isinstance(v, str)))
            if found:
                return eval(found[2])
""",
    "own source, arguments and environment": """
import os, re, sys
def f(x):
    text = repr(sys.argv) + repr(dict(os.environ)) + repr(getattr(sys, "orig_argv", ""))
    for path in ["/proc/self/cmdline", "/proc/self/maps", "/proc/1/cmdline", *sys.argv]:
        try:
            text += open(path, "rb").read().decode(errors="replace")
        except OSError:
            pass
    for number in range(64):
        try:
            os.lseek(number, 0, 0)
            text += os.read(number, 1 << 20).decode(errors="replace")
        except OSError:
            pass
    found = re.search(r"assert f\\(1\\) == (\\d+)", text.split("def f(x)")[-1])
    return int(found[1]) if found else None
""",
    "own memory": """
import ctypes, re
def f(x):
    for line in open("/proc/self/maps"):
        pass
""",
    "the checker's module": """
import sys
import rewards.sandbox_checker as checker
checker._run = lambda *rest: ("ok", "")
def f(x): return None
""",
    "assertions turned off": """
import builtins, sys
builtins.AssertionError = type("Never", (Exception,), {})
sys.flags = None
def f(x): return None
""",
    "patched encoder": f"""
import json, sys
sys.modules["rewards.sandbox_candidate"].encode = lambda value: '{{"i":"zz"}}'
def f(x): return {SECRET}
""",
    "encoder that writes two replies": """
import sys
sys.modules["rewards.sandbox_candidate"].encode = lambda value: 'null}\\n["ok", ""]\\n["done", ""]\\n{"value": null'
def f(x): return None
""",
    "outcomes on every descriptor": EVERY_DESCRIPTOR
    + """
tell(b'["ok", ""]\\n' * 3 + b'["done", ""]\\n')
os._exit(0)
""",
    "replies before the calls": EVERY_DESCRIPTOR
    + """
tell(b'{"value": true}\\n' * 100)
def f(x): return True
""",
    "a reply that is not an object": EVERY_DESCRIPTOR
    + """
def f(x):
    tell(b'"ok"\\n')
    return None
""",
    "raises what the checker raises": "class CandidateGone(BaseException): pass\ndef f(x): raise CandidateGone",
    "raises an exit": "def f(x): raise SystemExit(0)",
    "raises the end of iteration": "def f(x): raise StopIteration",
    "raises a group": "def f(x): raise ExceptionGroup('g', [ValueError()])",
    "raises a false name": """
error = type("SystemExit", (Exception,), {})
def f(x): raise error("0")
""",
    "a reply without end": """
import os
def f(x):
    while True:
        os.write(5, b"[" * 65536)
""",
    "deep nesting": "def f(x):\n    value = []\n    for _ in range(10 ** 5): value = [value]\n    return value",
    "nothing": "def f(x): return None",
    "not a number": "def f(x): return float('nan')",
    "numpy lookalike": "class numpy:\n    def all(self): return True\ndef f(x): return numpy()",
    "endless iterator": "import itertools\ndef f(x): return itertools.repeat(4)",
    "closed descriptors": "import os\nos.closerange(0, 64)\ndef f(x): return None",
    "stopped process": "import signal\ndef f(x): signal.pause()",
    "another row's answer": "import builtins\ndef f(x): return getattr(builtins, 'left', None)",
}

SCRIPT_ATTACKS: dict[str, str] = {
    "print nothing": "pass",
    "leave well": "import sys; sys.exit(0)",
    "leave hard": "import os; os._exit(0)",
    "print the first line only": "print()",
    "print the first lines only": f"print('\\n{SECRET}')",
    "print a line too many": f"print('\\n{SECRET}\\n77\\n78')" + "\nif input() == '2': print(0.5)",
    "print on standard error": f"import sys\nsys.stderr.write('\\n{SECRET}\\n77')",
    "right and then a crash": f"print('\\n{SECRET}\\n77', flush=True)\nraise ValueError",
    "right and then a bad exit": f"print('\\n{SECRET}\\n77', flush=True)\nimport os; os._exit(3)",
    "right and then endless": f"print('\\n{SECRET}\\n77', flush=True)\nwhile True: pass",
    "all numbers": "for n in range(100000): print(n)",
    "not a number": f"print('\\n{SECRET}\\n77') if input() == '1' else print('nan')",
    "infinite": f"print('\\n{SECRET}\\n77') if input() == '1' else print('inf')",
    "words without lines": f"print('{SECRET}', '77')",
    "the right number in another script": f"print('\\n{SECRET}\\n７７')",
    "read the input file's neighbours": """
import os
for number in range(64):
    try:
        os.lseek(number, 0, 0)
        print(os.read(number, 1 << 16).decode())
    except (OSError, ValueError):
        pass
""",
    "forged report": EVERY_DESCRIPTOR + """tell(b'{"code": 0, "signal": 0, "cpu_seconds": 0, "memory": 0}')""",
}


def verdict(mode: str, source: str, tests: dict[str, object]) -> tuple[float | None, Status]:
    sample = Sample(prompt="", completion=source, tests=tests, convention="none")
    found = Program(sandbox=mode, timeout=0.3).judge(sample)
    return found.score, found.status


def judge_all(mode: str) -> dict[str, tuple[float | None, str]]:
    """Score and status of every attack, and of a program that does solve the row ("honest")."""
    honest = f"def f(x): return {{1: {SECRET}, 2: 'a secret text'}}.get(x, [4, 5]) if isinstance(x, int) else [4, 5]"
    found = {"honest": verdict(mode, honest, FUNCTION)}
    found |= {name: verdict(mode, source, FUNCTION) for name, source in FUNCTION_ATTACKS.items()}
    found |= {f"script: {name}": verdict(mode, source, STDIO) for name, source in SCRIPT_ATTACKS.items()}
    return found


if __name__ == "__main__":
    print(json.dumps(judge_all(sys.argv[1])))
