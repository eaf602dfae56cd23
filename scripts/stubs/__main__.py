"""Write the stubs of the API: those of its clients into triptych_client, the internal ones into server.

Example: python -m scripts.stubs
Example: python -m scripts.stubs --into /tmp/checkout
"""

import argparse
import sys
import tempfile
from pathlib import Path

from scripts.stubs.descriptors import describe, protoc, renamed, without_imports

ROOT = Path(__file__).resolve().parents[2]

# A folder of proto/, how Python imports its stubs, and the folder of the checkout that this import begins in.
PUBLIC = ("triptych/v1", "triptych_client/pb/v1", "clients/python")
INTERNAL = ("triptych/internal/v1", "server/pb/triptych/internal/v1", ".")

_PLUGINS = ("mypy", "mypy_grpc")


def main() -> None:
    """Write all stubs below a folder, which is this checkout if no other is named."""
    parser = argparse.ArgumentParser(prog="python -m scripts.stubs", description=(__doc__ or "").strip())
    parser.add_argument("--into", type=Path, default=ROOT, help="the folder instead of this checkout")
    parser.add_argument("--proto", type=Path, default=ROOT / "proto", help="the files that describe the API")
    arguments = parser.parse_args()
    write_stubs(arguments.proto, arguments.into)


def write_stubs(proto: Path, into: Path) -> None:
    """Write the stubs of the files in a folder below another one, in the place of those that lie there.

    Raises:
        ProtocError: a file is wrong, or a plugin is missing.
    """
    parts = (PUBLIC, INTERNAL)
    sources = {folder: sorted(_names(proto, folder)) for folder, _, _ in parts}
    described = without_imports(describe(proto, [name for names in sources.values() for name in names]))
    described = renamed(described, {folder: package for folder, package, _ in parts})
    plugins = [f"--plugin=protoc-gen-{name}={_beside(f'protoc-gen-{name}')}" for name in _PLUGINS]
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "stubs.binpb"
        descriptors.write_bytes(described.SerializeToString())
        for source, package, start in parts:
            out = into / start
            for old in (out / package).glob("*_pb2*"):
                old.unlink()
            out.mkdir(parents=True, exist_ok=True)
            outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", *_PLUGINS)]
            names = [f"{package}/{Path(name).name}" for name in sources[source]]
            protoc(f"--descriptor_set_in={descriptors}", *outputs, *plugins, *names, cwd=into)


def _names(proto: Path, folder: str) -> list[str]:
    return [f"{folder}/{file.name}" for file in (proto / folder).glob("*.proto")]


def _beside(program: str) -> Path:
    """Return a program of the environment that Python runs in."""
    return Path(sys.executable).parent / program


if __name__ == "__main__":
    main()
