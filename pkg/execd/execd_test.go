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
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// asProgram has the test binary be execd.
const asProgram = "EXECD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Main("test", os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// table is one for all tests: it waits for its own children alone.
var table = sync.OnceValue(func() *processes { return newProcesses(false) })

// client speaks to a daemon.
type client struct {
	t    *testing.T
	base string
}

// here serves in this process.
func here(t *testing.T) client {
	t.Helper()
	server := httptest.NewServer(newDaemon("test", table()))
	t.Cleanup(server.Close)
	return client{t, server.URL}
}

// program is execd as a process of its own.
type program struct {
	client
	cmd    *exec.Cmd
	stdout *bytes.Buffer
	stderr *bytes.Buffer
	exited chan struct{}
}

// started runs `execd run -- entrypoint…` and waits until it serves.
func started(t *testing.T, change func(*exec.Cmd), entrypoint ...string) *program {
	t.Helper()
	port := freePort(t)
	p := &program{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, exited: make(chan struct{})}
	p.client = client{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	p.cmd = exec.Command(os.Args[0], append([]string{"run", "--port", strconv.Itoa(port), "--"}, entrypoint...)...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	// Whoever the entrypoint leaves behind holds the output open.
	p.cmd.WaitDelay = time.Second
	if change != nil {
		change(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.exited })
	eventually(t, "execd serves or has ended", func() (bool, string) {
		select {
		case <-p.exited:
			return true, ""
		default:
		}
		answer, err := http.Get(p.base + "/ping")
		if err != nil {
			return false, err.Error()
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusUnauthorized, answer.Status
	})
	return p
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func (p *program) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatalf("execd has not ended; it said %q", p.stderr)
		return 0
	}
}

func eventually(t *testing.T, what string, seen func() (bool, string)) {
	t.Helper()
	var last string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var done bool
		if done, last = seen(); done {
			return
		}
	}
	t.Fatalf("not in 30 s: %s; last seen: %s", what, last)
}

// do sends a request and returns the status and the body.
func (c client) do(method, path string, body any, header ...string) (int, http.Header, []byte) {
	c.t.Helper()
	answer := c.open(method, path, body, header...)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer.StatusCode, answer.Header, content
}

// open sends a request: a reader as it is, anything else as JSON.
func (c client) open(method, path string, body any, header ...string) *http.Response {
	c.t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		content = b
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			c.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, content)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// get reads a JSON answer.
func (c client) get(path string, into any) {
	c.t.Helper()
	status, _, body := c.do("GET", path, nil)
	if status != http.StatusOK {
		c.t.Fatalf("GET %s: %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		c.t.Fatalf("GET %s: %v in %s", path, err, body)
	}
}

// outcome is what a stream told.
type outcome struct {
	id             string
	stdout, stderr []string
	complete       bool
	failure        *execError
	pings          int
}

func (o outcome) code() string {
	switch {
	case o.failure != nil:
		return o.failure.Value
	case o.complete:
		return "0"
	default:
		return "the stream ended without an end"
	}
}

func (c client) run(body any) outcome {
	c.t.Helper()
	return c.stream("/command", body)
}

func (c client) stream(path string, body any) outcome {
	c.t.Helper()
	answer := c.open("POST", path, body)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		content, _ := io.ReadAll(answer.Body)
		c.t.Fatalf("POST %s: %s %s", path, answer.Status, content)
	}
	return events(c.t, answer.Body, nil)
}

// events reads a stream as the SDKs do, until it ends or seen says so.
func events(t *testing.T, body io.Reader, seen func(event) bool) outcome {
	t.Helper()
	var o outcome
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Errorf("the line %q is no event: %v", lines.Text(), err)
			return o
		}
		if age := time.Since(time.UnixMilli(e.Timestamp)); age < -time.Minute || age > time.Hour {
			t.Errorf("the event %q is of %v ago", lines.Text(), age)
		}
		switch e.Type {
		case "init":
			o.id = e.Text
		case "stdout":
			o.stdout = append(o.stdout, e.Text)
		case "stderr":
			o.stderr = append(o.stderr, e.Text)
		case "execution_complete":
			o.complete = e.ExecutionTime != nil
		case "error":
			o.failure = e.Error
		case "ping":
			o.pings++
		default:
			t.Errorf("the event %q is of no type that the SDKs know", lines.Text())
		}
		if seen != nil && seen(e) {
			return o
		}
	}
	return o
}

// children returns the states of the processes whose parent it is.
func children(t *testing.T, parent int) (states []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			states = append(states, fields[0])
		}
	}
	return states
}

// mostMemory is the peak of a process's resident memory, in MiB.
func mostMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	kib, err := strconv.Atoi(named(string(status), "VmHWM"))
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
