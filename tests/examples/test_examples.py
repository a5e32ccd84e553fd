"""The examples compute what is known, in all their forms; those with MPI where this machine has MPICH.

BEOWULF_MPI_PYTHON names a Python with an mpi4py that is linked to MPICH; otherwise this one and that of the role mpi are tried.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter

import pytest

from beowulf.process import ROOT

EXAMPLES = ROOT / "examples"
NAMES = ["pi", "primes", "factor", "mandelbrot", "wordcount"]
SIZES = {"pi": 1_000_000, "primes": 100_000, "factor": 1009 * 10_007, "mandelbrot": 64, "wordcount": 2000}
MPIEXEC = shutil.which("mpiexec.mpich") or shutil.which("mpiexec.hydra")
MPICC = shutil.which("mpicc.mpich")


@functools.cache
def mpi_python():
    question = "from mpi4py import MPI; print(MPI.Get_library_version())"
    for python in filter(None, (os.environ.get("BEOWULF_MPI_PYTHON"), sys.executable, "/opt/beowulf/mpi/bin/python")):
        if shutil.which(python) and "MPICH" in subprocess.run([python, "-c", question], capture_output=True, text=True, check=False).stdout:
            return python
    return None


def run(command, folder, code=0):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == code, result.stderr + result.stdout
    return result.stdout + result.stderr


def result(output):
    return re.search(r"^result: (.*)$", output, re.MULTILINE)[1]


@functools.cache
def module(name):
    """A program as a module, for its text and its primes."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        scope = {"__name__": name}
        exec(compile((EXAMPLES / f"{name}.py").read_bytes(), name, "exec"), scope)
    finally:
        sys.path.remove(str(EXAMPLES))
    return scope


def wordcount(size):
    """The line that counts, from what Python's own Counter says of the text."""
    counts = Counter(module("wordcount")["text"](0, size).lower().replace(".", "").split())
    word, often = min(counts.items(), key=lambda item: (-item[1], item[0]))
    checksum = sum(module("wordcount")["fnv"](name) * number for name, number in counts.items()) % 2**32
    return f"words={10 * size} distinct={len(counts)} top={word}:{often} checksum={checksum:08x}"


def escape(c):
    """After how many steps a point has escaped, with Python's own complex numbers."""
    z = 0j
    for step in range(1, 256):
        if z.real**2 + z.imag**2 > 4:
            return step
        z = z * z + c
    return 0


def mandelbrot(width, height):
    """The line that tells a picture."""
    pixels = bytes(
        escape(complex(-2.25 + 3 * (x + 0.5) / width, -1.125 + 2.25 * (y + 0.5) / height)) for y in range(height) for x in range(width)
    )
    return f"mandelbrot={width}x{height} adler32={zlib.adler32(pixels):08x}"


@functools.cache
def known(name):
    return {
        "primes": lambda: "primes=9592",
        "factor": lambda: "factors=1009*10007",
        "mandelbrot": lambda: mandelbrot(64, 48),
        "wordcount": lambda: wordcount(SIZES["wordcount"]),
    }[name]()


def right(name, answer):
    """Say whether an answer is the known one; pi to nine digits."""
    if name == "pi":
        return abs(float(answer.removeprefix("pi=")) - 3.141592653589793) < 1e-9
    return answer == known(name)


