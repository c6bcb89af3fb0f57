#!/usr/bin/env bash
# Train the recipe lstm-790k; flags and environment as in train.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" lstm-790k "$@"
