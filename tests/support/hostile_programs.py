"""Programs that try to get out of the sandbox, to keep running in it, or to use up the machine.

Each is bounded by itself, so that even without a sandbox it could not harm the machine the tests run on. What a
program tries goes through ``attempt``, which prints ESCAPED if it worked. An attempt that may fail without a sandbox
too (no network, no terminal, arguments the kernel finds wrong) names the sandbox's own error, ``errno.EPERM``: with any
other it prints UNPROVEN.
"""

from __future__ import annotations

PREAMBLE = """
import ctypes, errno, json, os, signal, socket, sys, time
host = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)

def attempt(action, expected=None):
    try:
        result = action()
    except (OSError, ImportError, ValueError) as problem:
        right = expected is None or getattr(problem, "errno", None) == expected
        print("refused" if right else "UNPROVEN", repr(problem))
        return
    print("ESCAPED", result)

def fork():
    try:
        return os.fork()
    except OSError:
        print("fork refused", flush=True)
        raise

def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""

# Everything these try must be refused.
REFUSED: dict[str, str] = {
    "read_passwd": "attempt(lambda: open('/etc/passwd').read())",
    "read_canary": "attempt(lambda: open(host['canary']).read())",
    "read_by_symlink": "os.symlink(host['canary'], 'link'); attempt(lambda: open('link').read())",
    "read_by_relative_path": "attempt(lambda: open('../' * 20 + host['canary'].lstrip('/')).read())",
    "read_by_proc_root": """
for pid in ('1', 'self', str(os.getppid()), str(host['victim'])):
    attempt(lambda: open(f'/proc/{pid}/root' + host['canary']).read())
    if pid != 'self': attempt(lambda: open(f'/proc/{pid}/cwd/main.py').read())
""",
    "read_by_hard_link": "attempt(lambda: os.link(host['canary'], 'own'))",
    "list_home": "attempt(lambda: os.listdir(host['outside']))",
    "write_outside": "attempt(lambda: open(host['outside'] + '/new', 'w'))",
    "write_tmp_of_host": "attempt(lambda: open(host['canary'], 'a'))",
    "change_the_interpreter": "attempt(lambda: open(os.__file__, 'a'))",
    "plant_a_module": "attempt(lambda: open(os.path.dirname(os.__file__) + '/planted.py', 'w'))",
    "delete_outside": "attempt(lambda: os.unlink(host['canary']))",
    "truncate_outside": "attempt(lambda: os.truncate(host['canary'], 0))",
    "rename_outside": "attempt(lambda: os.rename(host['canary'], 'own'))",
    "change_modes_outside": "attempt(lambda: os.chmod(host['canary'], 0o777))",
    "change_times_outside": "attempt(lambda: os.utime(host['canary'], (0, 0)))",
    "make_directory_outside": "attempt(lambda: os.mkdir(host['outside'] + '/dir'))",
    "tcp_to_the_host": "attempt(lambda: socket.create_connection(('127.0.0.1', host['port']), 2), errno.EPERM)",
    "tcp_to_the_world": "attempt(lambda: socket.create_connection(('192.0.2.1', 80), 1), errno.EPERM)",
    "udp": """
def send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', host['port']))
attempt(send, errno.EPERM)
""",
    "listen": """
def listen():
    server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
attempt(listen, errno.EPERM)
""",
    "raw_and_packet_sockets": """
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), errno.EPERM)
attempt(lambda: socket.socket(17, socket.SOCK_RAW), errno.EPERM)
attempt(lambda: socket.socket(16, socket.SOCK_RAW), errno.EPERM)
""",
    "unix_socket_of_the_host": """
def connect(address):
    with socket.socket(socket.AF_UNIX) as s: s.connect(address)
attempt(lambda: connect(host['unix']))
attempt(lambda: connect('\\0' + host['abstract']))
""",
    "kill_a_process_outside": "attempt(lambda: os.kill(host['victim'], signal.SIGKILL))",
    "pidfd_kill_outside": "attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(host['victim']), signal.SIGKILL))",
    "signal_by_a_pipe": """
