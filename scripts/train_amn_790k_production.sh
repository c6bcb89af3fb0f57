#!/usr/bin/env bash
# Train the recipe amn-790k-production; flags and environment as in train.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" amn-790k-production "$@"
