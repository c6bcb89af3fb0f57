#!/usr/bin/env bash
# Train a recipe with the runbook's paths:   bash scripts/train.sh RECIPE [flags of `nextvec train`]
#
# The script works from any folder. Flags (--data, --ood-data, --output-dir, --device, …) or the variables DATA_FILE, OOD_DATA,
# MODEL_DIR, DEVICE and NEXTVEC (the command) change its defaults.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
recipe="${1:?name a recipe, such as amn-790k-production}"
shift

# On macOS, two OpenMP runtimes in one process end a run with "Abort trap: 6".
if [ "$(uname -s)" = Darwin ]; then export KMP_DUPLICATE_LIB_OK=TRUE; fi

nextvec="${NEXTVEC:-$root/.venv/bin/nextvec}"
if ! command -v "$nextvec" >/dev/null; then nextvec=nextvec; fi
if ! command -v "$nextvec" >/dev/null; then
  echo "nextvec is not installed. Install it with the commands at the top of README.md." >&2
  exit 2
fi

data="$root/artifacts/lvm/training_sequences_ctx5.npz"
case "$recipe" in *584k*) data="$root/artifacts/lvm/training_sequences_ctx5_584k.npz" ;; esac

# Flags after the recipe come last, so they override the defaults.
exec "$nextvec" train "$recipe" \
  --data "${DATA_FILE:-$data}" \
  --ood-data "${OOD_DATA:-$root/artifacts/lvm/wikipedia_ood_test_ctx5.npz}" \
  --output-dir "${MODEL_DIR:-$root/artifacts/lvm/models/${recipe//-/_}_{time\}}" \
  --device "${DEVICE:-auto}" \
  "$@"
