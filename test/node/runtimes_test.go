//go:build e2e

/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package node

import (
	"os"
	"os/exec"
	"testing"
)

// forRuntimes runs a test with each runtime that is to be had.
func forRuntimes(t *testing.T, test func(*testing.T, *stage)) {
	t.Helper()
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			path := os.Getenv("NODE_" + name)
			if path == "" {
				var err error
				if path, err = exec.LookPath(name); err != nil {
					t.Skip(err)
				}
			}
			test(t, newStage(t, path))
		})
	}
}
