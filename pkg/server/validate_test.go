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

package server

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestWrongFlags: each of them ends the start, with a sentence that names it and says what would do.
func TestWrongFlags(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "sandbox-system")
	for _, row := range []struct{ flag, says string }{
		{"--commit-job-namespace=Not_A_Name", `--commit-job-namespace "Not_A_Name": a lowercase RFC 1123 label must`},
		{"--snapshot-registry-ca=Not_A_Name", `--snapshot-registry-ca "Not_A_Name": a lowercase RFC 1123 subdomain must`},
		{"--snapshot-push-secret=Not_A_Name", `--snapshot-push-secret "Not_A_Name": a lowercase RFC 1123 subdomain must`},
		{"--resume-pull-secret=Not_A_Name", `--resume-pull-secret "Not_A_Name": a lowercase RFC 1123 subdomain must`},
		{"--serving-cert-secret=Not_A_Name", `--serving-cert-secret "Not_A_Name": a lowercase RFC 1123 subdomain must`},
		{"--snapshot-registry=https://registry.example.com", `--snapshot-registry "https://registry.example.com" must be named without a scheme`},
		{"--snapshot-base-repository=a:b", `--snapshot-base-repository "a:b" must be a path below --snapshot-registry`},
		{"--snapshot-image-template={registry}/{sandbox}", `--snapshot-image-template "{registry}/{sandbox}" must hold {namespace}`},
		{"--image-committer-image=", "--image-committer-image must not be empty"},
		{"--commit-job-timeout=0s", "--commit-job-timeout must be more than nothing, and is 0s"},
		{"--max-frozen=-1s", "--max-frozen must not be negative, and is -1s"},
		{"--thaw-after=9s", "--thaw-after must be at least 10s, and is 9s"},
		{"--layer-compression=lz4", `--layer-compression "lz4" must be zstd or gzip`},
		{"--snapshot-registry=docker.io/team", `--snapshot-image-template "{registry}/{namespace}/{sandbox}-{container}:{tag}" does not make`},
		{"--max-holes=-1Gi", "--max-holes must not be negative, and is -1Gi"},
		{"--resume-cache=-1Gi", "--resume-cache must not be negative, and is -1Gi"},
		{"--image-check-interval=-1m", "--image-check-interval must not be negative, and is -1m0s"},
		{"--containerd-socket-path=containerd.sock", `--containerd-socket-path must be an absolute path, and is "containerd.sock"`},
		{"--containerd-root=containerd", `--containerd-root must be an absolute path, and is "containerd"`},
		{"--max-commits-per-node=0", "--max-commits-per-node must be at least 1, and is 0"},
		{"--max-commits=0", "--max-commits must be at least 1, and is 0"},
		{"--kube-api-burst=0", "--kube-api-burst must be at least 1, and is 0"},
		{"--kube-api-qps=0", "--kube-api-qps must be more than 0, and is 0"},
		{"--data-dir=", "--data-dir must be set where --etcd-servers is not"},
		{"--data-dir=/" + strings.Repeat("long", 30), "--data-dir /longlong"},
		{"--secure-port=70000", "--secure-port"},
	} {
		err := given(t, row.flag)
		switch {
		case err == nil:
			t.Errorf("%s is taken", row.flag)
		case !strings.HasPrefix(err.Error(), row.says), strings.Contains(err.Error(), "\n"), strings.Contains(err.Error(), "; --"):
			t.Errorf("%s: %q, want one sentence that begins with %q", row.flag, err, row.says)
		}
	}
	if err := given(t); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if err := given(t, "--max-commits=0", "--max-frozen=-1s"); err == nil || strings.Count(err.Error(), "; ") < 1 {
		t.Errorf("two wrong flags: %v, want both to be named", err)
	}
	t.Setenv("POD_NAMESPACE", "")
	if err := given(t); err == nil || !strings.Contains(err.Error(), "POD_NAMESPACE") {
		t.Errorf("without a namespace for commit Jobs: %v", err)
	}
}

// given is what is said of flags, beside those that a start needs.
func given(t *testing.T, flags ...string) error {
	t.Helper()
	options := NewOptions()
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range options.Flags().FlagSets {
		all.AddFlagSet(set)
	}
	if err := all.Parse(append([]string{"--data-dir=" + t.TempDir()}, flags...)); err != nil {
		t.Fatal(err)
	}
	return errors.Join(options.Complete(), options.Validate())
}
