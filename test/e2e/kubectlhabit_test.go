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
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestKubectlShowsAPauseAndAResume(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	k.start("demo", func(s *v1alpha1.Sandbox) { s.Labels = map[string]string{"team": "blue"} })
	k.create("elsewhere", nowhere)
	watched := k.follow("get", "sandbox", "demo", "--watch")
	eventually(t, "kubectl watches", patience, func(context.Context) (bool, string) {
		return len(phases(watched.all())) == 1, fmt.Sprint(watched.all())
	})
	node := k.get("demo").Status.NodeName

	k.verb("pause", "demo")
	k.wait("condition=Paused", "sandbox/demo")
	k.wait("jsonpath={.status.phase}=Paused", "sbx/demo")
	k.mustShow([]string{"NAME", "PHASE", "READY", "REASON", "SNAPSHOT", "EXPIRES", "AGE"},
		[]string{"demo", "Paused", "False", "Paused", "demo-gen1", "Never", "*"}, "sandbox", "demo")
	k.mustShow([]string{"NAME", "PHASE", "SANDBOX", "PURPOSE", "AGE"},
		[]string{"demo-gen1", "Succeed", "demo", "Pause", "*"}, "sandboxsnapshots")
	k.mustShow([]string{"NAME", "PHASE", "SANDBOX", "PURPOSE", "AGE", "NODE", "SIZE", "FROZEN", "DURATION", "IMAGE"},
		[]string{"demo-gen1", "Succeed", "demo", "Pause", "*", node, "*", "*", "*", "*"}, "sbxsnap", "--output=wide")
	if row := k.table("sbxsnap", "demo-gen1", "--output=wide", "--no-headers")[0]; !strings.Contains(row[9], "@sha256:") || !strings.HasSuffix(row[7], "s") {
		t.Errorf("the snapshot is shown with the image %s, frozen for %s", row[9], row[7])
	}
	k.mustList([]string{"demo"}, "sandboxes", "--field-selector=status.phase=Paused")
	k.mustList([]string{"elsewhere"}, "sandboxes", "--field-selector=status.phase!=Paused")
	k.mustList([]string{"demo-gen1"}, "sandboxsnapshots", "--field-selector=spec.sandboxName=demo,status.phase=Succeed")
	k.mustList(nil, "sandboxsnapshots", "--field-selector=spec.sandboxName=elsewhere")

	k.verb("resume", "demo")
	k.wait("condition=Ready", "sandbox/demo")
	k.mustShow([]string{"NAME", "PHASE", "READY", "REASON", "SNAPSHOT", "EXPIRES", "AGE", "NODE", "IP"},
		[]string{"demo", "Running", "True", "PodReady", "demo-gen1", "Never", "*", node, "*"}, "sandbox", "demo", "--output=wide")
	k.mustList([]string{"demo"}, "sandboxes", "--field-selector=status.nodeName="+node)
	k.mustList([]string{"demo"}, "sandboxes", "--selector=team=blue")
	k.mustList([]string{"elsewhere"}, "sandboxes", "--selector=team!=blue")
	k.mustList([]string{"demo", "elsewhere"}, "sandboxes", "--chunk-size=1")
	if page := k.do("get", "--raw", strings.TrimSuffix(k.path("", ""), "//")+"?limit=1"); !strings.Contains(page, `"continue":"`) || strings.Contains(page, "elsewhere") {
		t.Errorf("a page of one is %s", page)
	}
	if answer := k.fail("get", "sandboxes", "--field-selector=status.podIP=10.0.0.1"); !strings.Contains(answer, v1alpha1.FieldStatusPhase) {
		t.Errorf("a field that cannot be selected by: %s; want those that can", answer)
	}

	eventually(t, "kubectl get --watch shows each phase once", patience, func(context.Context) (bool, string) {
		phases := phases(watched.all())
		return slices.Equal(phases, []string{"Running", "Pausing", "Paused", "Resuming", "Running"}), fmt.Sprint(phases)
	})
	k.awaitEvents("sandbox/demo",
		"Normal/PodCreated: created Pod demo from the template",
		"Normal/Running: Pod demo runs on node "+node,
		"Normal/Pausing: snapshot demo-gen1 commits the root filesystems",
		"Normal/Paused: saved in snapshot demo-gen1; Pod demo is gone",
		"Normal/PodCreated: created Pod demo from snapshot demo-gen1",
		"Normal/Running: Pod demo runs on node "+node,
	)
	if events := k.do("events", "--for=sandbox/demo", "--no-headers"); strings.Count(events, "\n") != 6 {
		t.Errorf("kubectl events --for=sandbox/demo lists %q", events)
	}
	eventually(t, "the events of the snapshot tell the story", patience, func(context.Context) (bool, string) {
		got := strings.Join(k.events("sandboxsnapshot/demo-gen1"), "\n")
		return strings.Contains(got, "Normal/CommitJobCreated: ") && strings.Contains(got, "Normal/Succeeded: committed "), got
	})
}

