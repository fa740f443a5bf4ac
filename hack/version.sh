#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Prints the version of this checkout: a tag, or a tag and the commits since, or the commit; "-dirty" with local changes.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
git describe --tags --match 'v*' --always --dirty 2>/dev/null || echo unversioned
