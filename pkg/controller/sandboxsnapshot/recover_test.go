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

// A Job that was created just before the controller died is a commit of its Pod, though no status
// tells of it yet.
func TestAfterACrashNoPodIsCommittedTwice(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"), snapshotOf("demo", "mine"))
	f.refuseStatus = true
	if err := f.visit("demo-gen1"); err == nil {
		t.Fatal("the status was written")
	}
	f.hasJobs(commit)

	f.restart()
	f.change("demo", running) // so that the user's snapshot does not wait for the pause
	f.is(f.visits("mine"), "Pending Ready=False/Queued")
	f.hasJobs(commit)
}
