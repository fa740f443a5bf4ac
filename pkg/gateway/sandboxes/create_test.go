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
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	clienttesting "k8s.io/client-go/testing"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

func (s *scene) create(t *testing.T, body, key string) (*httpapi.CreateSandboxResponseHeaders, error) {
	t.Helper()
	req, params := &httpapi.CreateSandboxRequest{}, httpapi.CreateSandboxParams{}
	if err := json.Unmarshal([]byte(body), req); err != nil {
		t.Fatal(err)
	}
	if key != "" {
		params.IdempotencyKey = httpapi.NewOptString(key)
	}
	return s.handler.CreateSandbox(s, req, params)
}

func (s *scene) mustCreate(t *testing.T, body, key string) string {
	t.Helper()
	created, err := s.create(t, body, key)
	if err != nil {
		t.Fatal(err)
	}
	return created.Response.ID
}

// all are the sandboxes that there are.
func (s *scene) all(t *testing.T) []v1alpha1.Sandbox {
	t.Helper()
	list, err := s.lifecycle.LifecycleV1alpha1().Sandboxes("default").List(s, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

const private = `{"image":{"uri":"registry.example.com/x","auth":{"username":"u","password":"hunter2"}},"entrypoint":["x"],"resourceLimits":{"cpu":"1"},
	"volumes":[{"name":"v","mountPath":"/v","pvc":{"claimName":"c","deleteOnSandboxTermination":true}}]}`

func TestCreate(t *testing.T) {
	s := newScene()
	created, err := s.create(t, private, "")
	if err != nil {
		t.Fatal(err)
	}
	id := created.Response.ID
	if created.Location != "/sandboxes/"+id || created.Response.Status.State != "Pending" {
		t.Errorf("answer: %+v", created)
	}
	sandbox := s.all(t)[0]
	name := sandbox.Spec.Template.Spec.ImagePullSecrets[0].Name
	secret, err := s.kube.CoreV1().Secrets("default").Get(s, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Type != corev1.SecretTypeDockerConfigJson || !strings.Contains(string(secret.Data[".dockerconfigjson"]), "hunter2") ||
		len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].Name != id {
		t.Errorf("the Secret: %+v", secret)
	}
	claim, err := s.kube.CoreV1().PersistentVolumeClaims("default").Get(s, "c", metav1.GetOptions{})
	if err != nil || len(claim.OwnerReferences) != 1 {
		t.Errorf("the claim: %+v, %v", claim, err)
	}
	if encoded, _ := json.Marshal(s.all(t)); strings.Contains(string(encoded), "hunter2") {
		t.Error("the password is in the sandbox")
	}
	if s.mustCreate(t, private, "") == id {
		t.Error("two requests without a key are one sandbox")
	}
}

// https://github.com/e2b-dev/E2B/issues/1658: a client whose answer was lost could neither try again nor leave it.
func TestIdempotencyKey(t *testing.T) {
	s := newScene()
	first := s.mustCreate(t, with(""), "k1")
	if again := s.mustCreate(t, with(`"timeout":null`), "k1"); again != first {
		t.Errorf("the same key makes %s and %s", first, again)
	}
	if other := s.mustCreate(t, with(""), "k2"); other == first {
		t.Error("two keys make one sandbox")
	}
	_, err := s.create(t, with(`"timeout":60`), "k1")
	refusal(t, err, http.StatusConflict, "KUBERNETES::INVALID_STATE", "Idempotency-Key")
	if n := len(s.all(t)); n != 2 {
		t.Errorf("there are %d sandboxes", n)
	}

	// Who else uses the key uses another one.
	alice := identity.From(s)
	bob := *alice
	bob.User = &user.DefaultInfo{Name: "bob"}
	if a, b := identify(alice, "k", "f"), identify(&bob, "k", "f"); a.id == b.id {
		t.Error("the key of another caller is the same sandbox")
	}
	for name, ids := range map[string][2]string{
		"another user":      {derived("default", "alice", "k"), derived("default", "bob", "k")},
		"another namespace": {derived("default", "alice", "k"), derived("prod", "alice", "k")},
		"parts that shift":  {derived("a", "bc", "k"), derived("ab", "c", "k")},
	} {
		if ids[0] == ids[1] {
			t.Errorf("%s: one id", name)
		}
	}
	if err := checkID(first); err != nil || len(first) != 36 || first[14] != '8' {
		t.Errorf("id %q: %v", first, err)
	}

	// Of one that is on its way out nobody gets the answer that it was made.
	gone, err := s.lifecycle.LifecycleV1alpha1().Sandboxes("default").Get(s, first, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	beingDeleted(gone)
	s.lifecycle.PrependReactor("get", "sandboxes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, gone, nil })
	_, err = s.create(t, with(""), "k1")
	refusal(t, err, http.StatusConflict, "KUBERNETES::INVALID_STATE", "Idempotency-Key")
}

// A repeat finishes what the first request has not: the gateway was ended between the sandbox and its Secret.
func TestARepeatMendsACrash(t *testing.T) {
	s := newScene()
	id := s.mustCreate(t, private, "k")
	sandbox := s.all(t)[0]
	secrets, claims := s.kube.CoreV1().Secrets("default"), s.kube.CoreV1().PersistentVolumeClaims("default")
	name := pullSecretOf(&sandbox)
	if err := errors.Join(secrets.Delete(s, name, metav1.DeleteOptions{}), claims.Delete(s, "c", metav1.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	if again := s.mustCreate(t, private, "k"); again != id {
		t.Errorf("%s, and then %s", id, again)
	}
	if _, err := secrets.Get(s, name, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := claims.Get(s, "c", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// What kube-apiserver does is there, whether or not its answer comes.
func TestALostAnswer(t *testing.T) {
	for name, lost := range map[string]error{
		"a broken connection": errors.New("read tcp: connection reset by peer"),
		"a timeout":           apierrors.NewServerTimeout(schema.GroupResource{Resource: "sandboxes"}, "create", 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			s.lifecycle.PrependReactor("create", "sandboxes", func(action clienttesting.Action) (bool, runtime.Object, error) {
				object := action.(clienttesting.CreateAction).GetObject()
				if err := s.lifecycle.Tracker().Create(v1alpha1.SchemeGroupVersion.WithResource("sandboxes"), object, "default"); err != nil {
					t.Error(err)
				}
				return true, nil, lost
			})
			id := s.mustCreate(t, private, "")
			if all := s.all(t); len(all) != 1 || all[0].Name != id {
				t.Errorf("answered %s, and there are %v", id, all)
			}
			if secrets, err := s.kube.CoreV1().Secrets("default").List(s, metav1.ListOptions{}); err != nil || len(secrets.Items) != 1 {
				t.Errorf("Secrets: %v, %v", secrets, err)
			}
		})
	}
	s := newScene()
	away := errors.New("dial tcp: connection refused")
	s.lifecycle.PrependReactor("create", "sandboxes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, away })
	if _, err := s.create(t, with(""), ""); !errors.Is(err, away) {
		t.Errorf("nothing was made: %v", err)
	}
}

// A sandbox whose Secret or claim is refused is not left behind.
func TestWhatIsNeededBesidesIsRefused(t *testing.T) {
	for _, resource := range []string{"secrets", "persistentvolumeclaims"} {
		t.Run(resource, func(t *testing.T) {
			s := newScene()
			s.kube.PrependReactor("create", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "x", errors.New("no rule allows it"))
			})
			if _, err := s.create(t, private, ""); !apierrors.IsForbidden(err) {
				t.Errorf("answer: %v", err)
			}
			if all := s.all(t); len(all) != 0 {
				t.Errorf("there is still %v", all)
			}
		})
	}
}

func TestClaimsThatAreThere(t *testing.T) {
	claim := func(create string) string {
		return mounted(`{"name":"v","mountPath":"/v","pvc":{"claimName":"c","createIfNotExists":` + create + `}}`)
	}
	s := newScene()
	_, err := s.create(t, claim("false"), "")
	refusal(t, err, http.StatusBadRequest, "VOLUME::PVC_NOT_FOUND", "volumes[0].pvc.claimName")
	if all := s.all(t); len(all) != 0 {
		t.Errorf("there is %v", all)
	}
	if _, err := s.kube.CoreV1().PersistentVolumeClaims("default").Create(s, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.mustCreate(t, claim("false"), "")
	s.mustCreate(t, claim("true"), "")
	// Whoever may not make claims can still use one that is there.
	s.kube.PrependReactor("create", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "c", errors.New("no rule allows it"))
	})
	s.mustCreate(t, claim("true"), "")
}

func TestSnapshotsToStartFrom(t *testing.T) {
	ready := snapshotOf(made(t, with(""), nil).Spec.Template, "sandbox")
	named := func(name string, phase v1alpha1.SandboxSnapshotPhase) *v1alpha1.SandboxSnapshot {
		snapshot := ready.DeepCopy()
		snapshot.Name, snapshot.Status.Phase = name, phase
		return snapshot
	}
	gone := named("gone", v1alpha1.SnapshotSucceed)
	at := metav1.NewTime(night)
	gone.DeletionTimestamp, gone.Finalizers = &at, []string{v1alpha1.SnapshotFinalizer}
	failed := named("failed", v1alpha1.SnapshotFailed)
	failed.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFailed, Status: metav1.ConditionTrue, Reason: "RegistryUnavailable", Message: "no route to host"}}
	s := newScene(ready, named("new", ""), named("committing", v1alpha1.SnapshotCommitting), failed, gone)
	for name, test := range map[string]struct{ code, says string }{
		"new": {"SNAPSHOT::NOT_READY", "still being made"}, "committing": {"SNAPSHOT::NOT_READY", "still being made"},
		"failed": {"SNAPSHOT::NOT_READY", "RegistryUnavailable: no route to host"}, "gone": {"SNAPSHOT::NOT_READY", "being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.create(t, `{"snapshotId":"`+name+`"}`, "")
			refusal(t, err, http.StatusConflict, test.code, test.says)
		})
	}
	if _, err := s.create(t, `{"snapshotId":"never"}`, ""); !apierrors.IsNotFound(err) {
		t.Errorf("a snapshot that there is not: %v", err)
	}
	_, err := s.create(t, `{"snapshotId":"../x"}`, "")
	refusal(t, err, http.StatusNotFound, "SNAPSHOT::NOT_FOUND", "snapshotId")
	// A repeat gets its sandbox, whatever has become of the snapshot.
	id := s.mustCreate(t, `{"snapshotId":"snap"}`, "k")
	if err := s.lifecycle.LifecycleV1alpha1().SandboxSnapshots("default").Delete(s, "snap", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := s.mustCreate(t, `{"snapshotId":"snap"}`, "k"); again != id {
		t.Errorf("%s, and then %s", id, again)
	}
}
