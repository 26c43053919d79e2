# Sourced by the other scripts: makes .venv in the project's root and installs kseg with the extras in $1 ("", "test", "test,dev").
# A second call installs nothing; a changed pyproject.toml installs again.
# PYTHON names another interpreter (3.11 or later); KSEG_EXTRAS adds extras, e.g. KSEG_EXTRAS=cuda for NVIDIA GPUs.
set -euo pipefail
extras=${1:-}
[ -z "${KSEG_EXTRAS:-}" ] || extras=${extras:+$extras,}$KSEG_EXTRAS
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
stamp=$root/.venv/installed-$(printf %s "${extras:-core}" | tr , -)

if [ ! -x "$python" ]; then
  found=
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$candidate; break; fi
  done
  if [ -z "$found" ]; then
    echo "error: kseg needs Python 3.11 or later and none was found; install one, or name it: PYTHON=/path/to/python $0" >&2
    exit 2
  fi
  if ! "$found" -m venv "$root/.venv"; then
    rm -rf "$root/.venv"
    echo "error: $found cannot make a virtual environment; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2
    exit 2
  fi
fi

wanted=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read() + sys.argv[2].encode()).hexdigest())' \
  "$root/pyproject.toml" "$root")
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing kseg${extras:+ with $extras} into .venv (once; some minutes) ..." >&2
  "$python" -m pip install --quiet --disable-pip-version-check --editable "$root${extras:+[$extras]}" >&2
  printf %s "$wanted" > "$stamp"
fi
