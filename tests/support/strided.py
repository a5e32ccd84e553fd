"""Every rank writes each size-th number of a file, by itself: PATH NUMBERS [HINT=VALUE ...].

With the hint romio_ds_write=enable, MPI-IO reads, changes and writes back what the others write into at the same time, under its own locks.
Prints which numbers are wrong: for each round that has any, who wrote when (seconds of each node's own clock), and for each reader how many
numbers of which rank are wrong, and what it found instead of some.
"""

import collections
import json
import sys
import time

import numpy
from mpi4py import MPI

world, count, rounds = MPI.COMM_WORLD, int(sys.argv[2]), 5
wrong = []
for number in range(rounds):
    path = sys.argv[1] + "." + str(number)
    hints = MPI.Info.Create(dict(each.split("=") for each in sys.argv[3:]))
    file = MPI.File.Open(world, path, MPI.MODE_CREATE | MPI.MODE_RDWR, hints)
    stride = MPI.INT.Create_vector(count, 1, world.size).Commit()
    file.Set_view(4 * world.rank, MPI.INT, stride)
    began = time.time()
    file.Write(numpy.arange(world.rank, count * world.size, world.size, dtype="i"))
    ended = time.time()
    file.Close()
    file = MPI.File.Open(world, path, MPI.MODE_RDONLY | MPI.MODE_DELETE_ON_CLOSE)
    found = numpy.full(count * world.size, -1, dtype="i")
    file.Read_at(0, found)
    bad = numpy.flatnonzero(found != numpy.arange(count * world.size))
    file.Close()
    whose = {str(rank): times for rank, times in collections.Counter((bad % world.size).tolist()).items()}
    said = world.gather([MPI.Get_processor_name(), round(began, 4), round(ended, 4), whose, found[bad[:3]].tolist()])
    if world.rank == 0 and any(one[3] for one in said):
        wrong.append({"round": number, "ranks": said})
if world.rank == 0:
    print(json.dumps(wrong))
