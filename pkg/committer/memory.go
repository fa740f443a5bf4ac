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

package committer

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
)

// MemoryLimit is the soft limit of the Go runtime for a commit. What a commit needs at most is the names of one huge
// directory and the names of files that have several; without a limit, garbage would take as much again. Together with
// what the runtime does not count, a commit stays under 128 MiB (TestMemory).
const MemoryLimit = 96 << 20

// PeakMemory is the most physical memory that this process has had, in bytes; 0 where the kernel does not tell. It is
// not what getrusage says: that counts what the process was forked from.
func PeakMemory() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		var kilobytes int64
		if n, _ := fmt.Sscanf(lines.Text(), "VmHWM: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	return 0
}
