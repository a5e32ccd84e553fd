"""Send one job to a distccd by hand, as a client without manners would: from SOURCE to SERVER:PORT, asking it to run COMPILER.

More words are options of the compiler. Prints "object" when an object comes back, "refused" when the compiler is not run with these
options, and "nothing" when the connection is all there was, or not even that (the protocol: distcc's doc/protocol-1.txt).
"""

import socket
import sys

server, port, source, compiler, *options = sys.argv[1:]


def token(name, data):
    """Return a word of the protocol with data behind it."""
    return b"%s%08x" % (name, len(data)) + data


arguments = [compiler, *options, "-c", "a.c", "-o", "a.o"]
job = b"DIST%08xARGC%08x" % (1, len(arguments))
job += b"".join(token(b"ARGV", argument.encode()) for argument in arguments)
job += token(b"DOTI", b"int answer(void) { return 42; }\n")
reply = b""
try:
    with socket.create_connection((server, int(port)), 30 if source in ("", server) else 10, (source, 0)) as connection:
        connection.sendall(job)
        while data := connection.recv(65536):
            reply += data
except (ConnectionResetError, TimeoutError):
    pass
if b"\x7fELF" in reply:
    print("object")
elif b"is not run with" in reply:
    print("refused")
elif not reply:
    print("nothing")
else:
    print("something", reply)