// mustShow checks header and first row of kubectl get; "*" is any word.
func (k *kubectl) mustShow(header, row []string, args ...string) {
	k.t.Helper()
	table := k.table(args...)
	like := func(got, want []string) bool {
		return slices.EqualFunc(got, want, func(got, want string) bool { return want == "*" || got == want })
	}
	if len(table) < 2 || !like(table[0], header) || !like(table[1], row) {
		k.t.Errorf("kubectl get %q shows %q, want %q and %q", args, table, header, row)
	}
}

// phases are those in the second column, each as often as it was entered.
func phases(table []string) []string {
	var phases []string
	for _, line := range table {
		if row := strings.Fields(line); len(row) > 1 && row[1] != "PHASE" {
			phases = append(phases, row[1])
		}
	}
	return slices.Compact(phases)
}

// example is a manifest of artifacts/examples, for the room's namespace.
func (r *room) example(name string) string {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "artifacts", "examples", name))
	if err != nil {
		r.t.Fatal(err)
	}
	manifest := strings.ReplaceAll(string(content), "namespace: default", "namespace: "+r.namespace)
	if manifest == string(content) {
		r.t.Fatalf("%s is not for the namespace default", name)
	}
	return manifest
}

func TestKubectlChangesAPausedSandboxAndDoesNotResumeIt(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	manifest := k.example("sandbox.yaml")
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i 's/historyLimit: .*/historyLimit: 2/' \"$1\"\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}

	k.mustSay("created", k.pipe(manifest, "apply", "-f", "-"))
	k.wait("condition=Ready", "sandbox/demo")
	k.mustSay("unchanged", k.pipe(manifest, "apply", "-f", "-"))
	k.sh("demo", "echo kept > /root/file")
	if answer := k.fail("patch", "sandbox", "demo", "--type=merge", `--patch={"spec":{"template":{"spec":{"hostname":"other"}}}}`); !strings.Contains(answer, "spec.template") || !strings.Contains(answer, "pause the sandbox") {
		t.Errorf("a change of the template under a Pod: %s", answer)
	}
	k.verb("pause", "demo")
	k.wait("condition=Paused", "sandbox/demo")
	paused := k.get("demo")

	for _, change := range []struct {
		name string
		// edits says that the spec is another one afterwards.
		edits bool
		do    func() string
		say   string
	}{
		{"apply", false, func() string { return k.pipe(manifest, "apply", "-f", "-") }, "unchanged"},
		{"server-side apply", false, func() string { return k.pipe(manifest, "apply", "--server-side", "--field-manager=gitops", "-f", "-") }, "serverside-applied"},
		// A file has neither finalizers nor a status: the one must stay, the other is not its business.
		{"replace", false, func() string { return k.pipe(manifest, "replace", "-f", "-") }, "replaced"},
		{"label", false, func() string { return k.do("label", "sandbox", "demo", "team=blue") }, "labeled"},
		{"annotate", false, func() string { return k.do("annotate", "sandbox", "demo", "example.com/note=hello") }, "annotated"},
		{"edit", true, func() string {
			command := k.command("", "edit", "sandbox", "demo")
			command.Env = append(command.Env, "KUBE_EDITOR="+editor)
			stdout, stderr, err := output(command)
			if err != nil {
				t.Fatalf("kubectl edit: %v\n%s%s", err, stdout, stderr)
			}
			return stdout
		}, "edited"},
		{"merge patch", true, func() string {
			return k.do("patch", "sandbox", "demo", "--type=merge", `--patch={"spec":{"snapshot":{"deletionPolicy":"Retain"}}}`)
		}, "patched"},
		{"JSON patch", true, func() string {
			return k.do("patch", "sandbox", "demo", "--type=json", `--patch=[{"op":"replace","path":"/spec/snapshot/deletionPolicy","value":"Delete"}]`)
		}, "patched"},
		{"strategic merge patch", true, func() string {
			// Lists are merged by name: the container keeps its image, and the other variable stays.
			return k.do("patch", "sandbox", "demo", "--type=strategic",
				`--patch={"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"ADDED","value":"by a patch"}]}]}}}}`)
		}, "patched"},
	} {
		before := k.get("demo")
		k.mustSay(change.say, change.do())
		after := k.get("demo")
		if after.Spec.DesiredState != v1alpha1.DesiredStatePaused || after.Status.Phase != v1alpha1.SandboxPaused || after.Status.SnapshotAttempts != paused.Status.SnapshotAttempts {
			t.Fatalf("after %s the sandbox is %s", change.name, describe(after))
		}
		if !slices.Contains(after.Finalizers, v1alpha1.SandboxFinalizer) {
			t.Errorf("after %s the sandbox has the finalizers %q", change.name, after.Finalizers)
		}
		if edited := after.Generation != before.Generation; edited != change.edits {
			t.Errorf("%s: the generation was %d and is %d", change.name, before.Generation, after.Generation)
		}
	}
	if limit := k.field("sandbox/demo", ".spec.snapshot.historyLimit"); limit != "2" {
		t.Errorf("after kubectl edit the history limit is %s", limit)
	}

	k.verb("resume", "demo")
	k.wait("condition=Ready", "sandbox/demo")
	if got, want := k.sh("demo", `cat /root/file; echo "$GREETING, $ADDED"`), "kept\nhello from the template, by a patch\n"; got != want {
		t.Errorf("resumed, there is %q, want %q", got, want)
	}
}

