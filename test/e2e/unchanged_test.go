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

package e2e

import (
	"strings"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// An entrypoint that gives everything to whom it belongs changes nothing, however much it copies up.
func TestAChownAtEveryStartIsNoChange(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", `mkdir -p /home/sandbox/d && cd /home/sandbox
for i in $(seq 64); do dd if=/dev/urandom of=d/$i bs=1M count=1 2>/dev/null; done
ln -s d/1 link; chown -R 1000:1000 . && find . -type f | sort | xargs md5sum > /root/sums`)
	for cycle := 1; cycle <= 3; cycle++ {
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		saved := snapshot.Status.Containers[0]
		t.Logf("cycle %d: %d bytes in %d layers", cycle, saved.LayerBytes, saved.Layers)
		if large := saved.LayerBytes > 32<<20; large != (cycle == 1) {
			t.Errorf("cycle %d: the layers of this pause have %d bytes", cycle, saved.LayerBytes)
		}
		r.resume("demo")
		r.awaitReady("demo")
		r.sh("demo", "cd /home/sandbox && md5sum -c /root/sums >/dev/null && test $(readlink link) = d/1 && test $(stat -c %u:%g d/1) = 1000:1000 && chown -R 1000:1000 .")
	}
}

// A file of nothing but a hole keeps nobody frozen. Larger ones, and names that no image holds, are refused before anything
// is pushed or frozen, by name, and a pause that waits for its next try succeeds once they are gone.
func TestFilesThatNoImageHoldsAreRefusedByName(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", "echo kept > /root/file && truncate -s 20G /root/lastlog && echo busy | dd of=/root/lastlog bs=1 seek=10000000000 conv=notrunc 2>/dev/null")
	r.takeSnapshot("sparse", "demo")
	sparse := r.awaitSucceed("sparse")
	if frozen := sparse.Status.FrozenDuration.Duration; frozen.Seconds() > 5 || sparse.Status.Containers[0].LayerBytes > 1<<20 {
		t.Errorf("20 GiB of hole: frozen for %s, %d bytes", frozen, sparse.Status.Containers[0].LayerBytes)
	}
	for _, file := range []struct{ name, make string }{
		{"/root/huge", "truncate -s 1024G /root/huge"},
		{"/root/l1/.wh..wh..opq", "mkdir -p /root/l1 && touch /root/l1/.wh..wh..opq"},
	} {
		r.sh("demo", file.make)
		r.pause("demo")
		refused := r.await("demo", "running on, its pause refused", func(s *v1alpha1.Sandbox) bool {
			return s.Status.Phase == v1alpha1.SandboxRunning && reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesNotSupported
		})
		if message := messageOf(refused.Status.Conditions, v1alpha1.ConditionPaused); !strings.Contains(message, file.name) {
			t.Errorf("the message does not name %s: %s", file.name, message)
		}
		r.mustNotBeFrozen()
		r.resume("demo") // which cancels the pause that waits
		r.await("demo", "no longer wanted paused", func(s *v1alpha1.Sandbox) bool {
			return s.Spec.DesiredState == v1alpha1.DesiredStateRunning && s.Status.Phase == v1alpha1.SandboxRunning
		})
		r.sh("demo", "rm -r "+file.name)
	}
	r.sh("demo", "rm /root/lastlog && mkdir -p /root/l2 && touch /root/l2/.wh.x")
	r.pause("demo")
	r.await("demo", "running on, its pause refused", func(s *v1alpha1.Sandbox) bool {
		return reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesNotSupported
	})
	r.sh("demo", "rm /root/l2/.wh.x")
	r.awaitPaused("demo")
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
}
