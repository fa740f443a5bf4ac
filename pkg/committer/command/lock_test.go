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
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	go func() { ended <- awaitUnlocked(file) }()
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
	if err := awaitUnlocked(file); err != nil {
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
	if err := awaitUnlocked(""); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := lockShared(missing); err == nil {
		t.Error("a file that is missing is locked")
	}
	if err := awaitUnlocked(missing); err == nil {
		t.Error("a file that is missing is waited for")
	}
}
