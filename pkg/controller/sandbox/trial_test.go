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

package sandbox

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// The pause goes on: the files are worth saving whatever becomes of the Pod.
func TestAPauseTellsThatItsResumeWouldBeRefused(t *testing.T) {
	for _, refusal := range []error{nil, apierrors.NewForbidden(corev1.Resource("pods"), name, errors.New("only images of docker.io/library may run"))} {
		f := newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)), podOf())
		images, err := naming.ParseImageTemplate("registry.example.com", "")
		if err != nil {
			t.Fatal(err)
		}
		f.refusal = refusal
		f.r.Trial = &Trial{Host: f.host, Images: images}
		f.visits("Pausing pod=demo/pod-1 attempts=1")
		if got := f.snapshots(); got != "demo-gen1" {
			t.Errorf("snapshots %q", got)
		}
		deadline := time.Now().Add(10 * time.Second)
		for f.r.trials.Load() > 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		told := false
		for recorded := f.r.Recorder.(*events.FakeRecorder).Events; len(recorded) > 0; {
			event := <-recorded
			told = told || strings.HasPrefix(event, "Warning "+v1alpha1.EventResumeWouldBeRefused) && strings.Contains(event, "only images of docker.io/library may run")
		}
		if told != (refusal != nil) {
			t.Errorf("told: %t, where the Pod would get %v", told, refusal)
		}
	}
}
