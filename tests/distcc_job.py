"""Send one job to a distccd by hand, as a client without manners would: from SOURCE to SERVER:PORT, asking it to run COMPILER.

Prints "object" when an object comes back, and "nothing" when nothing does (the protocol: distcc's doc/protocol-1.txt).
"""

import socket
import sys

server, port, source, compiler = sys.argv[1:]


def token(name, data):
    """Return a word of the protocol with data behind it."""
    return b"%s%08x" % (name, len(data)) + data


arguments = [compiler, "-c", "a.c", "-o", "a.o"]
job = b"DIST%08xARGC%08x" % (1, len(arguments))
job += b"".join(token(b"ARGV", argument.encode()) for argument in arguments)
job += token(b"DOTI", b"int answer(void) { return 42; }\n")
reply = b""
try:
    with socket.create_connection((server, int(port)), 20, (source, 0)) as connection:
        connection.sendall(job)
        while data := connection.recv(65536):
            reply += data
except ConnectionResetError:
    pass
if b"\x7fELF" in reply:
    print("object")
elif not reply:
    print("nothing")
else:
    print("something", reply)
