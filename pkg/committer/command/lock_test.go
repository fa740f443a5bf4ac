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
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func newLock(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(file, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestNobodyEndsWhileAKillRuns has two kills in one container.
func TestNobodyEndsWhileAKillRuns(t *testing.T) {
	file := newLock(t)
	var kills []int
	for range 2 {
		fd, err := lockShared(file)
		if err != nil {
			t.Fatal(err)
		}
		kills = append(kills, fd)
	}
	ended := make(chan error)
	go func() { ended <- (&standbyLock{file: file}).end() }()
	for _, fd := range kills {
		select {
		case err := <-ended:
			t.Fatalf("it ends while a kill runs (%v)", err)
		case <-time.After(50 * time.Millisecond): // long enough for one that does not wait
		}
		_ = unix.Close(fd)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "as it was" {
		t.Errorf("the file holds %q (%v)", content, err)
	}
}

func TestNoKillBeginsAtTheEnd(t *testing.T) {
	file := newLock(t)
	if err := (&standbyLock{file: file}).end(); err != nil {
		t.Fatal(err)
	}
	if _, err := lockShared(file); err == nil || !strings.Contains(err.Error(), "about to end") {
		t.Errorf("a kill begins in a container that ends (%v)", err)
	}
}

func TestWithoutALock(t *testing.T) {
	if _, err := lockShared(""); err != nil {
		t.Fatal(err)
	}
	if err := (&standbyLock{}).end(); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := lockShared(missing); err == nil {
		t.Error("a file that is missing is locked")
	}
	if err := (&standbyLock{file: missing}).end(); err == nil {
		t.Error("a file that is missing is waited for")
	}
}

// claimedFile is the environment variable that makes TestClaimOfAnotherProcess one.
const claimedFile = "COMMAND_TEST_CLAIMS"

// TestClaimOfAnotherProcess is what TestClaims starts.
func TestClaimOfAnotherProcess(t *testing.T) {
	file := os.Getenv(claimedFile)
	if file == "" {
		t.Skip("TestClaims starts it")
	}
	os.Exit(Run("test", time.Now(), []string{"claim", "--lock=" + file, "--termination-log=-"}, os.Stdout, os.Stderr))
}

// Who claims and who thaws know of each other: a claim counts from when it was made, and none is made
// any more once somebody thaws.
func TestClaims(t *testing.T) {
	file := newLock(t)
	if err := os.Truncate(file, 0); err != nil { // as the kubelet makes it
		t.Fatal(err)
	}
	l := &standbyLock{file: file}
	last, reopen, err := l.Close()
	if err != nil || last.Made {
		t.Fatalf("%+v (%v)", last, err)
	}
	// In a process of its own, whose end is what lets go of the lock.
	claim := func() (code int, said string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestClaimOfAnotherProcess$")
		cmd.Env = append(os.Environ(), claimedFile+"="+file)
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if code, said := claim(); code != failed || !strings.Contains(said, "about to end") {
		t.Errorf("claimed while it is being thawed: exit code %d, %s", code, said)
	}
	reopen()
	code, said := claim()
	if report, err := result.Decode([]byte(said)); code != succeeded || err != nil || report.Error != nil {
		t.Errorf("exit code %d, %s (%v)", code, said, err)
	}
	if last, reopen, err = l.Close(); err != nil || !last.Made || last.Kills || last.Age < 0 || last.Age > 10*time.Second {
		t.Errorf("%+v (%v)", last, err)
	}
	reopen()
	if err := note(file, killLine); err != nil {
		t.Fatal(err)
	}
	if last, _, err = l.Close(); err != nil || !last.Made || !last.Kills {
		t.Errorf("%+v (%v)", last, err)
	}
	// Closed by itself, it ends without waiting for itself.
	ended := make(chan error, 1)
	go func() { ended <- l.end() }()
	select {
	case err = <-ended:
	case <-time.After(10 * time.Second):
		err = errors.New("it waits for itself")
	}
	if err != nil {
		t.Error(err)
	}
}