def decoded(png):
    """Return width, height and pixels of a grey picture, with all checksums checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack_from("!I", png, place)
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from("!I", png, place + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *kind = struct.unpack("!2I5B", chunks[b"IHDR"])
    assert kind == [8, 0, 0, 0, 0]
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[start : start + width + 1] for start in range(0, len(raw), width + 1)]
    assert len(rows) == height
    assert {row[0] for row in rows} == {0}
    return width, height, b"".join(row[1:] for row in rows)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder with the C programs."""
    if not MPICC or not MPIEXEC:
        pytest.skip("MPICH is not installed")
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.o"))
    assert "warning" not in run(["make", f"CC={MPICC}"], folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_standalone_python_needs_no_mpi(name, tmp_path):
    output = run([sys.executable, "-S", str(EXAMPLES / f"{name}.py"), "standalone", str(SIZES[name])], tmp_path)
    assert right(name, result(output))
    head, line = output.splitlines()[1:3]
    assert head.split() == ["node", "ranks", "seconds", "items", "share"]
    assert line.split()[1] == "1"
    assert line.endswith("100.0 %")


@pytest.mark.parametrize("form", ["cluster", "efficient"])
@pytest.mark.parametrize("name", NAMES)
def test_four_python_ranks(name, form, tmp_path):
    if not MPIEXEC or not mpi_python():
        pytest.skip("there is no mpi4py that is linked to MPICH")
    command = [MPIEXEC, "-n", "4", mpi_python(), "-m", "mpi4py", str(EXAMPLES / f"{name}.py"), form, str(SIZES[name])]
    output = run(command, tmp_path)
    assert right(name, result(output))
    assert output.splitlines()[2].split()[1] == "4"


@pytest.mark.parametrize("form", ["standalone", "cluster", "efficient"])
@pytest.mark.parametrize("name", NAMES)
def test_c(name, form, programs, tmp_path):
    ranks = "1" if form == "standalone" else "4"
    output = run([MPIEXEC, "-n", ranks, str(programs / name), form, str(SIZES[name])], tmp_path)
    assert right(name, result(output))
    assert output.splitlines()[2].split()[1] == ranks


@pytest.mark.parametrize(
    ("size", "factors"), [(7, "7"), (35, "5*7"), (6, "2*3"), (9, "3*3"), (10_007, "10007"), (9973 * 9973, "9973*9973")]
)
def test_factors_at_the_edges(size, factors, tmp_path):
    output = run([sys.executable, str(EXAMPLES / "factor.py"), "standalone", str(size)], tmp_path)
    assert result(output) == f"factors={factors}"


@pytest.mark.parametrize("form", ["cluster", "efficient"])
@pytest.mark.parametrize(
    ("name", "size", "answer"),
    [
        ("primes", 1, "primes=0"),
        ("primes", 2, "primes=1"),
        ("primes", 262_147, "primes=23001"),
        ("factor", 7, "factors=7"),
        ("factor", 9, "factors=3*3"),
        ("factor", 35, "factors=5*7"),
        ("factor", 9973 * 9973, "factors=9973*9973"),
    ],
)
def test_c_at_the_edges(name, size, answer, form, programs):
    """Fewer items than ranks, the largest divisor there can be, and a segment that holds three numbers."""
    assert result(run([MPIEXEC, "-n", "3", str(programs / name), form, str(size)], programs)) == answer


@pytest.mark.parametrize("language", ["py", "c"])
def test_the_picture_is_a_picture(language, tmp_path, request):
    if language == "c":
        command = [str(request.getfixturevalue("programs") / "mandelbrot")]
    else:
        command = [sys.executable, str(EXAMPLES / "mandelbrot.py")]
    answer = result(run([*command, "standalone", "64"], tmp_path))
    width, height, pixels = decoded((tmp_path / "mandelbrot.png").read_bytes())
    assert answer == f"mandelbrot={width}x{height} adler32={zlib.adler32(pixels):08x}"
    # The middle is one of the set, the corner is far from it, and below the axis is what is above it.
    assert pixels[24 * 64 + 40] == 0
    assert 0 < pixels[0] < 5
    rows = [pixels[start : start + width] for start in range(0, len(pixels), width)]
    assert rows == rows[::-1]


@pytest.mark.parametrize("words", [[], ["sideways"], ["standalone", "0"], ["standalone", "x"], ["standalone", "1", "2"]])
def test_bad_words_are_code_2_and_a_sentence(words, tmp_path):
    assert "usage: standalone|cluster|efficient [SIZE" in run([sys.executable, str(EXAMPLES / "pi.py"), *words], tmp_path, code=2)


def test_standalone_is_no_form_for_several_ranks(monkeypatch, tmp_path):
    monkeypatch.setenv("PMI_SIZE", "4")
    assert "standalone is one process" in run([sys.executable, str(EXAMPLES / "pi.py"), "standalone"], tmp_path, code=2)


def test_c_refuses_bad_words_alike(programs):
    assert "usage: standalone|cluster|efficient [SIZE]" in run([str(programs / "pi"), "standalone", "x"], programs, code=2)
    assert "standalone is one process" in run([MPIEXEC, "-n", "2", str(programs / "pi"), "standalone"], programs, code=2)
