"""An AArch64 Python with torch in a folder, for x86-64 Debian 12 and qemu's user mode.

No chroot, no container, no binfmt: Debian's arm64 packages and AArch64 wheels are unpacked into the folder, and nothing
outside it changes. About a minute and 1.3 GB.

    FOLDER/root              Debian's Python, its libraries and headers
    FOLDER/site              wheels
    FOLDER/torch-VERSION     torch, by itself: CPUs differ in which they can run
    FOLDER/cpu-NAME          root again, with that CPU's description of itself
    FOLDER/sysconfig         how a cross build for this Python is configured
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

PYTHON = "python3.11"
TRIPLET = "aarch64-linux-gnu"
EMULATOR = "qemu-aarch64-static"
DEBIAN = [f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libstdc++6", "libgomp1", "zlib1g"]
HEADERS = f"lib{PYTHON}-dev"
WHEELS = [
    *(
        "numpy",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "typer",
        "rich",
    ),  # pyproject.toml's dependencies
    *("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools"),  # torch's
    "pytest",
]
# The oldest that the package takes, and the newest whose AArch64 wheel on PyPI is for CPUs alone.
OLDEST_TORCH, NEWEST_TORCH = "2.6.0", "2.10.0"
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 26, 25, 24, 17)] + ["manylinux2014_aarch64"]


@dataclass(frozen=True)
class Cpu:
    """An emulated CPU. `part` and `features` are what torch reads of /proc/cpuinfo; the kernels ask getauxval."""

    part: str
    features: str
    torch: str = NEWEST_TORCH


# torch 2.10 itself has atomic instructions of ARMv8.1 in code that importing it runs: not for a Cortex-A72.
CPUS = {
    "cortex-a72": Cpu("0xd08", "fp asimd aes pmull sha1 sha2 crc32 cpuid", OLDEST_TORCH),
    "cortex-a76": Cpu("0xd0b", "fp asimd aes crc32 atomics fphp asimdhp asimdrdm lrcpc asimddp"),
    "max": Cpu("0xd0c", "fp asimd aes crc32 atomics fphp asimdhp asimdrdm lrcpc asimddp"),
}


def run(command: list[str], **options: object) -> None:
    """Run it; end with one line and what it said if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        sys.exit(f"{result.stdout}{result.stderr}\nfailed with {result.returncode}: {' '.join(command)}")


def make(folder: Path) -> Path:
    """The environment in `folder`, made anew where it is missing, half made or of another version of this file."""
    stamp = folder / "complete"
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == version:
        return folder
    print(f"making an AArch64 Python in {folder}", flush=True)
    if folder.exists():
        shutil.rmtree(folder)
    unpack_debian(folder)
    unpack_wheels(folder)
    for name, cpu in CPUS.items():
        describe(folder, name, cpu)
    (folder / "sysconfig").mkdir()
    for path in (folder / "root/usr/lib" / PYTHON).glob("_sysconfigdata_*"):
        shutil.copy(path, folder / "sysconfig")
    byte_compile([folder / "root/usr/lib" / PYTHON, folder / "site", *folder.glob("torch-*")])
    stamp.write_text(version)
    return folder


def unpack_debian(folder: Path) -> None:
    """arm64 packages, by a package manager's state of our own that reads this machine's sources."""
    apt, root = folder / "apt", folder / "root"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    root.mkdir()
    (apt / "state/status").touch()
    config = apt / "apt.conf"
    config.write_text(
        'APT::Architecture "arm64"; APT::Architectures { "arm64"; };\n'
        'APT::Install-Recommends "false"; APT::Sandbox::User "";\n'
        f'Dir::State "{apt}/state"; Dir::State::status "{apt}/state/status"; Dir::Cache "{apt}/cache";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(config)}
    run(["apt-get", "-qq", "update"], env=environment)
    run(["apt-get", "-qq", "install", "-y", "--download-only", *DEBIAN], env=environment)
    run(["apt-get", "-qq", "download", HEADERS], env=environment, cwd=apt / "cache/archives")
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(root)])
    shutil.rmtree(apt)


def unpack_wheels(folder: Path) -> None:
    """pip chooses and downloads; nothing is installed, since pip would have to run under emulation for that."""
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON.removeprefix('python')}", "--implementation=cp", "--abi=cp311"]
    command += [f"--platform={name}" for name in PLATFORMS]
    run([*command, f"--dest={wheels / 'site'}", *WHEELS])
    for version in {cpu.torch for cpu in CPUS.values()}:
        # Alone: pip would take this machine's for what its dependencies depend on, and want CUDA.
        run([*command, f"--dest={wheels / f'torch-{version}'}", "--no-deps", f"torch=={version}"])
    for wheel in wheels.glob("*/*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / wheel.parent.name)
    shutil.rmtree(wheels)


def describe(folder: Path, name: str, cpu: Cpu) -> None:
    """A root that says which CPU it is on: torch's library for that crashes on an x86 CPU's description."""
    root = folder / f"cpu-{name}"
    identification = root / "sys/devices/system/cpu/cpu0/regs/identification"
    identification.mkdir(parents=True)
    (root / "proc").mkdir()
    for path in (folder / "root").iterdir():
        (root / path.name).symlink_to(Path("..", "root", path.name))
    (root / "proc/cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: {cpu.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {cpu.part}\nCPU revision\t: 1\n\n"
    )
    for file in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / file).write_text("0\n")
    (identification / "midr_el1").write_text(f"{0x413F0001 | int(cpu.part, 16) << 4:#018x}\n")


def byte_compile(folders: list[Path]) -> None:
    """With this Python, where it is of the same version: importing torch takes half the time under emulation then."""
    if f"python{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        command = [sys.executable, "-m", "compileall", "-q", "-j2", *map(str, folders)]
        subprocess.run(command, capture_output=True, check=False)  # a few files of tests are wrong on purpose


def command(folder: Path, name: str, package: Path) -> list[str]:
    """What runs Python on the emulated CPU `name`, with `package`'s modules; arguments follow."""
    path = os.pathsep.join(map(str, (package, folder / "site", folder / f"torch-{CPUS[name].torch}")))
    settings = [f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1"]
    emulator = [EMULATOR, "-cpu", name, "-L", str(folder / f"cpu-{name}")]
    return [
        *emulator,
        *(word for each in settings for word in ("-E", each)),
        str(folder / "root/usr/bin" / PYTHON),
    ]
