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

package sandboxsnapshot

import "testing"

func TestSizesAreShownForPeople(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "", -1: "", 1: "1B", 509: "509B", 1023: "1023B", 1024: "1.0KiB", 3000: "2.9KiB", 10240: "10KiB", 1023 * 1024: "1.0MiB",
		12345678: "12MiB", 1<<30 + 1<<29: "1.5GiB", 1 << 50: "1024TiB",
	} {
		if got := shown(bytes); got != want {
			t.Errorf("%d bytes are shown as %q, want %q", bytes, got, want)
		}
	}
}
