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

package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes a hierarchy of directories with files: it is no kernel's, but reads like one.
func tree(t *testing.T, version int, files map[string]string) *Tree {
	t.Helper()
	tr := &Tree{root: t.TempDir(), version: version}
	for name, content := range files {
		file := filepath.Join(tr.root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestExpand(t *testing.T) {
	for path, want := range map[string]string{
		"/kubepods/burstable/pod1/c1": "kubepods/burstable/pod1/c1",
		"../../c1":                    "c1",
		"kubepods-burstable-pod1_2.slice:cri-containerd:c1":       "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-c1.scope",
		"kubelet-kubepods-besteffort-pod1.slice:cri-containerd:c": "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod1.slice/cri-containerd-c.scope",
		":cri-containerd:c1":      "system.slice/cri-containerd-c1.scope",
		"-.slice:runc:c1":         "runc-c1.scope",
		"machine.slice::c1":       "machine.slice/c1.scope",
		"machine.slice:x:a.slice": "machine.slice/a.slice",
		"":                        "",
	} {
		if got := expand(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// TestWhereAContainerIs: by the path of its runtime, else by its ID, and its Pod by the UID in the name.
func TestWhereAContainerIs(t *testing.T) {
	const uid = "5d2c7f8e-0000-4000-8000-000000000001"
	tr := tree(t, 2, map[string]string{
		"kubepods/pod" + uid + "/c1/cgroup.procs":        "",
		"kubepods/pod" + uid + "/c1/nested/cgroup.procs": "",
		"nested/kubepods.slice/kubepods-pod5d2c7f8e_0000_4000_8000_000000000001.slice/cri-containerd-c2.scope/container/cgroup.procs": "",
		"k8s.io/c3/cgroup.procs": "",
	})
	for id, test := range map[string]struct{ given, want, pod string }{
		"c1": {"/kubepods/pod" + uid + "/c1", "/kubepods/pod" + uid + "/c1", "/kubepods/pod" + uid},
		"c2": {"kubepods-pod5d2c7f8e_0000_4000_8000_000000000001.slice:cri-containerd:c2",
			"/nested/kubepods.slice/kubepods-pod5d2c7f8e_0000_4000_8000_000000000001.slice/cri-containerd-c2.scope",
			"/nested/kubepods.slice/kubepods-pod5d2c7f8e_0000_4000_8000_000000000001.slice"},
		"c3": {"/k8s.io/c3", "/k8s.io/c3", ""},
		"c4": {"/k8s.io/c4", "", ""},
	} {
		g, err := tr.Container(id, test.given)
		if test.want == "" {
			if !errors.Is(err, ErrGone) {
				t.Errorf("%s: %v", id, err)
			}
			continue
		}
		if err != nil || g.Path() != test.want {
			t.Errorf("%s is %v (%v), want %s", id, g, err, test.want)
			continue
		}
		pod := g.Pod(uid)
		if (pod == nil) != (test.pod == "") || pod != nil && pod.Path() != test.pod {
			t.Errorf("the Pod of %s is %v, want %q", id, pod, test.pod)
		}
		if pod != nil && (!pod.Has(g) || g.Has(pod)) {
			t.Errorf("%s and its Pod are taken one for the other", id)
		}
	}
}

func TestState(t *testing.T) {
	for name, test := range map[string]struct {
		version int
		files   map[string]string
		want    State
	}{
		"v2, runs":              {2, map[string]string{"cgroup.freeze": "0\n", "cgroup.events": "populated 1\nfrozen 0\n"}, State{}},
		"v2, on its way":        {2, map[string]string{"cgroup.freeze": "1\n", "cgroup.events": "populated 1\nfrozen 0\n"}, State{Asked: true}},
		"v2, frozen":            {2, map[string]string{"cgroup.freeze": "1\n", "cgroup.events": "populated 1\nfrozen 1\n"}, State{Asked: true, Frozen: true}},
		"v2, frozen from above": {2, map[string]string{"cgroup.freeze": "0\n", "cgroup.events": "populated 1\nfrozen 1\n"}, State{Above: true, Frozen: true}},
		"v1, runs":              {1, map[string]string{"freezer.state": "THAWED\n", "freezer.self_freezing": "0\n", "freezer.parent_freezing": "0\n"}, State{}},
		"v1, on its way":        {1, map[string]string{"freezer.state": "FREEZING\n", "freezer.self_freezing": "1\n", "freezer.parent_freezing": "0\n"}, State{Asked: true}},
		"v1, frozen":            {1, map[string]string{"freezer.state": "FROZEN\n", "freezer.self_freezing": "1\n", "freezer.parent_freezing": "0\n"}, State{Asked: true, Frozen: true}},
		"v1, frozen from above": {1, map[string]string{"freezer.state": "FROZEN\n", "freezer.self_freezing": "0\n", "freezer.parent_freezing": "1\n"}, State{Above: true, Frozen: true}},
	} {
		files := map[string]string{}
		for file, content := range test.files {
			files["g/"+file] = content
		}
		tr := tree(t, test.version, files)
		g := &Group{tree: tr, dir: filepath.Join(tr.root, "g")}
		if got, err := g.State(); err != nil || got != test.want || got.Thawed() != (test.want == State{}) {
			t.Errorf("%s: %+v (%v), want %+v", name, got, err, test.want)
		}
		gone := &Group{tree: tr, dir: filepath.Join(tr.root, "gone")}
		if _, err := gone.State(); !errors.Is(err, ErrGone) {
			t.Errorf("%s: of one that is gone: %v", name, err)
		}
	}
}

// TestLook at a process whose name has what the kernel puts around names.
func TestLook(t *testing.T) {
	program := filepath.Join(t.TempDir(), "a) S (b")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "600")
	if err := cmd.Start(); err != nil {
		t.Skip(err) // a busybox is told what it is by its name
	}
	p, lives := Look(cmd.Process.Pid)
	if !lives || p.Command != "a) S (b" || !strings.Contains(p.String(), "(a) S (b, state ") {
		t.Errorf("%v, lives %v", p, lives)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, lives := Look(cmd.Process.Pid); lives {
		t.Error("it lives on")
	}
}

// TestARuntimeFreezesBelow: crun has a cgroup of its own in the scope that systemd makes for a container,
// and freezes that. Another's container that has a cgroup below is not taken for it.
func TestARuntimeFreezesBelow(t *testing.T) {
	file := func(freeze, frozen string, pids ...string) map[string]string {
		return map[string]string{"cgroup.freeze": freeze + "\n", "cgroup.events": "populated 1\nfrozen " + frozen + "\n", "cgroup.procs": strings.Join(pids, "\n")}
	}
	runs, asked, frozen, above := file("0", "0"), file("1", "0"), file("1", "1"), file("0", "1")
	for name, test := range map[string]struct {
		scope map[string]string
		below map[string]map[string]string
		want  State
		told  []string // by a freeze and a thaw
	}{
		"runs":                         {runs, map[string]map[string]string{"container": file("0", "0", "7")}, State{}, []string{"container"}},
		"is being frozen":              {runs, map[string]map[string]string{"container": asked}, State{Asked: true}, []string{"container"}},
		"is frozen":                    {runs, map[string]map[string]string{"container": frozen}, State{Asked: true, Frozen: true}, []string{"container"}},
		"is frozen, and so is the Pod": {above, map[string]map[string]string{"container": frozen}, State{Asked: true, Frozen: true}, []string{"container"}},
		"is frozen with the Pod alone": {above, map[string]map[string]string{"container": above}, State{Above: true, Frozen: true}, []string{"container"}},
		"was left frozen above":        {frozen, map[string]map[string]string{"container": above}, State{Asked: true, Frozen: true}, []string{"container"}},
		"has processes of its own, beside what it has frozen itself": {file("0", "0", "7"), map[string]map[string]string{"mine": frozen}, State{}, nil},
		"has two below, and has frozen one itself":                   {runs, map[string]map[string]string{"mine": frozen, "init": runs}, State{}, nil},
		"has frozen one of two itself, and is frozen":                {frozen, map[string]map[string]string{"mine": frozen, "init": above}, State{Asked: true, Frozen: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			const scope = "a.slice/cri-containerd-c.scope"
			files := map[string]string{}
			for dir, content := range test.below {
				for file, text := range content {
					files[filepath.Join(scope, dir, file)] = text
				}
			}
			for file, text := range test.scope {
				files[filepath.Join(scope, file)] = text
			}
			tr := tree(t, 2, files)
			g, err := tr.Container("c", "a.slice:cri-containerd:c")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := g.State(); err != nil || got != test.want {
				t.Errorf("it is %+v (%v), want %+v", got, err, test.want)
			}
			for _, step := range []struct {
				tell func() error
				want string
			}{{g.Freeze, "1"}, {g.Thaw, "0"}} {
				if err := step.tell(); err != nil {
					t.Fatal(err)
				}
				for dir := range test.below {
					told, want := slices.Contains(test.told, dir), strings.TrimSpace(files[filepath.Join(scope, dir, "cgroup.freeze")])
					if told {
						want = step.want
					}
					got, err := os.ReadFile(filepath.Join(tr.root, scope, dir, "cgroup.freeze"))
					if err != nil || strings.TrimSpace(string(got))[:1] != want {
						t.Errorf("%s has %q (%v), want %s", dir, got, err, want)
					}
				}
				got, err := os.ReadFile(filepath.Join(tr.root, scope, "cgroup.freeze"))
				if err != nil || string(got)[:1] != step.want {
					t.Errorf("the scope has %q (%v), want %s", got, err, step.want)
				}
			}
		})
	}
}
