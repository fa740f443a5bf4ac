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

package command

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run("v1.2.3", time.Now(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestMisuse(t *testing.T) {
	commit := func(more ...string) []string {
		return append([]string{"commit", "--pod-uid=p", "--snapshot-uid=s"}, more...)
	}
	const good = "--container=name=a,id=1,image=r/x:t"
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"no command":               {nil, `"commit", "thaw", "standby", "claim", "await", "kill" or "uncache"`},
		"unknown command":          {[]string{"freeze"}, "freeze"},
		"unknown flag":             {commit("--force"), "--force"},
		"argument":                 {commit(good, "x"), "x"},
		"no container":             {commit(), "--container is needed"},
		"no Pod":                   {[]string{"commit", "--snapshot-uid=s", good}, "--pod-uid"},
		"no snapshot":              {[]string{"commit", "--pod-uid=p", good}, "--snapshot-uid"},
		"timeout of no time":       {commit(good, "--timeout=0s"), "positive"},
		"timeout that is none":     {commit(good, "--timeout=soon"), "soon"},
		"container without image":  {commit("--container=name=a,id=1"), "image is missing"},
		"container without value":  {commit("--container=name=a,id=,image=r/x:t"), "id is missing"},
		"unknown key":              {commit("--container=name=a,id=1,image=r/x:t,tag=x"), `"tag=x"`},
		"key twice":                {commit("--container=name=a,name=b,id=1,image=r/x:t"), "twice"},
		"name twice":               {commit(good, "--container=name=a,id=2,image=r/y:t"), "same name"},
		"image twice":              {commit(good, "--container=name=b,id=2,image=r/x:t"), "same image"},
		"thaw with an image":       {[]string{"thaw", "--pod-uid=p", good}, "image"},
		"a compression of its own": {[]string{"commit", "--pod-uid=p", "--snapshot-uid=s", good, "--layer-compression=lz4"}, "neither zstd nor gzip"},
		"kill with an image":       {[]string{"kill", "--pod-uid=p", good}, "image"},
		"standby with an image":    {[]string{"standby", "--own-pod-uid=o", "--pod-uid=p", good}, "image"},
		"standby for itself":       {[]string{"standby", "--pod-uid=p", "--container=name=a,id=1"}, "--own-pod-uid"},
		"standby for no time":      {[]string{"standby", "--own-pod-uid=o", "--pod-uid=p", "--container=name=a,id=1", "--thaw-after=0s"}, "--thaw-after"},
		"await nobody's commit":    {[]string{"await"}, "--own-pod-uid"},
		"claim without a lock":     {[]string{"claim"}, "--lock"},
		"await for no time":        {[]string{"await", "--own-pod-uid=o", "--within=0s"}, "--within"},
		"await a container":        {[]string{"await", "--own-pod-uid=o", "--container=name=a,id=1"}, "--container"},
		"kill for nobody's cache":  {[]string{"kill", "--pod-uid=p", "--container=name=a,id=1", "--resume-cache=1", "--snapshot-uid=s"}, "--sandbox-uid"},
		"uncache nothing":          {[]string{"uncache"}, "--snapshot-uid"},
		"uncache a container":      {[]string{"uncache", "--snapshot-uid=s", "--container=name=a,id=1"}, "--container"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(test.args...)
			if code != misused || stdout != "" || !strings.Contains(stderr, test.says) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit %d, stdout %q, stderr %q; want one line that says %q", code, stdout, stderr, test.says)
			}
		})
	}
}

// TestEveryFlagCounts sets all flags of a commit and finds each in its options.
func TestEveryFlagCounts(t *testing.T) {
	var got committer.CommitOptions
	fs := pflag.NewFlagSet("commit", pflag.ContinueOnError)
	addCommit(fs, &got)
	var args []string
	fs.VisitAll(func(flag *pflag.Flag) {
		value := map[string]string{"bool": "true", "duration": "10s", "int64": "7"}[flag.Value.Type()]
		if value == "" {
			value = "the-" + flag.Name
		}
		args = append(args, "--"+flag.Name+"="+value)
	})
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	want := committer.CommitOptions{
		SnapshotUID: "the-snapshot-uid", LeaveFrozen: true, ResumeCache: true, MaxFrozen: 10 * time.Second, MaxHoles: 7, Compression: "the-layer-compression", SpoolDir: "the-spool-dir",
		Registry:        registry.Options{ConfigFile: "the-registry-config", CAFile: "the-registry-ca", Insecure: true},
		BaseCredentials: []string{"the-base-registry-config"}, BaseHint: "the-base-registry-hint", BaseRepository: "the-base-repository",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v gives\n%+v, want\n%+v", args, got, want)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"commit", "--help"}, {"thaw", "--help"}, {"standby", "--help"}, {"claim", "--help"}, {"await", "--help"}, {"kill", "--help"}, {"--version"}} {
		if code, stdout, _ := run(args...); code != succeeded || stdout == "" {
			t.Errorf("%v: exit %d, %q", args, code, stdout)
		}
	}
}

// TestAwaitDoesNoHarm where it cannot wait: the kubelet ends a container whose hook fails.
func TestAwaitDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POD_UID", "o")
	code, _, stderr := run("await", "--containerd-address="+dir+"/none.sock", "--termination-log=-", "--timeout=100ms")
	if code != succeeded || !strings.Contains(stderr, "none.sock") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// TestUnreachable has no containerd: the result says so, and a thaw does not
// claim to have thawed.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	for command, thawed := range map[string]bool{"commit": true, "thaw": false, "standby": false, "kill": false} {
		file := filepath.Join(dir, command)
		args := []string{command, "--pod-uid=p", "--containerd-address=" + dir + "/none.sock", "--termination-log=" + file, "--timeout=100ms", "--container=name=a,id=containerd://1"}
		if command == "commit" {
			args[len(args)-1] += ",image=r/x:t"
			args = append(args, "--snapshot-uid=s")
		}
		if command == "standby" {
			args = append(args, "--own-pod-uid=o")
		}
		if code, _, stderr := run(args...); code != failed || !strings.Contains(stderr, "none.sock") {
			t.Errorf("%s: exit %d, %s", command, code, stderr)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := result.Decode(data)
		if err != nil || r.Error == nil || r.Thawed != thawed {
			t.Errorf("%s: result %s (%v)", command, data, err)
		}
	}
}

func TestSignals(t *testing.T) {
	ctx, stop := interruptible(context.Background())
	defer stop()
	// To this thread, which has its signal when the call returns: one to the process may come after stop.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	for range 2 { // the second must not end the process
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the context did not end")
		}
	}
	var reasoned *result.Error
	if !errors.As(context.Cause(ctx), &reasoned) || reasoned.Reason != result.Canceled {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}