import fcntl, struct
reads, writes = os.pipe()
attempt(lambda: fcntl.fcntl(reads, fcntl.F_SETOWN, host['victim']))
attempt(lambda: fcntl.fcntl(reads, 15, struct.pack('ii', 1, host['victim'])))
""",
    "limit_a_process_outside": """
import resource
attempt(lambda: resource.prlimit(host['victim'], resource.RLIMIT_NOFILE, (0, 0)))
""",
    "slow_a_process_outside": """
attempt(lambda: os.setpriority(os.PRIO_PROCESS, host['victim'], 19))
attempt(lambda: os.sched_setaffinity(host['victim'], {0}))
""",
    "environment_of_others": """
for pid in (1, os.getppid(), host['victim']):
    attempt(lambda: open(f'/proc/{pid}/environ').read())
    attempt(lambda: open(f'/proc/{pid}/mem', 'rb').read(1))
""",
    "see_other_processes": "attempt(lambda: os.listdir('/proc'))",
    "ptrace": """
def ptrace(request, pid):
    if libc.ptrace(request, pid, 0, 0) < 0: raise OSError(ctypes.get_errno(), 'ptrace')
attempt(lambda: ptrace(16, host['victim']), errno.EPERM)
attempt(lambda: ptrace(0, 0), errno.EPERM)
""",
    "read_memory_of_others": "attempt(lambda: call(310, host['victim'], 0, 0, 0, 0, 0), errno.EPERM)",
    "mount": """
def mount():
    if libc.mount(b'x', b'.', b'tmpfs', 0, b'') < 0: raise OSError(ctypes.get_errno(), 'mount')
attempt(mount)
""",
    "unmount": """
def unmount():
    if libc.umount2(b'/', 2) < 0: raise OSError(ctypes.get_errno(), 'umount')
attempt(unmount)
""",
    "chroot": "attempt(lambda: os.chroot('.'))",
    "become_root": """
if os.getuid() != 0:
    attempt(lambda: os.setuid(0))
def regain():
    if libc.prctl(24, 0, 0, 0, 0) < 0: raise OSError(ctypes.get_errno(), 'no capability')
attempt(regain)
""",
    "new_namespaces": """
for flag in (0x10000000, 0x20000, 0x40000000):
    attempt(lambda: call(272, flag))
    attempt(lambda: call(56, flag | 17, 0, 0, 0, 0))
""",
    "enter_namespaces": "attempt(lambda: call(308, os.open('.', os.O_RDONLY), 0), errno.EPERM)",
    "device_nodes": """
attempt(lambda: os.mknod('disk', 0o60600, os.makedev(254, 0)))
for device in ('/dev/vda', '/dev/mem', '/dev/kmsg', '/dev/tty', '/dev/fuse'):
    attempt(lambda: open(device, 'rb'))
""",
    "kernel_settings": """
attempt(lambda: open('/proc/sys/kernel/hostname', 'w'))
attempt(lambda: open('/proc/sysrq-trigger', 'w'))
attempt(lambda: os.listdir('/sys'))
attempt(lambda: socket.sethostname('owned'))
""",
    "odd_system_calls": """
for number in (425, 321, 298, 323, 250, 319, 246, 304, 428, 430, 29, 64, 68, 169, 164):
    attempt(lambda: call(number, 0, 0, 0, 0, 0), errno.EPERM)
""",
    # Most kernels do not have these either; test_seccomp.py shows that the filter is what refuses them.
    "calls_newer_than_the_list": """
for number in (470, 511, 100_000):
    attempt(lambda: call(number, 0, 0, 0, 0, 0), errno.ENOSYS)
""",
    "shell": "attempt(lambda: __import__('subprocess').run(['/bin/sh', '-c', 'id']))",
    "type_into_a_terminal": """
import fcntl
for fd in (0, 1, 2):
    attempt(lambda: fcntl.ioctl(fd, 0x5412, b'x'), errno.EPERM)
""",
    "write_to_stdin": "attempt(lambda: os.write(0, b'x'), errno.EPERM)",
    "open_many_files": """
def open_many():
    kept = [open('own', 'w') for _ in range(1000)]
attempt(open_many)
""",
    "fill_the_disk": """
