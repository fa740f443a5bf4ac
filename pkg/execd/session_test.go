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

package execd

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSession(t *testing.T) {
	for _, name := range []string{"bash", "sh"} {
		t.Run(name, func(t *testing.T) {
			// A PATH with one shell alone, and what the commands below use.
			bin := t.TempDir()
			for _, program := range []string{name, "cat", "sleep", "env"} {
				path, err := lookPath(program, environment())
				if err != nil {
					t.Skip(err)
				}
				if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
					t.Fatal(err)
				}
			}
			if name == "sh" {
				// shell() would find /bin/bash all the same: have "bash" be the plain shell.
				_ = os.Remove(filepath.Join(bin, "sh"))
				path, _ := lookPath("sh", environment())
				if err := os.Symlink(path, filepath.Join(bin, "bash")); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin)
			t.Setenv("OF_THE_CONTAINER", "1")
			testSession(t)
		})
	}
}

func testSession(t *testing.T) {
	c := here(t)
	dir := filepath.Join(t.TempDir(), "made", "by", "the session")
	var session struct {
		ID string `json:"session_id"`
	}
	_, _, body := c.do("POST", "/session", fields{"cwd": dir})
	decode(t, body, &session)
	path := "/session/" + session.ID + "/run"
	for _, step := range []struct {
		task   fields
		stdout []string
		code   string
	}{
		{fields{"command": "pwd; echo $OF_THE_CONTAINER"}, []string{dir, "1"}, "0"},
		{fields{"command": "pwd; echo $PWD", "cwd": "/var"}, []string{"/var", "/var"}, "0"},
		{fields{"command": "pwd"}, []string{dir}, "0"},
		{fields{"command": "export A=\"1'\n\\\"2 \\$x\" B=x; unset OF_THE_CONTAINER; cd /usr"}, nil, "0"},
		{fields{"command": `printf '%s\n' "$A" "$B" "${OF_THE_CONTAINER-unset}"; pwd`}, []string{"1'", `"2 $x`, "x", "unset", "/usr"}, "0"},
		{fields{"command": "sh -c 'exit 7'"}, nil, ""},
		{fields{"command": "export C=1; exit 4"}, nil, "4"},
		{fields{"command": "echo $C; set -e; false; echo no"}, []string{"1"}, "1"},
		// https://github.com/daytonaio/daytona/issues/4230: sessions hung on here-documents, and on what runs on.
		{fields{"command": "cat <<'EOF'\nhere $A\nEOF"}, []string{"here $A"}, "0"},
		{fields{"command": "cat <<EOF\nno end"}, []string{"no end"}, ""},
		{fields{"command": "echo 'no end"}, nil, ""},
		{fields{"command": "sleep 5 & echo after"}, []string{"after"}, "0"},
		{fields{"command": "export LARGE=" + strings.Repeat("x", 200_000)}, nil, "0"},
		{fields{"command": "echo ${#LARGE}; unset LARGE"}, []string{"200000"}, "0"},
		{fields{"command": "sleep 1000", "timeout": 100}, nil, "137"},
		{fields{"command": "echo $B; pwd"}, []string{"x", "/usr"}, "0"},
	} {
		got := c.stream(path, step.task)
		if !reflect.DeepEqual(got.stdout, step.stdout) || step.code != "" && got.code() != step.code || got.id != session.ID {
			t.Errorf("%.80q: %+v, code %s, %+v; want %q, code %s", step.task, got, got.code(), got.failure, step.stdout, step.code)
		}
	}

	ended := make(chan outcome)
	answer := c.open("POST", path, fields{"command": "(echo begun; exec sleep 1000); sleep 1000"}) //nolint:bodyclose // by who reads it
	begun := make(chan struct{})
	go func() {
		defer answer.Body.Close()
		ended <- events(t, answer.Body, func(e event) bool {
			if e.Type == "stdout" {
				close(begun)
			}
			return false
		})
	}()
	<-begun
	if status, _, body := c.do("DELETE", "/command?id="+session.ID, nil); status != 200 {
		t.Errorf("the interrupt: %d %s", status, body)
	}
	if got := <-ended; got.code() != "143" {
		t.Errorf("what was interrupted: code %s", got.code())
	}
	if got := c.stream(path, fields{"command": "echo $B"}); !reflect.DeepEqual(got.stdout, []string{"x"}) {
		t.Errorf("after an interrupt the session is there: %+v", got)
	}
	if status, _, body := c.do("DELETE", "/session/"+session.ID, nil); status != 200 || len(body) > 0 {
		t.Errorf("the end of the session: %d %s", status, body)
	}
	refused(t, c, "POST", path, fields{"command": "true"}, 404, codeContextNotFound, session.ID)
	refused(t, c, "DELETE", "/session/"+session.ID, nil, 404, codeContextNotFound, session.ID)
}

func TestSavedState(t *testing.T) {
	for saved, want := range map[string][]string{
		"":                            nil,
		"/a":                          nil,
		"/a\x00export A":              nil,
		"/a\x00export A\x00":          {"/a", "export A"},
		"/a\x00A\x00/b":               {"/a", "A"},
		"/a\x00A\x00/b\x00B":          {"/a", "A"},
		"/a\x00A\x00/b\x00\x00":       {"/b", ""},
		"/a\x00A\x00/b\x00B\nC\x00/c": {"/b", "B\nC"},
	} {
		directory, exports, complete := savedState([]byte(saved))
		if complete != (want != nil) || complete && (directory != want[0] || exports != want[1]) {
			t.Errorf("of %q: %q, %q, %v, want %q", saved, directory, exports, complete, want)
		}
	}
}
