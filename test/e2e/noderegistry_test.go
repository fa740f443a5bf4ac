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
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestARegistryOfTheNode is at a loopback address, as those of local clusters are: nodes reach it, Pods and the server do
// not. It wants gzip. Not in parallel with others: it is the server's registry.
func TestARegistryOfTheNode(t *testing.T) {
	r := newRoom(t)
	own := newRegistryAt(t, "127.0.0.1")
	restore := r.withServerArgs(t, "--snapshot-registry="+own.host+"/sandboxes", "--layer-compression=gzip")
	r.start("demo")
	for cycle, file := range []string{"first", "second"} {
		r.sh("demo", "echo kept > /root/"+file)
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		manifest, err := r.image(snapshot.Status.Containers[0]).Manifest()
		if err != nil {
			t.Fatal(err)
		}
		layers := manifest.Layers
		for _, l := range layers[len(layers)-cycle-1:] {
			if l.MediaType != types.OCILayer {
				t.Errorf("cycle %d: a layer is %s", cycle, l.MediaType)
			}
		}
		r.resume("demo")
		r.awaitReady("demo")
		// It was there when it was pushed; since then nobody knows.
		r.awaitSnapshotReason(snapshot.Name, v1alpha1.ConditionImageAvailable, v1alpha1.ReasonRegistryUnavailable)
	}
	if got := r.sh("demo", "cat /root/first /root/second"); got != "kept\nkept\n" {
		t.Errorf("resumed, the files have %q", got)
	}

	// Nothing waits for what cannot be asked.
	r.deleteSandbox("demo")
	r.awaitEventOn("SandboxSnapshot", "demo-gen2", v1alpha1.EventImageLeft)
	r.awaitSnapshotGone("demo-gen2")
	restore()
}