func (k *kubectl) mustSay(word, output string) {
	k.t.Helper()
	if !strings.Contains(output, word) {
		k.t.Errorf("kubectl says %q, want %q", output, word)
	}
}

func TestKubectlKnowsTheAPI(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)

	got := words(k.do("api-resources", "--api-group="+v1alpha1.GroupName, "--no-headers", "--sort-by=name", "--output=wide"))
	want := [][]string{
		{"evictionreviews", v1alpha1.SchemeGroupVersion.String(), "false", "AdmissionReview", "create"},
		{"sandboxes", "sbx", v1alpha1.SchemeGroupVersion.String(), "true", "Sandbox", "create,delete,deletecollection,get,list,patch,update,watch", "opensandbox"},
		{"sandboxsnapshots", "sbxsnap", v1alpha1.SchemeGroupVersion.String(), "true", "SandboxSnapshot", "create,delete,deletecollection,get,list,patch,update,watch", "opensandbox"},
	}
	if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("kubectl api-resources lists %q, want %q", got, want)
	}

	// kubectl looks for categories before names: one called "sandbox" would make both kinds of the
	// word, and `kubectl get sandbox demo` an error.
	k.create("demo", nowhere)
	for _, word := range []string{"sandboxes", "sandbox", "sbx", "Sandbox", "sandbox." + v1alpha1.GroupName} {
		k.mustList([]string{"demo"}, word, "demo")
	}
	k.pipe(k.example("snapshot.yaml"), "apply", "-f", "-")
	k.mustList([]string{"demo", "demo-before-upgrade"}, "opensandbox")

	k.pipe(k.example("pauser.yaml"), "apply", "-f", "-")
	account := "system:serviceaccount:" + k.namespace + ":idle-pauser"
	k.awaitRights(t, account, k.namespace, rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxes/pause"}, Verbs: []string{"create"}})
	pauser := "--as=" + account
	for _, right := range []struct {
		may  bool
		what []string
	}{
		{true, []string{"create", "sandboxes", "--subresource=pause"}},
		{true, []string{"create", "sandboxes", "--subresource=resume"}},
		{true, []string{"watch", "sandboxes"}},
		{false, []string{"create", "sandboxes"}},
		{false, []string{"update", "sandboxes"}},
		{false, []string{"get", "sandboxsnapshots"}},
	} {
		args := append([]string{"auth", "can-i", pauser}, right.what...)
		if right.may {
			k.mustSay("yes", k.do(args...))
		} else {
			k.mustSay("no", k.fail(args...))
		}
	}

	for _, path := range []string{
		"sandbox", "sandbox.spec", "sandbox.spec.restoreFrom", "sandbox.spec.snapshot", "sandbox.status", "sandbox.status.conditions",
		"sandboxsnapshot", "sandboxsnapshot.spec", "sandboxsnapshot.status", "sandboxsnapshot.status.containers",
	} {
		if silent := unexplained(k.do("explain", path)); len(silent) > 0 {
			t.Errorf("kubectl explain %s has no text for %q", path, silent)
		}
	}
	tree := k.do("explain", "sandbox.spec", "--recursive")
	for _, field := range []string{"desiredState", "restoreFrom", "snapshotName", "historyLimit", "template", "containers", "livenessProbe"} {
		if !strings.Contains(tree, field+"\t<") {
			t.Errorf("kubectl explain sandbox.spec --recursive does not tell of %s", field)
		}
	}
	k.mustSay("ENUM:\n    Paused\n    Running\n", k.do("explain", "sandbox.spec.desiredState"))
}

// unexplained are the fields that kubectl explain has no text for: a field's line has its type in
// angle brackets, and the text follows below it, further to the right.
func unexplained(text string) []string {
	indent := func(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }
	var silent []string
	_, fields, _ := strings.Cut(text, "FIELDS:\n")
	all := strings.Split(fields, "\n")
	for i, line := range all {
		name, _, isField := strings.Cut(line, "\t<")
		if !isField {
			continue
		}
		below := slices.DeleteFunc(slices.Clone(all[i+1:]), func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "enum: ") })
		if len(below) == 0 || strings.TrimSpace(below[0]) == "" || indent(below[0]) <= indent(line) || strings.Contains(below[0], "<no description>") {
			silent = append(silent, strings.TrimSpace(name))
		}
	}
	return silent
}
