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

package sandboxes

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

var pauseDemo = httpapi.PauseSandboxParams{SandboxId: "demo"}

// A pause that the Sandbox API would take for the withdrawal of a start is refused; all else is for the Sandbox API to say.
func TestPause(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		refused string
	}{
		"Pending":                {stands("Pending", "PodUnschedulable", "0/3 nodes", "Pending", ""), "PodUnschedulable: 0/3 nodes"},
		"just made":              {stands("", "", "", "", ""), "Pending"},
		"Pending, by a pause":    {stands("Pending", "NeverRan", "", "NeverRan", "", wantsPaused), ""},
		"Resuming":               {stands("Resuming", "Resuming", "asked for", "Resuming", ""), "Resuming: asked for"},
		"Resuming, taken back":   {stands("Resuming", "Withdrawing", "", "Withdrawing", "", wantsPaused), ""},
		"Running":                {stands("Running", "PodReady", "", "Running", ""), ""},
		"Running, failed":        {stands("Running", "PodReady", "", "RegistryUnavailable", "", wantsPaused), ""},
		"Pausing":                {stands("Pausing", "PodReady", "", "Pausing", "", wantsPaused), ""},
		"Paused":                 {stands("Paused", "Paused", "", "Paused", "", wantsPaused), ""},
		"Failed":                 {stands("Failed", "NoSnapshot", "", "NoSnapshot", ""), ""},
		"Pending, being deleted": {stands("Pending", "PodPending", "", "Pending", "", beingDeleted), ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.sandbox.Finalizers = []string{v1alpha1.SandboxFinalizer}
			s := newScene(test.sandbox)
			s.lifecycle.PrependReactor("create", "sandboxes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, test.sandbox, nil })
			err := s.handler.PauseSandbox(s, pauseDemo)
			asked := slices.Contains(s.verbs(), "pause")
			if test.refused == "" {
				if err != nil || !asked {
					t.Errorf("answer %v, the Sandbox API was asked: %v", err, asked)
				}
				return
			}
			refusal(t, err, http.StatusConflict, "KUBERNETES::INVALID_STATE", test.refused)
			if asked {
				t.Error("the Sandbox API was asked all the same")
			}
		})
	}
	s := newScene()
	if err := s.handler.PauseSandbox(s, pauseDemo); !apierrors.IsNotFound(err) {
		t.Errorf("of one that there is not: %v", err)
	}
	refusal(t, s.handler.PauseSandbox(s, httpapi.PauseSandboxParams{SandboxId: strings.Repeat("a", 64)}), http.StatusNotFound, "KUBERNETES::SANDBOX_NOT_FOUND", "sandboxId")
}

// What was seen a moment ago saves a question, and is never the reason of a refusal or of a pause of what has changed since.
func TestPauseOfWhatWasSeen(t *testing.T) {
	running := stands("Running", "PodReady", "", "Running", "")
	older := running.DeepCopy()
	older.ResourceVersion = "6"
	for name, test := range map[string]struct {
		seen, is *v1alpha1.Sandbox
		want     []string
		refused  bool
	}{
		"as it is":                      {running, running, []string{"pause"}, false},
		"not at all":                    {nil, running, []string{"get", "pause"}, false},
		"before it ran":                 {stands("Pending", "", "", "", ""), running, []string{"get", "pause"}, false},
		"before it changed":             {older, running, []string{"pause", "get", "pause"}, false},
		"before it was paused, resumed": {older, stands("Resuming", "Resuming", "", "Resuming", ""), []string{"pause", "get"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(test.is)
			s.handler.settings.Seen = func(namespace, name string) *v1alpha1.Sandbox {
				if namespace != "default" || name != "demo" {
					t.Errorf("looks for %s/%s", namespace, name)
				}
				return test.seen
			}
			s.lifecycle.PrependReactor("create", "sandboxes", func(action clienttesting.Action) (bool, runtime.Object, error) {
				body := action.(clienttesting.CreateAction).GetObject().(*v1alpha1.SandboxPause)
				if body.UID != test.is.UID || body.ResourceVersion == "" {
					t.Errorf("the pause is of %+v", body.ObjectMeta)
				}
				if body.ResourceVersion != test.is.ResourceVersion {
					return true, nil, apierrors.NewConflict(v1alpha1.Resource("sandboxes"), "demo", errors.New("the object has been modified"))
				}
				return true, test.is, nil
			})
			err := s.handler.PauseSandbox(s, pauseDemo)
			if (err != nil) != test.refused {
				t.Errorf("answer: %v", err)
			}
			if got := s.verbs(); !slices.Equal(got, test.want) {
				t.Errorf("the Sandbox API was asked for %v, want %v", got, test.want)
			}
		})
	}
}

