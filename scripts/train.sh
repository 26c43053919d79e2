#!/usr/bin/env bash
# From nothing to a trained model: scripts/train.sh --model=deeplabv3plus [any flag of python -m kseg.train]
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
exec "$python" -m kseg.train "$@"
