#!/usr/bin/env bash
# Measures a training step of U-Net on EfficientNet-B4 beside smp with torch.compile, on a GPU, in at most 580 s:
#   benchmarks/gpu.sh
# Writes step-gpu-unet.json into OUT, by default benchmarks/results. PYTHON names the interpreter. WHEELS names a folder of wheels to
# use beside it (README.md says which). TINY=1 measures a small network on any device, to try the script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
cache=${TMPDIR:-/tmp}/kseg-gpu-cache # a second run within the same session finds the compiled programs
mkdir -p "$out" "$cache"
export KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=$cache/jax TORCHINDUCTOR_CACHE_DIR=$cache/inductor
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$cache/packages" "$WHEELS"/*.whl
  export PYTHONPATH=$cache/packages${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" - << 'END'
import importlib.util
names = ("absl", "h5py", "huggingface_hub", "jax", "keras", "namex", "optree", "rich", "segmentation_models_pytorch", "timm", "torch")
missing = [name for name in names if importlib.util.find_spec(name) is None]
raise SystemExit(f"error: not installed: {', '.join(missing)}; see benchmarks/README.md" if missing else 0)
END
work=(--models unet/tf_efficientnet_b4 --batch_size=16 --image_size=512 --rounds=5 --steps=20)
[ -z "${TINY:-}" ] || work=(--models unet/resnet18 --batch_size=2 --image_size=32 --rounds=1 --steps=1)
exec timeout $((580 - SECONDS)) "$python" -m benchmarks step --baseline compile --precision=bfloat16 "${work[@]}" --start_together --label=unet \
  --json="$out/step-gpu-unet.json"
