#!/usr/bin/env bash
# From nothing to passing tests: scripts/test.sh [arguments of pytest]
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
cd "$root"
exec "$python" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
