"""What `triptych doctor` checks of the machine: Python, packages, FAISS, ONNX Runtime, disk."""

import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from scripts.doctor.check import Check, State
from store.home import Home

_PINNED = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[\w.+]+)(?:; extra == \"(?P<extra>\w+)\")?$")
_LOW_BYTES = 2 << 30
_FULL_BYTES = 100 << 20


def machine_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of the machine."""
    yield Check("python", State.OK, f"{platform.python_version()} on {platform.machine()}")
    yield from package_checks(requires("triptych") or [])
    yield faiss_check()
    yield _onnxruntime()
    yield disk_check(home.path)


def package_checks(requirements: list[str]) -> Iterator[Check]:
    """Yield a check of the core packages and one of what training needs, from lines like "duckdb==2.0.0"."""
    pinned = [match for line in requirements if (match := _PINNED.match(line))]
    core = {match["name"]: match["version"] for match in pinned if match["extra"] is None}
    train = {match["name"]: match["version"] for match in pinned if match["extra"] == "train"}
    yield _packages("packages", core, State.FAILED, "pip install -e clients/python -e '.[cpu]'")
    yield _packages(
        "training packages",
        train,
        State.WARNING,
        "to train here: pip install -e clients/python -e '.[cpu,train]'; serving needs none",
    )


def _packages(name: str, pinned: dict[str, str], if_missing: State, hint: str) -> Check:
    missing, other = [], []
    for package, wanted in pinned.items():
        try:
            found = version(package).partition("+")[0]  # torch 2.13.0+cpu is torch 2.13.0
        except PackageNotFoundError:
            missing.append(package)
            continue
        if found != wanted:
            other.append(f"{package} {found}, tested with {wanted}")
    if missing:
        return Check(name, if_missing, f"missing: {', '.join(missing)}", hint)
    if other:
        return Check(name, State.WARNING, "; ".join(other), hint)
    return Check(name, State.OK, f"{len(pinned)} in the tested versions")


def faiss_check() -> Check:
    """Check which build of FAISS is installed and how many GPUs it sees."""
    try:
        import faiss

        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    except ImportError as error:
        return Check(
            "faiss", State.FAILED, str(error), "pip install -e '.[cpu]', or '.[gpu]' with a CUDA driver"
        )
    except RuntimeError as error:  # a GPU build whose CUDA libraries are missing
        return Check(
            "faiss", State.FAILED, str(error), "install the CUDA libraries, or pip install -e '.[cpu]'"
        )
    build = "GPU" if hasattr(faiss, "StandardGpuResources") else "CPU"
    found = f"{faiss.__version__}, {build} build, GPUs: {gpus}"
    if build == "GPU" and not gpus:
        return Check(
            "faiss", State.WARNING, found, "no GPU is seen, the CPU is used: check the driver (nvidia-smi)"
        )
    return Check("faiss", State.OK, found)


def _onnxruntime() -> Check:
    try:
        import onnxruntime
    except ImportError as error:
        return Check("onnxruntime", State.FAILED, str(error), "pip install -e '.[cpu]', or '.[gpu]'")
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return Check("onnxruntime", State.OK, f"{onnxruntime.__version__}, providers: {providers}")


def disk_check(path: Path) -> Check:
    """Check the free space of the disk that a home lies on or would lie on."""
    existing = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:,.1f} GB free at {existing}"
    if free < _FULL_BYTES:
        return Check("disk", State.FAILED, found, "free some space: nothing can be written")
    if free < _LOW_BYTES:
        return Check("disk", State.WARNING, found, "`triptych index prune` removes old indexes")
    return Check("disk", State.OK, found)
