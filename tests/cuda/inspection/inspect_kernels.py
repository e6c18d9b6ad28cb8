#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels for every architecture and looks at what came out.

    inspect_kernels.py NVCC INCLUDE_DIR WORK_DIR [--all] [--arch 80 ...]

One table (BOUNDS) holds what each kernel may use and must have: threads and shared memory (which must
be what the kernel asks for), registers, blocks per multiprocessor, tensor-core instructions, 128-bit
accesses. No kernel may spill. Exit status 1 and a line per fault if something does not hold.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import re
import struct
import subprocess
import sys

# Per multiprocessor: threads, blocks, shared memory (bytes), and per block with opting in.
DEVICES = {75: (1024, 16, 65536, 65536), 80: (2048, 32, 167936, 166912),
           86: (1536, 16, 102400, 101376), 89: (1536, 24, 102400, 101376),
           90: (2048, 32, 233472, 232448), 100: (2048, 32, 233472, 232448),
           120: (1536, 24, 102400, 101376)}

# (pattern of the demangled name, what must hold). `blocks`: least blocks per multiprocessor, by
# registers, shared memory and threads, on every architecture.
Bound = collections.namedtuple("Bound", "threads registers shared blocks needs")
FLASH = ("HMMA", "LDSM", "LDGSTS")  # cp.async of 16 bytes is the only one that is written
BOUNDS = {
    r"flash_kernel<zerotune::b?float16, 64, 4,": Bound(128, 248, 18464, 2, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 64, 1,": Bound(32, 248, 18448, 4, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 80, 4,": Bound(128, 255, 22560, 2, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 96, 4,": Bound(128, 255, 26656, 2, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 128, 4,": Bound(128, 255, 34848, 2, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 128, 1,": Bound(32, 255, 34832, 2, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 256, 4,": Bound(128, 255, 67616, 1, FLASH + ("STG.128",)),
    r"flash_kernel<zerotune::b?float16, 256, 1,": Bound(32, 255, 42256, 2, FLASH + ("STG.128",)),
    r"generic_attention_kernel<float,": Bound(128, 232, 23328, 2, ("LDG.128", "LDS.128")),
    r"merge_kernel<": Bound(128, 64, 0, 8, ()),
    r"softmax_kernel<.*true>": Bound(256, 64, 64, 4, ("LDG.128", "STG.128")),
    r"rescale_kernel<": Bound(128, 64, 0, 8, ()),
    r"bias_kernel<": Bound(128, 64, 0, 8, ()),
    r"correct_kernel<": Bound(128, 80, 0, 6, ()),
}

# The low 12 bits of a 128-bit instruction, sm_75 and later.
OPCODES = {0x23C: "HMMA", 0x83B: "LDSM", 0xFAE: "LDGSTS", 0x981: "LDG", 0x381: "LDG", 0x986: "STG",
           0x386: "STG", 0x984: "LDS", 0x988: "STS", 0x388: "STS", 0x983: "LDL", 0x387: "STL",
           0x987: "STL"}
SIZES = {0: "8", 1: "8", 2: "16", 3: "16", 4: "32", 5: "64", 6: "128"}


def sections(image):
    start, = struct.unpack_from("<Q", image, 40)
    size, = struct.unpack_from("<H", image, 58)
    count, names = struct.unpack_from("<HH", image, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, start + i * size) for i in range(count)]
    for header in headers:
        at = headers[names][4] + header[0]
        name = image[at:image.index(b"\0", at)].decode()
        if header[1] != 8:  # not of the kind without contents
            yield name, image[header[4]:header[4] + header[5]]


def instructions(cubin):
    """Kernel -> counts of the instructions that OPCODES names, memory accesses with their size."""
    found = {}
    for name, code in sections(cubin.read_bytes()):
        if not name.startswith(".text."):
            continue
        counts = collections.Counter()
        for i in range(0, len(code) - 15, 16):
            low, high = struct.unpack_from("<QQ", code, i)
            opcode = OPCODES.get(low & 0xFFF)
            if opcode is None:
                continue
            if opcode not in ("HMMA", "LDSM", "LDGSTS"):
                opcode += "." + SIZES.get((high >> 9) & 7, "?")
            counts[opcode] += 1
        found[name.removeprefix(".text.")] = counts
    return found


def demangle(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout
    return dict(zip(names, text.splitlines()))


def short_name(demangled):
    """A kernel without the library's namespaces and the function around it."""
    name = re.sub(r"zerotune::zt_\w+?::", "", demangled)
    return re.sub(r"^(?:void cuda::run_kernel<)?(?:cuda::)?(.*?)(?:>\(.*)?$", r"\1", name).strip()


def bound_of(short):
    """The kernel's row of the table, or None."""
    bounds = [bound for pattern, bound in BOUNDS.items() if re.search(pattern, short)]
    return bounds[0] if len(bounds) == 1 else None


def check_sizes(nvcc, include, work, everything):
    """Threads and shared memory of the table against the kernels' own."""
    program = work / "sizes"
    command = [nvcc, "-std=c++20", f"-I{include}", "-x", "c++", "-DZEROTUNE_INSPECT_SIZES",
               "-o", str(program), str(pathlib.Path(__file__).parent / "kernels.cu")]
    command += ["-DZEROTUNE_INSPECT_ALL"] if everything else []
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    if build.returncode != 0:
        return [f"sizes: does not compile\n{build.stderr}"]
    text = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    sizes = {"_Z" + name: (int(threads), int(shared))
             for name, threads, shared in map(str.split, text.splitlines())}
    faults = []
    for mangled, demangled in demangle(list(sizes)).items():
        bound = bound_of(short_name(demangled))
        if bound is None or (bound.threads, bound.shared) != sizes[mangled]:
            faults.append(f"{short_name(demangled)}: threads and shared memory are {sizes[mangled]}, "
                          f"the table says {bound and (bound.threads, bound.shared)}")
    return faults if sizes else ["sizes: no kernel"]


def usage(log):
    """Kernel -> (registers, bytes of spills, bytes of stack), from what ptxas says."""
    found, name, spills, stack = {}, None, 0, 0
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes",
                                line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            found[name] = (int(match[1]), spills, stack)
    return found


def blocks_per_multiprocessor(arch, threads, registers, shared):
    limit_threads, limit_blocks, limit_shared, _ = DEVICES[arch]
    warps = threads // 32
    of_registers = 65536 // ((registers * 32 + 255) // 256 * 256) // warps
    reserved = 1024 if arch >= 80 else 0
    of_shared = limit_shared // (shared + reserved) if shared + reserved else limit_blocks
    return min(limit_blocks, limit_threads // threads, of_registers, of_shared)


def inspect(arch, nvcc, include, work, everything):
    cubin = work / f"kernels_{arch}.cubin"
    here = pathlib.Path(__file__).parent
    command = [nvcc, "-std=c++20", f"-I{include}", f"-arch=sm_{arch}", "-cubin",
               "-Xptxas", "-v,--warn-on-spills", "-o", str(cubin), str(here / "kernels.cu")]
    command += ["-DZEROTUNE_INSPECT_SM75"] if arch < 80 else []
    command += ["-DZEROTUNE_INSPECT_ALL"] if everything else []
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return [f"sm_{arch}: does not compile\n{run.stderr}"]
    faults = [f"sm_{arch}: {line}" for line in run.stderr.splitlines() if "warning" in line.lower()]
    used = usage(run.stderr)
    counts = instructions(cubin)
    names = demangle(list(used))
    for mangled, (registers, spills, stack) in used.items():
        short = short_name(names[mangled])
        bound, c = bound_of(short), counts[mangled]
        if bound is None:
            faults.append(f"sm_{arch}: {short}: not in the table")
            continue
        blocks = blocks_per_multiprocessor(arch, bound.threads, registers, bound.shared)
        say = f"sm_{arch}: {short[:70]}"
        if spills or stack or any(k.startswith(("LDL", "STL")) for k in c):
            faults.append(f"{say}: {spills} bytes spilled, {stack} bytes of stack")
        if registers > bound.registers:
            faults.append(f"{say}: {registers} registers, more than {bound.registers}")
        if bound.shared > DEVICES[arch][3]:
            faults.append(f"{say}: {bound.shared} bytes of shared memory, more than a block has")
        if blocks < bound.blocks:
            faults.append(f"{say}: {blocks} blocks per multiprocessor, fewer than {bound.blocks}")
        for need in bound.needs:
            if not c[need]:
                faults.append(f"{say}: no {need}")
        warps = blocks * bound.threads // 32
        print(f"sm_{arch:<3} {short[:58]:<58} registers {registers:>3}  shared {bound.shared:>5}  "
              f"blocks {blocks:>2}  warps {warps:>2}  HMMA {c['HMMA']}")
    return faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("nvcc")
    parser.add_argument("include")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--all", action="store_true", help="every head dimension")
    parser.add_argument("--arch", type=int, nargs="*", default=sorted(DEVICES))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    known = subprocess.run([options.nvcc, "--list-gpu-arch"], capture_output=True, text=True,
                           check=True).stdout
    archs = [a for a in options.arch if f"compute_{a}\n" in known + "\n"]
    for arch in set(options.arch) - set(archs):
        print(f"sm_{arch} skipped: this nvcc does not know it")
    faults = check_sizes(options.nvcc, options.include, options.work, options.all)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda arch: inspect(arch, options.nvcc, options.include, options.work,
                                                options.all), archs)
        faults += [fault for result in results for fault in result]
    for fault in faults:
        print(fault)
    print(f"{len(archs)} architectures, {len(faults)} faults")
    return 1 if faults or not archs else 0


if __name__ == "__main__":
    sys.exit(main())
