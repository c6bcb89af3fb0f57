#!/usr/bin/env bash
# Train the recipe transformer-790k; flags and environment as in train.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" transformer-790k "$@"
