"""Programs that try to pass tests without solving them: by the tests' own tools, their memory, their process or report.

The task is an ``add`` of two values. None of these adds anything; each must earn exactly 0.
"""

from __future__ import annotations

WRITE_REPORTS = """
import json, os
def write_reports():
    lines = ''.join(json.dumps(line) + '\\n' for line in (['passed', 0], ['passed', 1], ['passed', 2])).encode()
    for fd in range(256):
        try: os.write(fd, lines)
        except OSError: pass
"""

CHEATS: dict[str, str] = {
    "replaced_exec": "import builtins\nbuiltins.exec = lambda *a, **k: None",
    "replaced_compile": "import builtins\nempty = compile('', 'x', 'exec')\nbuiltins.compile = lambda *a, **k: empty",
    "replaced_tools": """
import builtins
for name in ('print', 'isinstance', 'len', 'abs', 'all', 'any', 'bool', 'type', 'repr', 'sorted', 'getattr'):
    setattr(builtins, name, lambda *a, **k: True)
def add(a, b): return None
""",
    "no_assertion_error": """
import builtins
class Never(BaseException):
    def __new__(cls, *a): return StopIteration()
builtins.AssertionError = Never
def add(a, b): return None
""",
    "equal_to_everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = __float__ = __sub__
def add(a, b): return Anything()
""",
    "int_equal_to_everything": """
class T(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b): return T()
""",
    "str_equal_to_everything": """
class T(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def add(a, b): return T('x')
""",
    "containers_that_lie": """
class L(list):
    def __eq__(self, other): return True
    def __len__(self): return 3
class D(dict):
    def __eq__(self, other): return True
    def __getitem__(self, key): return self
def add(a, b): return L() if a == 1 else D()
""",
    "class_that_equals": """
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return 0
class T(metaclass=Meta): pass
def add(a, b): return T
""",
    "walk_up_the_frames": WRITE_REPORTS
    + """
import sys
frame = sys._getframe()
while frame:
    for space in (frame.f_locals, frame.f_globals):
        for key, value in list(space.items()):
            if isinstance(value, (list, dict)) and key not in ('__builtins__',): value.clear()
            if callable(value) and key in ('report', 'write'): value('passed', 0)
    frame = frame.f_back
write_reports()
""",
    "search_of_all_objects": WRITE_REPORTS
    + """
import gc
seen = [o for o in gc.get_objects() if isinstance(o, dict) and ('tests' in o or 'secret' in o or 'job' in o)]
for o in seen:
    for key in ('tests', 'secret', 'job', 'report'):
        value = o.get(key)
        if isinstance(value, list): value[:] = ['pass'] * len(value)
        if callable(value): value('passed', 0)
write_reports()
def add(a, b): return None
""",
    "exit_handler": WRITE_REPORTS + "import atexit, sys\natexit.register(write_reports)\nsys.exit(0)",
    "exit_before_the_tests": "import sys\nsys.exit(0)",
    "hard_exit_before_the_tests": "import os\nos._exit(0)",
    "exit_in_a_test": "def add(a, b):\n    raise SystemExit(0)",
    "hard_exit_in_a_test": "import os\ndef add(a, b):\n    os._exit(0)",
    "report_on_standard_output": WRITE_REPORTS
    + 'write_reports()\nprint(\'["passed", 0]\\n["passed", 1]\\n["passed", 2]\', flush=True)\nraise SystemExit',
    "replaced_json": """
import json, sys
json.loads = lambda *a, **k: ['value', True, [], '']
json.dumps = lambda *a, **k: '["passed", 0]'
sys.modules['json'].JSONDecoder = sys.modules['json'].JSONEncoder = None
def add(a, b): return None
""",
    "test_files": WRITE_REPORTS
    + """
import os
for root, names, files in os.walk('.'):
    for name in files:
        try: open(os.path.join(root, name), 'w').write('')
        except OSError: pass
for path in ('test.py', 'tests.py', 'main.py', 'solution.py', '/proc/self/fd/0', '/proc/1/fd/0', '/dev/stdin'):
    try: write_reports(), open(path, 'w').write('pass')
    except OSError: pass
""",
    "patched_modules": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith(('bolt_ray', 'builtins', 'operator', 'unittest')):
        for key, value in list(vars(module).items()):
            kept = ('print', 'setattr', 'callable', 'vars', 'list')
            if callable(value) and not key.startswith('__') and key not in kept:
                try: setattr(module, key, lambda *a, **k: True)
                except Exception: pass
""",
    "memory_of_other_processes": WRITE_REPORTS
    + """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in {*range(1, 50), os.getppid(), os.getpid() - 1, os.getpid() + 1, os.getpid() + 2}:
    libc.ptrace(16, pid, 0, 0)
    for name in ('mem', 'environ', 'fd/1', 'cwd/main.py'):
        try: open(f'/proc/{pid}/{name}', 'r+b').write(b'pass')
        except OSError: pass
write_reports()
""",
    "forged_answers": """
import json, os
lines = [['value', True, [], ''], ['passed', 0], ['value', ['object', 0], [], ''], ['ask', 'call', 0, [], {}]]
for fd in range(3, 64):
    for line in lines * 8:
        try: os.write(fd, (json.dumps(line) + '\\n').encode())
        except OSError: break
def add(a, b): return None
""",
    "forged_reach_into_the_tests": """
import json, os, sys
reads = os.fdopen(os.dup(3), 'rb', buffering=0)
def add(a, b):
    for operation, target in (('get', 0), ('call', 0), ('get', '__globals__'), ('exec', 0), ('names', 0)):
        os.write(3, (json.dumps(['ask', operation, target, ['__globals__'], {}]) + '\\n').encode())
        reads.read(1)
    return True
""",
    "kill_the_tests": """
import os, signal
for pid in [os.getppid(), *range(1, 40), *range(os.getpid() - 5, os.getpid())]:
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
""",
    "child_that_holds_the_pipe": WRITE_REPORTS
    + """
import time
try: child = os.fork()
except OSError: child = 1
if child == 0:
    write_reports(); time.sleep(1); os._exit(0)
os._exit(0)
""",
    "threads": WRITE_REPORTS
    + """
import threading, sys
sys.setswitchinterval(1e-6)
def answer():
    for _ in range(200):
        try: os.write(3, b'["value", true, [], ""]\\n')
        except OSError: return
for _ in range(4): threading.Thread(target=answer, daemon=True).start()
def add(a, b): return None
""",
    "raising_destructor": """
class Rude:
    def __del__(self): raise SystemExit(0)
    def __repr__(self): raise KeyboardInterrupt
    __str__ = __bool__ = __len__ = __repr__
def add(a, b): return Rude()
""",
    "trace_functions": WRITE_REPORTS
    + """
import sys, threading
def trace(frame, event, argument):
    for key in ('value', 'result', 'answer', 'message'): frame.f_locals.get(key)
    return trace
sys.settrace(trace); sys.setprofile(trace); threading.settrace(trace)
def add(a, b): return None
""",
    "raises_something_odd": "class Odd(BaseException): pass\ndef add(a, b):\n    raise Odd('passed')",
    "endless_line": "import os\ndef add(a, b):\n    while True: os.write(3, b'[' * 65536)",
    "deep_answer": "import os\ndef add(a, b):\n    os.write(3, b'[' * 100000 + b'\\n')\n    os._exit(0)",
    "forged_names": """
import json, os
def answers(*names):
    pairs = [[name, ['dict', []] if name == '__builtins__' else ['object', 0]] for name in names]
    return (json.dumps(['value', ['dict', pairs], [None], '']) + '\\n').encode()
os.write(3, answers('add', 'AssertionError', 'abs', 'len', 'check'))
os.write(3, b'["value", 0, [], ""]\\n' * 20)
""",
    # Only beside a job's own code.py: without a sandbox this must not reach an interpreter's modules.
    "planted_modules": """
import os, sys
planted = '''
import sys
frame = sys._getframe()
while frame:
    report = frame.f_locals.get('report')
    if report:
        for index in range(3): report('passed', index)
    frame = frame.f_back
'''
above = os.path.abspath(getattr(sys.modules.get('bolt_ray.rewards.exchange.peer'), '__file__', '/'))
for folder in {*sys.path, *sys.argv, *[above.rsplit('/', level)[0] for level in range(5)]}:
    if os.path.exists(folder + '/code.py'):
        for name in ('copy', 'heapq'):
            try: open(f'{folder}/{name}.py', 'w').write(planted)
            except OSError: pass
def add(a, b): return None
""",
    "names_of_the_tools": """
import sys
def len(*a): return 2
def abs(*a): return 0
all = any = bool = isinstance = lambda *a: True
class math:
    fabs = staticmethod(lambda *a: 0.0)
AssertionError = Exception = KeyError
def check(candidate): pass
def add(a, b): return 0.0
""",
    "own_check": "def check(candidate): pass\ndef test(): pass\ndef add(a, b): return None",
    "name_that_is_everything": """
import sys, types
class Module(types.ModuleType):
    def __getattr__(self, name): return lambda *a, **k: True
sys.modules['solution'].__class__ = Module
def __getattr__(name): return lambda *a, **k: True
""",
}
