"""Find the graphics card of this machine; exit code 3 without one.

Example: python -m scripts.gpu.card
"""

import json
import shutil
import subprocess
import sys

NO_CARD = 3  # exit code
_ASKED = ("name", "memory.total", "driver_version")


class NoCardError(LookupError):
    """This machine has no graphics card that can be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no graphics card here ({reason}): `make gpu` wants a machine with an NVIDIA card and its driver"
        )


def find_card() -> dict[str, str]:
    """Return name, memory and driver of the first card.

    Raises:
        NoCardError: nvidia-smi is missing or names no card.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoCardError("there is no nvidia-smi")
    asked = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCardError(f"nvidia-smi: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NoCardError(f"nvidia-smi: {said[0] if said else 'names none'}")
    return dict(zip(_ASKED, (part.strip() for part in lines[0].split(",")), strict=False))


if __name__ == "__main__":
    try:
        print(json.dumps(find_card()))
    except NoCardError as error:
        print(f"gpu: {error}", file=sys.stderr)
        sys.exit(NO_CARD)
