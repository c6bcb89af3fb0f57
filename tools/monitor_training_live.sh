#!/usr/bin/env bash
# Live dashboard of a run, refreshed every 30 s:  bash tools/monitor_training_live.sh artifacts/lvm/models/…/training.log
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
nextvec="${NEXTVEC:-$root/.venv/bin/nextvec}"
if ! command -v "$nextvec" >/dev/null; then nextvec=nextvec; fi
exec "$nextvec" watch "$@"
