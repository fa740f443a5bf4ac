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
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server"
)

func TestAuditTellsWhatAVerbDid(t *testing.T) {
	policy, log := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := ownServer(t, func(o *server.Options) {
		o.Recommended.Audit.PolicyFile = policy
		o.Recommended.Audit.LogOptions.Path = log
		o.Recommended.Audit.LogOptions.BatchOptions.Mode = "blocking-strict"
	})
	f.create(sandbox("demo"))
	for _, request := range []struct{ path, body string }{
		{"/demo/pause", ""}, // its start is taken back
		{"/demo/pause", ""},
		{"/demo/pause", ""},                       // a repeat
		{"/demo/resume", `{"fromTemplate":true}`}, // refused: a pause is under way
		{"/demo/resume", ""},
	} {
		f.post(f.path(request.path), request.body)
		if f.get("demo").Status.Phase == v1alpha1.SandboxPending {
			f.asRunning("demo")
		}
	}

	type told struct{ verb, what string }
	want := []told{{"pause", "Pending -> Pending"}, {"pause", "Running -> Pausing"}, {"pause", "Pausing -> Pausing"}, {"resume", ""}, {"resume", "Pausing -> Pausing, cancelling"}}
	content, err := os.ReadFile(log)
	f.must(err)
	var got []told
	for _, line := range bytes.Split(bytes.TrimSpace(content), []byte("\n")) {
		event := auditv1.Event{}
		f.must(json.Unmarshal(line, &event))
		if event.ObjectRef == nil || event.ObjectRef.Resource != "sandboxes" || event.Stage != "ResponseComplete" || event.Verb != "create" || event.ObjectRef.Subresource == "" {
			continue
		}
		verb := event.ObjectRef.Subresource
		got = append(got, told{verb, event.Annotations[v1alpha1.LabelPrefix+verb]})
		if event.ObjectRef.Name != "demo" || event.ObjectRef.Namespace != f.namespace || event.User.Username != admin {
			t.Errorf("%s: %+v", verb, event)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("the audit log tells of %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("request %d: the audit log tells of %v, want %v", i, got[i], want[i])
		}
	}
}
