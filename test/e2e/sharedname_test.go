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
	"os/exec"
	"strings"
	"testing"
)

// foreign is an API whose kind and plural are ours, as others have one.
const foreign = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: sandboxes.agents.example.com
spec:
  group: agents.example.com
  scope: Namespaced
  names: {kind: Sandbox, plural: sandboxes, singular: sandbox}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

// It runs alone: meanwhile "sandbox" means something else to every kubectl.
func TestKubectlFindsSandboxesBesideAnotherApisOfTheSameName(t *testing.T) {
	k := newKubectl(t)
	k.start("demo")
	k.pipe(foreign, "apply", "-f", "-")
	t.Cleanup(func() { k.forgetForeign(context.WithoutCancel(t.Context())) })
	k.do("wait", "--for=condition=Established", "customresourcedefinition/sandboxes.agents.example.com", "--timeout="+patience.String())
	k.cache = t.TempDir()

	k.mustList([]string{"demo"}, "sbx")
	k.mustList([]string{"demo"}, "sandboxes.lifecycle.opensandbox.io")
	k.mustSay("demo", k.do("describe", "sbx", "demo"))
	k.mustSay("PodCreated", k.do("events", "--for=sbx/demo"))
	k.mustSay("desiredState", k.do("explain", "sbx.spec"))
	k.mustSay("sandboxUID", k.do("explain", "sbxsnap.status"))
	k.mustSay("yes", k.do("auth", "can-i", "create", "sandboxes.lifecycle.opensandbox.io", "--subresource=pause"))
	k.verb("pause", "demo")
	k.wait("condition=Paused", "sbx/demo")
	k.do("patch", "sbx", "demo", "--type=merge", `--patch={"metadata":{"labels":{"found":"yes"}}}`)
	k.mustList([]string{"demo-gen1"}, "sbxsnap")
	k.verb("resume", "demo")
	k.wait("condition=Ready", "sbx/demo")
	k.do("delete", "sbx", "demo")
	if left := k.names("sbx"); len(left) > 0 {
		t.Errorf("after the deletion there are %q", strings.Join(left, ", "))
	}
}

// forgetForeign removes the foreign API, and waits until kube-apiserver tells nobody of it any more: the tests that come
// speak of "sandbox".
func (k *kubectl) forgetForeign(ctx context.Context) {
	k.t.Helper()
	run := func(args ...string) (string, error) {
		like := k.command("")
		command := exec.CommandContext(ctx, like.Path, args...)
		command.Env = like.Env
		stdout, stderr, err := output(command)
		return stdout + stderr, err
	}
	if said, err := run("delete", "--ignore-not-found", "customresourcedefinition", "sandboxes.agents.example.com"); err != nil {
		k.t.Errorf("the foreign API stays: %s", said)
	}
	if said, err := run("wait", "--for=delete", "customresourcedefinition/sandboxes.agents.example.com", "--timeout="+patience.String()); err != nil {
		k.t.Errorf("the foreign API stays: %s", said)
	}
	eventually(k.t, "the foreign API is forgotten", patience, func(context.Context) (bool, string) {
		groups, err := run("get", "--raw", "/apis")
		return err == nil && !strings.Contains(groups, "agents.example.com"), groups[:min(len(groups), 200)]
	})
}