def fill():
    for i in range(16):
        with open(f'f{i}', 'wb') as file:
            for _ in range(8): file.write(bytes(1 << 20))
        time.sleep(0.02)
    time.sleep(1)
attempt(fill)
""",
    "one_huge_file": """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def grow():
    with open('big', 'wb') as file:
        for _ in range(64): file.write(bytes(1 << 20))
attempt(grow)
""",
}

# name: (program, how it may end). The ends are those of RunResult, or "error" for an exit status above 0.
ENDS: dict[str, tuple[str, set[str]]] = {
    "endless_loop": ("while True: pass", {"wall_time", "killed"}),
    "sleep": ("time.sleep(60)", {"wall_time"}),
    "ignore_every_signal": (
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
end = time.time() + 60
while time.time() < end: pass
""",
        {"wall_time", "killed"},
    ),
    "memory_hog": ("x = bytearray(2 << 30)", {"error"}),
    "slow_memory_hog": ("x = []\nwhile len(x) < 2000: x.append(bytearray(1 << 20))", {"error", "memory", "killed"}),
    "huge_output": ("for _ in range(200): sys.stdout.write('x' * (1 << 20))", {"output"}),
    "huge_errors": ("for _ in range(200): sys.stderr.write('x' * (1 << 20))", {"output"}),
    "deep_recursion": (
        "sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
        {"error", "killed", "memory", "wall_time"},
    ),
    "segfault": ("ctypes.string_at(0)", {"killed"}),
    "abort": ("os.abort()", {"killed"}),
    "kill_oneself": ("os.kill(os.getpid(), 9); sys.exit(7)", {"killed", "error"}),
    "kill_the_parent": ("os.kill(os.getppid(), 9); time.sleep(0.2); sys.exit(7)", {"error"}),
    "close_everything": ("os.closerange(0, 256)\nwhile True: pass", {"wall_time", "killed"}),
    "exit_code": ("os._exit(33)", {"error"}),
    "read_stdin_forever": ("while True: sys.stdin.read(1)", {"wall_time", "killed"}),
    "threads": (
        """
import threading
threading.stack_size(65536)
for i in range(400): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
os._exit(3)
""",
        {"error", "memory"},
    ),
    "zip_of_nested_lists": (
        "x = []\nfor _ in range(50): x = [x] * 10\nprint(len(repr(x)))",
        {"error", "wall_time", "killed", "memory"},
    ),
    "long_power": ("print(len(str(9**9**7)))", {"error", "wall_time", "killed", "memory"}),
    "regex_bomb": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", {"wall_time", "killed"}),
    "modes_and_links": (
        """
os.makedirs('a/b/c'); open('a/b/c/f', 'w').write('x')
os.symlink('/', 'a/root'); os.symlink('loop', 'loop'); os.chmod('a/b', 0) if host['may_chmod'] else None
sys.exit(5)
""",
        {"error"},
    ),
}

# Programs that start others, by ``fork``, which prints what was refused; under ``landlock`` that is the first fork.
PROCESSES: dict[str, str] = {
    "fork_bomb": """
started = 0
try:
    for _ in range(200):
        if fork() == 0:
            time.sleep(20); os._exit(0)
        started += 1
except OSError:
    pass
print('started', started)
""",
    "exponential_fork_bomb": """
try:
    for _ in range(7): fork()
except OSError:
    pass
time.sleep(0.3)
""",
    "zombies": """
for _ in range(10):
    if fork() == 0: os._exit(0)
print('started', 10)
""",
    "daemon": """
if fork() == 0:
    os.setsid()
    if fork() == 0:
        for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)
        time.sleep(20)
    os._exit(0)
print('started', 1)
""",
    "daemon_that_keeps_the_output_open": """
if fork() == 0:
    os.setsid(); time.sleep(20); os._exit(0)
print('started', 1); sys.stdout.flush(); os._exit(0)
""",
    "many_memory_hogs": """
for _ in range(8):
    if fork() == 0:
        x = bytearray(100 << 20); time.sleep(20); os._exit(0)
print('started', 8); sys.stdout.flush(); time.sleep(20)
""",
    "stopped_children": """
for _ in range(3):
    if fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP); time.sleep(20); os._exit(0)
print('started', 3)
""",
}