// A refusal of the Sandbox API is not mistaken for a version that is outdated.
func TestPauseThatIsRefused(t *testing.T) {
	s := newScene(stands("Pausing", "Canceling", "", "Canceling", ""))
	refused := apierrors.NewConflict(v1alpha1.Resource("sandboxes"), "demo", errors.New("the previous pause is being cancelled"))
	refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: "PauseCanceling"}}
	s.lifecycle.PrependReactor("create", "sandboxes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
	if err := s.handler.PauseSandbox(s, pauseDemo); !errors.Is(err, refused) {
		t.Errorf("answer: %v", err)
	}
	if got := s.verbs(); !slices.Equal(got, []string{"get", "pause"}) {
		t.Errorf("the Sandbox API was asked for %v", got)
	}
}

func TestRenew(t *testing.T) {
	expiring := func(change func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
		sandbox := stands("Running", "PodReady", "", "Running", "")
		sandbox.Spec.ExpireTime = ptr.To(metav1.NewTime(noon))
		sandbox.Finalizers = []string{v1alpha1.SandboxFinalizer}
		if change != nil {
			change(sandbox)
		}
		return sandbox
	}
	params := httpapi.RenewSandboxExpirationParams{SandboxId: "demo"}
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		at      time.Time
		want    time.Time // zero: refused
		status  int
		code    string
	}{
		"later":              {expiring(nil), night, night, 0, ""},
		"sooner":             {expiring(nil), dawn.Add(time.Hour), dawn.Add(time.Hour), 0, ""},
		"of another zone":    {expiring(nil), night.In(time.FixedZone("", 3600)), night, 0, ""},
		"not before it says": {expiring(nil), night.Add(time.Millisecond), night.Add(time.Second), 0, ""},
		"a moment ahead":     {expiring(nil), dawn.Add(time.Millisecond), dawn.Add(time.Second), 0, ""},
		"one that is paused": {expiring(func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxPaused }), night, night, 0, ""},
		"now":                {expiring(nil), dawn, time.Time{}, http.StatusBadRequest, "DOCKER::INVALID_EXPIRATION"},
		"in the past":        {expiring(nil), dawn.Add(-time.Hour), time.Time{}, http.StatusBadRequest, "DOCKER::INVALID_EXPIRATION"},
		"for ever":           {expiring(nil), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Time{}, http.StatusBadRequest, "DOCKER::INVALID_EXPIRATION"},
		"one that never expires": {expiring(func(s *v1alpha1.Sandbox) { s.Spec.ExpireTime = nil }), night, time.Time{},
			http.StatusConflict, "DOCKER::INVALID_EXPIRATION"},
		"one that is being deleted": {expiring(beingDeleted), night, time.Time{}, http.StatusConflict, "KUBERNETES::INVALID_STATE"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(test.sandbox)
			renewed, err := s.handler.RenewSandboxExpiration(s, &httpapi.RenewSandboxExpirationRequest{ExpiresAt: test.at}, params)
			if test.status != 0 {
				refusal(t, err, test.status, test.code, "")
				if slices.Contains(s.verbs(), "patch") {
					t.Error("something was written")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !renewed.ExpiresAt.Equal(test.want) {
				t.Errorf("answered %v, want %v", renewed.ExpiresAt, test.want)
			}
			is := s.all(t)[0]
			if !is.Spec.ExpireTime.Time.Equal(test.want) {
				t.Errorf("stored %v, want %v", is.Spec.ExpireTime, test.want)
			}
			is.Spec.ExpireTime, test.sandbox.Spec.ExpireTime = nil, nil
			is.ResourceVersion = test.sandbox.ResourceVersion
			if is.Status.Phase != test.sandbox.Status.Phase || is.Spec.DesiredState != test.sandbox.Spec.DesiredState {
				t.Error("something else has moved")
			}
		})
	}
}

// Who was second tries again, on what there is then.
func TestRenewOfWhatChanges(t *testing.T) {
	sandbox := stands("Running", "PodReady", "", "Running", "")
	sandbox.Spec.ExpireTime = ptr.To(metav1.NewTime(noon))
	s := newScene(sandbox)
	conflicts := 0
	s.lifecycle.PrependReactor("patch", "sandboxes", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if patch := string(action.(clienttesting.PatchAction).GetPatch()); !strings.Contains(patch, `"resourceVersion":"7"`) || !strings.Contains(patch, `"uid":"uid"`) {
			t.Errorf("the write is not of what was read: %s", patch)
		}
		if conflicts++; conflicts <= 3 {
			return true, nil, apierrors.NewConflict(v1alpha1.Resource("sandboxes"), "demo", errors.New("the object has been modified"))
		}
		return false, nil, nil
	})
	params := httpapi.RenewSandboxExpirationParams{SandboxId: "demo"}
	renewed, err := s.handler.RenewSandboxExpiration(s, &httpapi.RenewSandboxExpirationRequest{ExpiresAt: night}, params)
	if err != nil || !renewed.ExpiresAt.Equal(night) {
		t.Errorf("%+v, %v", renewed, err)
	}
	if got := strings.Join(s.verbs(), " "); !strings.HasPrefix(got, "get patch get patch get patch get patch") {
		t.Errorf("the Sandbox API was asked for %s", got)
	}
}
