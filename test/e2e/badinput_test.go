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
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// body is the JSON of a sandbox, with some fields replaced: a path like "spec.template" to a
// value, nil to leave the field out.
func body(t *testing.T, replaced map[string]any) string {
	t.Helper()
	sandbox := newSandbox("bad")
	sandbox.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox"}
	encoded, err := json.Marshal(sandbox)
	if err != nil {
		t.Fatal(err)
	}
	object := map[string]any{}
	if err := json.Unmarshal(encoded, &object); err != nil {
		t.Fatal(err)
	}
	for path, value := range replaced {
		at := object
		steps := strings.Split(path, ".")
		for _, step := range steps[:len(steps)-1] {
			if at[step] == nil {
				at[step] = map[string]any{}
			}
			at = at[step].(map[string]any)
		}
		if last := steps[len(steps)-1]; value == nil {
			delete(at, last)
		} else {
			at[last] = value
		}
	}
	if encoded, err = json.Marshal(object); err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func TestBadInputIsRefusedWithTheFieldAndNothingIsStored(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	type fields = map[string]any
	for _, test := range []struct {
		name string
		// path is below the namespace; body is what is posted to it.
		path, body string
		code       int32
		// names is what the answer must name: a field, or a word where there is no field.
		names string
	}{
		{"malformed JSON", "sandboxes", `{"apiVersion": "lifecycle.opensandbox.io/v1alpha1", "kind": `, 400, "JSON"},
		{"no JSON at all", "sandboxes", "hello", 400, "json"},
		{"an array", "sandboxes", `[]`, 400, "json"},
		{"another kind", "sandboxes", body(t, fields{"kind": "Pod", "apiVersion": "v1"}), 400, "Pod"},
		{"a snapshot as a sandbox", "sandboxes", body(t, fields{"kind": "SandboxSnapshot"}), 400, "SandboxSnapshot"},
		{"another version", "sandboxes", body(t, fields{"apiVersion": "lifecycle.opensandbox.io/v9"}), 400, "v9"},
		{"a name with capitals", "sandboxes", body(t, fields{"metadata.name": "Not_A_Label"}), 422, "metadata.name"},
		{"a name with dots", "sandboxes", body(t, fields{"metadata.name": "a.b"}), 422, "metadata.name"},
		{"a name too long for a hostname", "sandboxes", body(t, fields{"metadata.name": strings.Repeat("a", 64)}), 422, "metadata.name"},
		{"no name", "sandboxes", body(t, fields{"metadata.name": nil}), 422, "metadata.name"},
		{"another namespace", "sandboxes", body(t, fields{"metadata.namespace": "default"}), 400, "namespace"},
		{"no template", "sandboxes", body(t, fields{"spec.template": nil}), 422, "spec.template"},
		{"a template without containers", "sandboxes", body(t, fields{"spec.template.spec.containers": []any{}}), 422, "spec.template.spec.containers"},
		{"a container without a name", "sandboxes", body(t, fields{"spec.template.spec.containers": []any{fields{"image": busybox}}}), 422, "spec.template.spec.containers[0].name"},
		{"a container to keep that is not in the template", "sandboxes", body(t, fields{"spec.snapshot.containers": []any{"main", "side"}}), 422, "spec.snapshot.containers[1]"},
		{"a negative history limit", "sandboxes", body(t, fields{"spec.snapshot.historyLimit": -1}), 422, "spec.snapshot.historyLimit"},
		{"a history limit that is no number", "sandboxes", body(t, fields{"spec.snapshot.historyLimit": "three"}), 400, "historyLimit"},
		{"an unknown deletion policy", "sandboxes", body(t, fields{"spec.snapshot.deletionPolicy": "Perhaps"}), 422, "spec.snapshot.deletionPolicy"},
		{"an unknown desired state", "sandboxes", body(t, fields{"spec.desiredState": "Asleep"}), 422, "spec.desiredState"},
		{"paused without a snapshot", "sandboxes", body(t, fields{"spec.desiredState": "Paused"}), 422, "spec.desiredState"},
		{"an unknown field, strictly", "sandboxes?fieldValidation=Strict", body(t, fields{"spec.tempalte": fields{}}), 400, "spec.tempalte"},
		{"a template that is too large", "sandboxes", body(t, fields{"spec.template.metadata.annotations": fields{"a": strings.Repeat("x", 70000)}}), 422, "spec.template"},

		{"a snapshot without a sandbox", "sandboxsnapshots", `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"SandboxSnapshot","metadata":{"name":"bad"},"spec":{}}`, 422, "spec.sandboxName"},
		{"a snapshot with a pause's name", "sandboxsnapshots", `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"SandboxSnapshot","metadata":{"name":"demo-gen1"},"spec":{"sandboxName":"demo"}}`, 422, "metadata.name"},

		{"a resume as a pause", "sandboxes/demo/pause", `{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"SandboxResume"}`, 400, "SandboxResume"},
		{"a pause with malformed JSON", "sandboxes/demo/pause", `{`, 400, "JSON"},
		{"a pause of another name", "sandboxes/demo/pause", `{"metadata":{"name":"other"}}`, 400, "name"},
		{"a resume from two places", "sandboxes/demo/resume", `{"snapshotName":"demo-gen1","fromTemplate":true}`, 422, "snapshotName"},
		{"a resume from a bad name", "sandboxes/demo/resume", `{"snapshotName":"No Name"}`, 422, "snapshotName"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status := r.post(t, test.path, test.body)
			if status == nil {
				t.Fatal("accepted")
			}
			if status.Code != test.code {
				t.Errorf("the answer is %d, want %d: %s", status.Code, test.code, status.Message)
			}
			if !strings.Contains(strings.ToLower(status.Message), strings.ToLower(test.names)) {
				t.Errorf("the answer does not name %s: %s", test.names, status.Message)
			}
			if status.Code == http.StatusUnprocessableEntity && !hasCause(status, test.names) {
				t.Errorf("the answer has no cause with the field %s: %+v", test.names, status.Details)
			}
		})
	}
	if list, err := r.sandboxes().List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("%d sandboxes were stored (error %v)", len(list.Items), err)
	}
	if list, err := r.snapshots().List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("%d snapshots were stored (error %v)", len(list.Items), err)
	}
}

// post sends a body as it is and returns the Status of the refusal, nil where it is accepted.
func (r *room) post(t *testing.T, path, content string) *metav1.Status {
	t.Helper()
	path, query, _ := strings.Cut(path, "?")
	request := r.lifecycle.LifecycleV1alpha1().RESTClient().Post().Namespace(r.namespace).Suffix(path).
		SetHeader("Content-Type", "application/json").Body([]byte(content))
	if key, value, ok := strings.Cut(query, "="); ok {
		request.Param(key, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := request.Do(ctx).Error()
	if err == nil {
		return nil
	}
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		t.Fatalf("the answer is no Status: %v", err)
	}
	status := answer.Status()
	return &status
}

func hasCause(status *metav1.Status, field string) bool {
	if status.Details == nil {
		return false
	}
	for _, cause := range status.Details.Causes {
		if cause.Field == field {
			return true
		}
	}
	return false
}
