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
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// kubectl is a person at a terminal: every call is a command line in the room's namespace.
type kubectl struct {
	*room
	// cache is its own: what it has discovered of another server must not be believed.
	cache string
}

func newKubectl(t *testing.T) *kubectl {
	t.Helper()
	r := newRoom(t)
	return &kubectl{room: r, cache: t.TempDir()}
}

func (k *kubectl) command(stdin string, args ...string) *exec.Cmd {
	command := exec.CommandContext(k.t.Context(), k.kubectl, append([]string{"--namespace", k.namespace}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	command.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "KUBECACHEDIR="+k.cache)
	return command
}

// do runs a command that must succeed and returns what it printed.
func (k *kubectl) do(args ...string) string {
	k.t.Helper()
	return k.pipe("", args...)
}

// pipe is do with standard input.
func (k *kubectl) pipe(stdin string, args ...string) string {
	k.t.Helper()
	stdout, stderr, err := output(k.command(stdin, args...))
	if err != nil {
		k.t.Fatalf("kubectl %q: %v\n%s%s", args, err, stdout, stderr)
	}
	return stdout
}

// fail runs a command that must fail and returns what it printed about it.
func (k *kubectl) fail(args ...string) string {
	k.t.Helper()
	stdout, stderr, err := output(k.command("", args...))
	if err == nil {
		k.t.Errorf("kubectl %q succeeds: %s", args, stdout)
	}
	return stdout + stderr
}

func output(command *exec.Cmd) (stdout, stderr string, err error) {
	var out, problems bytes.Buffer
	command.Stdout, command.Stderr = &out, &problems
	err = command.Run()
	return out.String(), problems.String(), err
}

// verb pauses or resumes.
func (k *kubectl) verb(verb, sandbox string) {
	k.t.Helper()
	k.do("create", "--raw", k.path(sandbox, verb), "-f", "/dev/null")
}

// wait is kubectl wait.
func (k *kubectl) wait(what string, args ...string) {
	k.t.Helper()
	k.do(append([]string{"wait", "--for=" + what, "--timeout=" + patience.String()}, args...)...)
}

// table is the output of kubectl get, in words.
func (k *kubectl) table(args ...string) [][]string {
	k.t.Helper()
	return words(k.do(append([]string{"get"}, args...)...))
}

func words(text string) [][]string {
	var rows [][]string
	for line := range strings.Lines(text) {
		if row := strings.Fields(line); len(row) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// names are the names that kubectl get lists.
func (k *kubectl) names(args ...string) []string {
	k.t.Helper()
	names := strings.Fields(k.do(append([]string{"get", "--output=name"}, args...)...))
	for i := range names {
		_, names[i], _ = strings.Cut(names[i], "/")
	}
	return names
}

// mustList checks which objects kubectl get lists.
func (k *kubectl) mustList(want []string, args ...string) {
	k.t.Helper()
	if got := k.names(args...); !slices.Equal(got, want) {
		k.t.Errorf("kubectl get %q lists %q, want %q", args, got, want)
	}
}

// field prints one field of an object.
func (k *kubectl) field(object, path string) string {
	k.t.Helper()
	return k.do("get", object, "--output=jsonpath={"+path+"}")
}

// lines collects what a command prints for as long as it runs.
type lines struct {
	mutex sync.Mutex
	text  []string
}

func (l *lines) all() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return slices.Clone(l.text)
}

// follow starts a command that does not end by itself; the test's end ends it.
func (k *kubectl) follow(args ...string) *lines {
	k.t.Helper()
	command := k.command("", args...)
	stdout, err := command.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		k.t.Fatal(err)
	}
	printed := &lines{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			printed.mutex.Lock()
			printed.text = append(printed.text, scanner.Text())
			printed.mutex.Unlock()
		}
	}()
	k.t.Cleanup(func() {
		// It was killed with the test's context.
		<-done
		_ = command.Wait()
	})
	return printed
}

// events are the events that kubectl describe shows of an object, as "Type/Reason: message".
func (k *kubectl) events(object string) []string {
	k.t.Helper()
	_, table, found := strings.Cut(k.do("describe", object), "\nEvents:")
	if !found {
		return nil
	}
	var events []string
	for _, row := range words(table) {
		// Type Reason Age From Message; an age of several has more words: 2s (x3 over 10s).
		if kind := row[0]; kind != "Normal" && kind != "Warning" {
			continue
		}
		from := slices.IndexFunc(row, func(word string) bool { return strings.HasSuffix(word, "-controller") })
		if from < 0 {
			k.t.Fatalf("an event of %s comes from nobody: %q", object, row)
		}
		events = append(events, fmt.Sprintf("%s/%s: %s", row[0], row[1], strings.Join(row[from+1:], " ")))
	}
	return events
}

// awaitEvents waits until kubectl describe shows exactly these events.
func (k *kubectl) awaitEvents(object string, want ...string) {
	k.t.Helper()
	eventually(k.t, "the events of "+object+" tell the story", patience, func(context.Context) (bool, string) {
		got := k.events(object)
		return slices.Equal(got, want), strings.Join(got, "\n")
	})
}
