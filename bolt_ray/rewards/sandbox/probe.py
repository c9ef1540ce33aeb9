"""The program that a mechanism must hold before it is used."""

PROBE = """
import json, os, socket, sys
asked = json.load(sys.stdin)
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
assert refused(lambda: open(asked["canary"])), "read a file outside"
assert refused(lambda: open("/etc/passwd")), "read /etc/passwd"
assert refused(lambda: socket.create_connection(("127.0.0.1", 9), 1)), "connected"
assert refused(lambda: socket.socket(socket.AF_INET)), "opened a socket"
assert asked["children"] or refused(os.fork), "started a process"
assert asked["children"] is False or os.getppid() == 1, "sees processes outside"
open("own", "w").write("x")
assert open("own").read() == "x"
print("isolated")
"""
