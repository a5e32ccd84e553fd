"""The role distcc: what stands for the compilers lets nothing harmful through, and the compilers of the compute nodes are compared."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from beowulf.process import ROOT

HOSTS = [{"name": name, "address": "192.0.2.1", "jobs": 1} for name in ("gamma", "delta")]
SHIM = ROOT / "roles/distcc/templates/usr/local/lib/distcc/compiler.j2"
RAN = "ran"


@pytest.fixture
def place(tmp_path):
    """A folder with what stands for gcc, on a server and on a client, before programs that say with which words they were run."""
    text = "".join(line for line in SHIM.read_text().splitlines(keepends=True) if not line.startswith("{{"))
    assert text.count("real=/usr/bin/$name") == 1
    for name in ("tools", "bin", "server"):
        (tmp_path / name).mkdir()
    program(tmp_path / "compiler", text.replace("real=/usr/bin/$name", f"real={tmp_path}/tools/$name"))
    for side in ("bin", "server"):
        (tmp_path / side / "gcc").symlink_to("../compiler")
    program(tmp_path / "tools/gcc", '#!/bin/sh\necho "${0##*/} $*" >> "$RAN"\nexit "${FAILS:-0}"\n')
    for name in ("ccache", "distcc"):
        shutil.copy(tmp_path / "tools/gcc", tmp_path / "tools" / name)
    return tmp_path


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def server(place, *words, folder="/"):
    """Run what distccd runs, with words; return its exit code and what it ran."""
    env = {"PATH": f"{place}/tools", "RAN": str(place / RAN)}
    done = subprocess.run([place / "server/gcc", *words], env=env, cwd=folder, capture_output=True, text=True, check=False)
    ran = (place / RAN).read_text() if (place / RAN).exists() else ""
    assert bool(ran) == (done.returncode == 0), done
    assert done.returncode in (0, 100), done.stderr
    if done.returncode:
        assert done.stderr.startswith("distccd: gcc is not run with: ")
    return done.returncode, ran


PLAIN = ("-c", "/tmp/distccd_0a1b2c3d.i", "-o", "/tmp/distccd_4e5f6071.o")
# What a server is sent: distcc has taken -I, -D, -MMD and their like out.
HARMLESS = """
-O2 -Wall -Wextra -Wno-unused -std=c99 -pedantic -DX=1 -g -fPIC -pthread -pipe
-O3 -Wall -Wextra -Wcast-qual -Wcast-align -Wshadow -Wstrict-aliasing=1 -Wswitch-enum
-Wdeclaration-after-statement -Wstrict-prototypes -Wundef
-O2 -fno-strict-aliasing -fvisibility=hidden -fstack-protector-strong -Wformat
-Werror=format-security -fcf-protection -Wa,--noexecstack
-g -O2 -ffile-prefix-map=/build/zstd=. -fstack-clash-protection -fdebug-prefix-map=/a=/b
-mbranch-protection=standard -frandom-seed=abc/def
-O3 -DNDEBUG -std=gnu++20 -fno-exceptions -fno-rtti -fvisibility-inlines-hidden -fdiagnostics-color=always -ftemplate-depth=900
-fmacro-prefix-map=./= -std=gnu11 -fshort-wchar -funsigned-char -fno-common -fno-PIE
-fno-strict-aliasing -mno-sse -mno-mmx -mno-80387
-fcf-protection=branch -fno-jump-tables -m64 -falign-jumps=1 -falign-loops=1 -mno-fp-ret-in-387
-mpreferred-stack-boundary=3 -mskip-rax-setup
-march=x86-64 -mtune=generic -mno-red-zone -mcmodel=kernel -fno-asynchronous-unwind-tables
-mindirect-branch=thunk-extern -mharden-sls=all
-mindirect-branch-register -mindirect-branch-cs-prefix -mfunction-return=thunk-extern
-fpatchable-function-entry=16,16 -mrecord-mcount -mfentry
-fno-delete-null-pointer-checks -fno-allow-store-data-races -fstack-protector-strong
-ftrivial-auto-var-init=zero -fno-stack-clash-protection
-fzero-call-used-regs=used-gpr -pg -fno-inline-functions-called-once -fmin-function-alignment=16
-fstrict-flex-arrays=3 -fno-strict-overflow
-fno-stack-check -fconserve-stack -fno-builtin-wcslen -fms-extensions -Wframe-larger-than=2048
-Wimplicit-fallthrough=5 -Wno-main -gdwarf-5
-fsanitize=kernel-address -fsanitize-coverage=trace-pc -fasan-shadow-offset=0xdffffc0000000000
--param asan-stack=1 --param=allow-store-data-races=0
-mlittle-endian -mabi=lp64 -mgeneral-regs-only -mstack-protector-guard=sysreg
-mstack-protector-guard-reg=sp_el0 -Wa,-march=armv8.5-a
-mstack-protector-guard-offset=1368 -mcpu=cortex-a72 -mfpu=neon-vfpv4 -mfloat-abi=hard -mthumb
-Wa,-mimplicit-it=thumb -mtune=cortex-a53
-x c++ -S
"""
HARMFUL = [
    "-wrapper /bin/sh,-c,id",
    "-B/tmp/x",
    "-B /tmp/x",
    "--prefix=/tmp/x",
    "@/etc/passwd",
    "@/tmp/distccd_0a1b2c3d.i",
    "-fplugin=/tmp/x.so",
    "-fplugin-arg-x-y=z",
    "-specs=/tmp/x",
    "--specs=/tmp/x",
    "-iplugindir=/tmp",
    "-fmodules-ts",
    "-fmodule-mapper=|id",
    "-no-integrated-cpp",
    "-no-canonical-prefixes",
    "--sysroot=/tmp",
    "-Wa,-a=/tmp/x",
    "-Wa,--MD,/tmp/x",
    "-Wa,-I,/tmp",
    "-Wa,-march=armv8-a,-a=/tmp/x",
    "-Wa,--debug-prefix-map=a=b",
    "-Wa,@/tmp/x",
    "-Wp,-MD,/tmp/x",
    "-Wp,-fplugin=/tmp/x.so",
    "-Xassembler -a=x",
    "-Xpreprocessor x",
    "-Xlinker x",
    "-x assembler-with-cpp",
    "-x c-header",
    "-xassembler",
    "-x go",
    "-save-temps",
    "-save-temps=obj",
    "-dumpbase /tmp/x",
    "-dumpdir /tmp/",
    "-dumpbase-ext .x",
    "-aux-info /tmp/x",
    "-fdump-tree-all",
    "-fdump-go-spec=/tmp/x",
    "-da",
    "-dH",
    "-fstack-usage",
    "-fcallgraph-info",
    "-fsave-optimization-record",
    "-fopt-info-all=/tmp/x",
    "-fcompare-debug",
    "-fprofile-use=/tmp/x",
    "-fprofile-use",
    "-fauto-profile=/tmp/x",
    "-fprofile-generate",
    "-fprofile-arcs",
    "-ftest-coverage",
    "--coverage",
    "-fdiagnostics-format=json-file",
    "-fdiagnostics-add-output=sarif:file=/tmp/x",
    "-fself-test=/tmp",
    "-gsplit-dwarf",
    "-flto",
    "-foffload=nvptx-none",
    "-frepo",
    "-march=native",
    "-mcpu=native",
    "-mtune=native",
    "-mcpu=native+crypto",
    "-MF /tmp/x",
    "-MF/tmp/x",
    "-MD",
    "-MMD -MF /tmp/distcc_0a.deps",
    "-E",
    "-M",
    "-v",
    "--version",
    "-print-search-dirs",
    "-o /tmp/x",
    "-o/etc/x",
    "-o /tmp/distccd_1/../x",
    "-o",
    "-D",
    "-",
    "/etc/passwd",
    "other.c",
    "x.s",
    "-l",
    "-unknown",
    "--param x=/y",
    "--param",
]


@pytest.mark.parametrize("words", HARMLESS.split("\n")[1:-1])
def test_options_of_real_builds_are_compiled_for_others(place, words):
    words = (*words.split(), *PLAIN)
    assert server(place, *words) == (0, f"gcc {' '.join(words)}\n")


@pytest.mark.parametrize("words", HARMFUL)
def test_what_is_not_known_to_be_harmless_is_refused_by_a_server(place, words):
    assert server(place, *PLAIN) == (0, f"gcc {' '.join(PLAIN)}\n")
    (place / RAN).unlink()
    for line in ((*words.split(), *PLAIN), (*PLAIN, *words.split())):
        assert server(place, *line) == (100, ""), line


def test_a_server_that_preprocesses_writes_to_the_folder_of_the_job(place, tmp_path_factory):
    folder = Path("/tmp/distccd_unittest") / str(os.getpid())
    folder.mkdir(parents=True)
    words = ["-I/tmp/distccd_0a1b2c/usr/include", "-include", "config.h", "-DA=/x y", "-MMD", "-MF", ".deps/a.d", "-c", "a.c"]
    written = ["-o", "/tmp/distccd_4e5f6071.o", "-MF", "/tmp/distcc_0a1b2c3d.deps"]
    try:
        assert server(place, *words, *written, folder=folder)[0] == 0
        (place / RAN).unlink()
        assert server(place, *words, *written, folder="/")[0] == 100, "no folder of a job"
        assert server(place, *words, *written, "-MF", "/tmp/x", folder=folder)[0] == 100
    finally:
        shutil.rmtree(folder)


def client(place, *words, **environment):
    """Run what a client has for gcc, with words; return its exit code, what it ran, and what it wrote to the log."""
    env = {"PATH": f"{place}/tools:/usr/bin", "RAN": str(place / RAN), "HERD_LOG": str(place / "log")} | environment
    done = subprocess.run([place / "bin/gcc", *words], env=env, capture_output=True, text=True, check=False)
    log = (place / "log").read_text() if (place / "log").exists() else ""
    return done.returncode, (place / RAN).read_text(), log


def tool(place, name, *lines, code=0):
    """Let a program of the client write lines to its log."""
    prints = "".join(f"echo '{line}' >> $DISTCC_LOG\n" for line in lines)
    program(place / "tools" / name, f'#!/bin/sh\necho "{name} $CCACHE_PREFIX $*" >> "$RAN"\n{prints}exit {code}\n')


def test_a_client_sends_what_is_harmless_and_says_who_made_it(place):
    own, other = "cpp a.c on localhost", "compile a.c on 10.77.0.22:3632/4,lzo"
    tool(place, "ccache", "cache_miss", f"distcc[9] {own} completed ok", f"distcc[9] {other} completed ok")
    words = "-Wp,-MMD,x.d -MT a.o -I /x -march=armv8-a -O2 -c a.c -o dir/a.o -Wl,-z,now"
    code, ran, log = client(place, *words.split())
    assert (code, ran) == (0, f"ccache distcc {place}/tools/gcc {words}\n")
    assert log.split("\t")[:2] == ["10.77.0.22", "1"]
    assert not list(place.glob("log.*"))


@pytest.mark.parametrize(
    ("words", "count", "why"),
    [
        ("-march=native -c a.c", 1, "-march=native, the processor of this node"),
        ("-mcpu=native -c a.c", 1, "-mcpu=native, the processor of this node"),
        ("-mtune=native -c a.c", 1, "-mtune=native, the processor of this node"),
        ("@flags -c a.c", 1, "a file of options, @flags"),
        ("a.c b.c c.cpp -o p", 3, "compiled and linked in one command"),
        ("-c a.c b.c", 2, "several files in one command"),
        ("-c a.S", 1, "assembler"),
        ("-fplugin=x.so -c a.c", 1, "-fplugin=x.so"),
    ],
)
def test_a_client_keeps_the_rest_and_says_why(place, words, count, why):
    tool(place, "ccache", "cache_miss")
    code, ran, log = client(place, *words.split())
    assert (code, ran) == (0, f"ccache  {place}/tools/gcc {words}\n"), "sent to others"
    assert log == f"home\t{count}\t{why}\n"


def test_a_hit_of_the_cache_and_a_failure_on_another_node_are_told_apart(place):
    tool(place, "ccache", "direct_cache_hit")
    assert client(place, "-c", "a.c")[2].split("\t")[0] == "cache"
    failed = "distcc[9] Warning: remote compilation of a.c failed, retrying locally"
    tool(place, "ccache", failed, "distcc[9] compile a.c on localhost completed ok")
    assert client(place, "-c", "a.c")[2].splitlines()[1].split("\t") == ["resort", "1", "it failed on another node"]
    tool(place, "ccache", "distcc[9] compile a.c on 10.77.0.22:3632/4 completed ok", code=1)
    assert client(place, "-c", "a.c")[0] == 1
    assert len((place / "log").read_text().splitlines()) == 2, "a failure counts as an object"


@pytest.mark.parametrize("words", ["--version", "a.o -o p", "-E a.c", "-M a.c", "-c conftest.c", "-dumpmachine"])
def test_what_makes_no_object_of_the_tree_is_run_and_not_counted(place, words):
    assert client(place, *words.split()) == (0, f"gcc {words}\n", "")


def test_distcc_that_falls_back_does_not_begin_anew(place):
    assert client(place, "-c", "a.c", _DISTCC_SAFEGUARD="1") == (0, "gcc -c a.c\n", "")


def test_with_pump_there_is_no_cache(place):
    tool(place, "distcc")
    assert client(place, "-c", "a.c", INCLUDE_SERVER_PORT="/x")[1] == f"distcc  {place}/tools/gcc -c a.c\n"


@pytest.fixture
def compare(tmp_path, ansible):
    """Run the comparison of the role on nodes with versions of the compiler; return what came."""

    def run(**versions):
        names = [*versions]
        for name, version in versions.items():
            program = tmp_path / name / "gcc"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\necho 'Target: x86_64-linux-gnu\ngcc version {version} (Debian)' >&2\n")
            program.chmod(0o755)
        tasks = [{"ansible.builtin.import_tasks": str(ROOT / "roles/distcc/tasks/compiler.yml")}]
        environment = {"PATH": f"{tmp_path}/{{{{ inventory_hostname }}}}:{os.environ['PATH']}"}
        play = {"hosts": "all", "gather_facts": False, "environment": environment, "tasks": tasks}
        return ansible(tmp_path, yaml.safe_dump([play]), hosts=names)

    return run


def test_nodes_with_one_compiler_are_fine(compare):
    done = compare(gamma="14.2.0", delta="14.2.0")
    assert done.returncode == 0, done.stdout


def test_an_odd_compiler_is_named(compare):
    done = compare(gamma="14.2.0", delta="12.2.0", epsilon="14.2.0")
    assert done.returncode == 2
    assert "distcc would mix objects of different compilers" in done.stdout
    assert "'delta': 'x86_64-linux-gnu 12.2.0'" in done.stdout, done.stdout
    assert "'gamma': 'x86_64-linux-gnu 14.2.0'" in done.stdout
