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

package integration

import (
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// TestNoWriterWorksInVain has eight clients patch one sandbox. Each patch is one transaction: whoever
// reads what another is about to change makes two of it, or more.
func TestNoWriterWorksInVain(t *testing.T) {
	const clients, patches = 8, 12
	f := newFixture(t)
	f.create(sandbox("wanted"))
	before := f.updates()
	var working sync.WaitGroup
	for client := range clients {
		working.Go(func() {
			for n := range patches {
				if err := f.relabel("wanted", client*patches+n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	// A few are allowed where the cache does not come along.
	if made := f.updates() - before; made < clients*patches || made > clients*patches*11/10 {
		t.Errorf("%d patches made %d transactions", clients*patches, made)
	}
}

var updateRequests = regexp.MustCompile(`(?m)^etcd_request_duration_seconds_count\{.*operation="update".*resource="sandboxes".*\} (\d+)$`)

// updates counts the transactions that have tried to change a sandbox.
func (f *fixture) updates() (all int) {
	f.Helper()
	for _, found := range updateRequests.FindAllStringSubmatch(string(f.read("/metrics").body), -1) {
		n, err := strconv.Atoi(found[1])
		f.must(err)
		all += n
	}
	return all
}
