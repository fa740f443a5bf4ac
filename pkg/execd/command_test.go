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
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

type fields map[string]any

func TestCommands(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	for _, test := range []struct {
		name           string
		task           fields
		stdout, stderr []string
		code           string
	}{
		{"success", fields{"command": "echo 'Hello'"}, []string{"Hello"}, nil, "0"},
		{"both outputs and a code", fields{"command": "echo out; echo err >&2; exit 7"}, []string{"out"}, []string{"err"}, "7"},
		{"a signal", fields{"command": "kill -TERM $$"}, nil, nil, "143"},
		{"nothing to read", fields{"command": "cat; echo end"}, []string{"end"}, nil, "0"},
		{"directory", fields{"command": "pwd", "cwd": dir}, []string{dir}, nil, "0"},
		{"directory by a variable", fields{"command": "pwd", "cwd": "$TMPDIR_OF_TEST/.."}, []string{filepath.Dir(dir)}, nil, "0"},
		{"variables", fields{"command": `printf %s\\n "$A" "$HOME"`, "envs": fields{"A": "é \" $HOME\n2", "HOME": "/h"}}, []string{"é \" $HOME", "2", "/h"}, nil, "0"},
		{"no end of line", fields{"command": "printf 'a\nb'"}, []string{"a", "b"}, nil, "0"},
		{"empty lines", fields{"command": `printf 'a\n\n\nb\n'`}, []string{"a", "\n", "\n", "b"}, nil, "0"},
		{"a progress bar", fields{"command": `printf '1%%\r2%%\r\nend\r\n'`}, []string{"1%", "2%", "end"}, nil, "0"},
		{"no UTF-8", fields{"command": `printf 'a\377b\n'`}, []string{"a\uFFFDb"}, nil, "0"},
		{"a here-document", fields{"command": "cat <<'EOF'\n$A 'x'\nEOF"}, []string{"$A 'x'"}, nil, "0"},
		{"longer than an argument may be", fields{"command": "echo " + strings.Repeat("x", 300_000) + " | wc -c"}, []string{"300001"}, nil, "0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TMPDIR_OF_TEST", dir)
			got := c.run(test.task)
			if !reflect.DeepEqual(got.stdout, test.stdout) || !reflect.DeepEqual(got.stderr, test.stderr) || got.code() != test.code || got.id == "" {
				t.Errorf("got %+v %+v, code %s; want %q, %q, code %s", got, got.failure, got.code(), test.stdout, test.stderr, test.code)
			}
			if (got.failure == nil) != got.complete {
				t.Errorf("complete %v and error %+v: one of them is to be told", got.complete, got.failure)
			}
		})
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	c := here(t)
	for name, test := range map[string]struct {
		task fields
		says string
	}{
		"no directory":           {fields{"command": "true", "cwd": "/no/such"}, "cwd: stat /no/such: no such file or directory"},
		"a file for a directory": {fields{"command": "true", "cwd": "/etc/passwd"}, "cwd: /etc/passwd is not a directory"},
	} {
		for _, background := range []bool{false, true} {
			test.task["background"] = background
			got := c.run(test.task)
			if got.id == "" || got.complete || got.failure == nil || got.failure.Value != test.says || got.failure.Name != "CommandExecError" {
				t.Errorf("%s (background %v): %+v %+v, want the error %q", name, background, got, got.failure, test.says)
			}
		}
	}
}

func TestCommandRefusals(t *testing.T) {
	c := here(t)
	for name, test := range map[string]struct {
		body any
		says string
	}{
		"no JSON":          {"{", "not the JSON"},
		"nothing":          {"", "not the JSON"},
		"a list":           {"[]", "JSON"},
		"a wrong type":     {fields{"command": 1}, "command cannot be a JSON number"},
		"no command":       {fields{}, "command is empty"},
		"an empty command": {fields{"command": " \n"}, "command is empty"},
		"a NUL":            {fields{"command": "a\x00b"}, "NUL"},
		"a time before":    {fields{"command": "true", "timeout": -1}, "timeout is -1"},
		"half a number":    {fields{"command": "true", "timeout": 1.5}, "timeout cannot be"},
		"gid alone":        {fields{"command": "true", "gid": 1}, "gid is given without uid"},
		"no user":          {fields{"command": "true", "uid": -1}, "uid -1"},
		"no user either":   {fields{"command": "true", "uid": 1 << 32}, "uid 4294967296"},
		"no group":         {fields{"command": "true", "uid": 1, "gid": -1}, "gid -1"},
		"no variable":      {fields{"command": "true", "envs": fields{"a=b": ""}}, "envs"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c, "POST", "/command", test.body, 400, codeInvalidBody, test.says) })
	}
	refused(t, c, "POST", "/command", strings.NewReader(`{"command":"`+strings.Repeat("x", maxBody)+`"}`), 413, codeInvalidBody, "64 MiB")
	refused(t, c, "DELETE", "/command", nil, 400, codeMissingQuery, "no id")
	refused(t, c, "DELETE", "/command?id=x", nil, 404, codeInvalidBody, `no command "x"`)
	refused(t, c, "GET", "/command/status/x", nil, 404, codeInvalidBody, `no command "x"`)
	refused(t, c, "GET", "/command/x/logs", nil, 404, codeInvalidBody, `no command "x"`)
	refused(t, c, "GET", "/command/x/y", nil, 404, codeNotSupported, "no path")
	refused(t, c, "GET", "/command/"+c.run(fields{"command": "true"}).id+"/logs", nil, 400, codeInvalidBody, "did not run in the background")
	refused(t, c, "GET", "/command/"+c.run(fields{"command": "true", "background": true}).id+"/logs?cursor=-1", nil, 400, codeInvalidBody, "cursor")
	refused(t, c, "GET", "/nothing", nil, 404, codeNotSupported, "/nothing is no path")
	refused(t, c, "PUT", "/command", nil, 405, codeNotSupported, "PUT cannot be done")
	refused(t, c, "POST", "/code", "{}", 404, codeNotSupported, "/code is no path")
}

// refused wants an error in its form.
func refused(t *testing.T, c client, method, path string, body any, status int, code, says string) {
	t.Helper()
	got, header, content := c.do(method, path, body)
	var answer struct{ Code, Message string }
	decode(t, content, &answer)
	if got != status || answer.Code != code || !strings.Contains(answer.Message, says) || header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s: %d %s, want %d %s that says %q", method, path, got, content, status, code, says)
	}
}

func TestUserOfACommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to become others wants root")
	}
	c := here(t)
	for name, test := range map[string]struct {
		task fields
		want []string
	}{
		"a user with a name":    {fields{"uid": 65534, "command": `id -u; id -g; echo "$USER"`}, []string{"65534", "65534", "nobody"}},
		"a user without a name": {fields{"uid": 12345, "command": `id -u; id -g; echo "$HOME"`}, []string{"12345", "0", "/"}},
		"and a group":           {fields{"uid": 12345, "gid": 7, "command": `id -u; id -g; id -G`}, []string{"12345", "7", "7"}},
		"what the task says":    {fields{"uid": 12345, "envs": fields{"HOME": "/h"}, "command": `echo "$HOME"`}, []string{"/h"}},
		// https://github.com/moby/moby/issues/31243: /dev/stdout: Permission denied.
		"its output again": {fields{"uid": 12345, "command": `echo out >/dev/stdout; echo err >/dev/stderr`}, []string{"out"}},
		"a long command":   {fields{"uid": 12345, "command": "id -u #" + strings.Repeat("x", 200_000)}, []string{"12345"}},
	} {
		if got := c.run(test.task); !reflect.DeepEqual(got.stdout, test.want) || got.code() != "0" {
			t.Errorf("%s: %+v %+v, want %q", name, got, got.failure, test.want)
		}
	}
}

func TestTheTokenIsAskedForAndNotHandedOn(t *testing.T) {
	t.Setenv(TokenVariable, "secret-token")
	c := here(t)
	refused(t, c, "GET", "/ping", nil, 401, "UNAUTHORIZED", TokenHeader)
	if status, _, body := c.do("GET", "/ping", nil, TokenHeader, "secret-toke"); status != 401 || strings.Contains(string(body), "secret") {
		t.Errorf("a wrong token: %d %s", status, body)
	}
	status, _, body := c.do("POST", "/command", fields{"command": "env"}, TokenHeader, "secret-token")
	if status != 200 || strings.Contains(string(body), "secret") {
		t.Errorf("env with the token: %d %s, want 200 without the token", status, body)
	}
}

// https://github.com/daytonaio/daytona/issues/2602: the timeout killed the shell alone, and its caller waited for what the
// shell had started all the same.
func TestATimeoutEndsAllThatACommandHasStarted(t *testing.T) {
	c := here(t)
	file := filepath.Join(t.TempDir(), "pid")
	begin := time.Now()
	got := c.run(fields{"command": fmt.Sprintf("trap '' TERM; (sh -c 'trap \"\" TERM; echo $$ >%s; sleep 1000; sleep 1000'; true) | cat; echo late", file), "timeout": 2000})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if got.code() != "137" || len(got.stdout) > 0 || !strings.Contains(strings.Join(got.failure.Traceback, ""), "timeout of 2000 ms") {
		t.Errorf("got %+v %+v, want code 137 and why", got, got.failure)
	}
	gone(t, file)
	var status struct {
		Error string
		Code  int `json:"exit_code"`
	}
	c.get("/command/status/"+got.id, &status)
	if status.Code != 137 || !strings.Contains(status.Error, "timeout of 2000 ms") {
		t.Errorf("its status: %+v", status)
	}
	if got := c.run(fields{"command": "echo in time", "timeout": 1 << 62}); got.code() != "0" {
		t.Errorf("a huge timeout: %+v", got.failure)
	}
}

// gone waits until the process whose number is in the file has ended.
func gone(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process has ended", func() (bool, string) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z "), string(stat)
	})
}

// https://github.com/PrimeIntellect-ai/prime/pull/305: a command that starts a server in the background never returned,
// because the server has its output as well. Nor may the server die of a pipe that nobody reads.
func TestACommandReturnsWithoutWhatItLeavesInTheBackground(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	begin := time.Now()
	got := c.run(fields{"command": fmt.Sprintf("cd %s; (echo $$ >pid; while :; do echo still here; echo x >>written; sleep 0.05; done) & head -c 40000 /dev/zero | tr '\\0' x; echo; echo done", dir)})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	all := strings.Join(got.stdout, "\n")
	if got.code() != "0" || !strings.Contains(all, "done") || strings.Count(all, "x") != 40000 {
		t.Errorf("code %s, %d bytes; want everything that it printed itself", got.code(), len(all))
	}
	before, _ := os.ReadFile(filepath.Join(dir, "written"))
	eventually(t, "the server still writes", func() (bool, string) {
		now, _ := os.ReadFile(filepath.Join(dir, "written"))
		return len(now) > len(before)+10, fmt.Sprint(len(before), len(now))
	})
	content, _ := os.ReadFile(filepath.Join(dir, "pid"))
	_ = c.run(fields{"command": "pkill -P " + string(content) + "; pkill -f " + dir + "; rm -rf " + dir + "/written"})
}

// Who goes away ends nothing; DELETE does.
func TestACommandOutlivesItsClientUntilItIsInterrupted(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/command", strings.NewReader(fmt.Sprintf(
		`{"command":"cd %s; trap 'echo bye >told; exit 5' TERM; (trap '' TERM; sh -c 'echo $PPID' >stubborn; while :; do sleep 0.1; done) & while :; do echo output; echo x >>written; sleep 0.02; done"}`, dir)))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	id := events(t, answer.Body, func(e event) bool { return e.Type == "stdout" }).id
	leave()
	answer.Body.Close()
	written := func() int {
		content, _ := os.ReadFile(filepath.Join(dir, "written"))
		return len(content)
	}
	before := written()
	eventually(t, "it goes on", func() (bool, string) { return written() > before+20, fmt.Sprint(before, written()) })

	if status, _, body := c.do("DELETE", "/command?id="+id, nil); status != 200 || len(body) > 0 {
		t.Errorf("the interrupt: %d %s", status, body)
	}
	var status struct {
		Running bool
		Code    int `json:"exit_code"`
	}
	c.get("/command/status/"+id, &status)
	if _, err := os.Stat(filepath.Join(dir, "told")); err != nil || status.Running || status.Code != 5 {
		t.Errorf("after the interrupt: %+v, told: %v; want the code of its trap", status, err)
	}
	gone(t, filepath.Join(dir, "stubborn"))
	if status, _, body := c.do("DELETE", "/command?id="+id, nil); status != 200 {
		t.Errorf("a second interrupt: %d %s, want success: it does not run", status, body)
	}
}

func TestBackground(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	got := c.run(fields{"command": fmt.Sprintf("printf 'one\\ntw\\303'; while ! [ -e %s/go ]; do sleep 0.02; done; printf '\\266 three' >&2; exit 3", dir), "background": true})
	if !got.complete || got.id == "" || len(got.stdout) > 0 {
		t.Fatalf("the answer: %+v, want to be told that it is started", got)
	}
	type state struct {
		ID, Content, Error string
		Running            bool
		Code               *int       `json:"exit_code"`
		Started            time.Time  `json:"started_at"`
		Finished           *time.Time `json:"finished_at"`
	}
	var now state
	c.get("/command/status/"+got.id, &now)
	if !now.Running || now.Code != nil || now.Finished != nil || now.ID != got.id || !strings.HasPrefix(now.Content, "printf") || now.Started.IsZero() {
		t.Errorf("while it runs: %+v", now)
	}
	logs := func(cursor string) (text, next string) {
		status, header, body := c.do("GET", "/command/"+got.id+"/logs?cursor="+cursor, nil)
		if status != 200 {
			t.Fatalf("logs from %q: %d %s", cursor, status, body)
		}
		return string(body), header.Get("EXECD-COMMANDS-TAIL-CURSOR")
	}
	var first, cursor string
	eventually(t, "the first lines are there, without half a character", func() (bool, string) {
		first, cursor = logs("")
		return first == "one\ntw", first
	})
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() (bool, string) {
		now = state{}
		c.get("/command/status/"+got.id, &now)
		return !now.Running, fmt.Sprintf("%+v", now)
	})
	if now.Code == nil || *now.Code != 3 || now.Finished == nil || now.Error == "" {
		t.Errorf("at its end: %+v", now)
	}
	if rest, end := logs(cursor); rest != "ö three" || end != "14" {
		t.Errorf("from %s on: %q and %s, want the rest and the number of bytes", cursor, rest, end)
	}
	if all, _ := logs("0"); all != "one\ntwö three" {
		t.Errorf("all: %q", all)
	}
	if none, end := logs("1000"); none != "" || end != "14" {
		t.Errorf("after the end: %q and %s", none, end)
	}
}

func TestPings(t *testing.T) {
	c := here(t)
	answer := c.open("POST", "/command", fields{"command": "sleep 1000"})
	defer answer.Body.Close()
	got := events(t, answer.Body, func(e event) bool { return e.Type == "ping" })
	if got.pings != 1 {
		t.Errorf("got %+v, want a ping while nothing is printed", got)
	}
	c.do("DELETE", "/command?id="+got.id, nil)
}

func TestManyAtOnce(t *testing.T) {
	c := here(t)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			got := c.run(fields{"command": fmt.Sprintf("echo %d; sleep 0.2; exit %d", i, i)})
			if got.code() != fmt.Sprint(i) || !reflect.DeepEqual(got.stdout, []string{fmt.Sprint(i)}) {
				t.Errorf("command %d: %+v %+v", i, got, got.failure)
			}
		})
	}
	all.Wait()
}

// A gigabyte takes no memory, whether it has lines or not, also when it is for the log, and for files.
func TestLargeOutputsTakeNoMemory(t *testing.T) {
	const size = 256 << 20
	p := started(t, nil, "sleep", "1000")
	received := func(body io.Reader) (sum int) {
		buffer := make([]byte, 1<<20)
		for {
			n, err := body.Read(buffer)
			sum += n
			if err != nil {
				return sum
			}
		}
	}
	for name, command := range map[string]string{
		"lines":   fmt.Sprintf("yes %s | head -c %d", strings.Repeat("x", 99), size),
		"no line": fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", size),
	} {
		answer := p.open("POST", "/command", fields{"command": command})
		if got := received(answer.Body); got < size {
			t.Errorf("%s: %d bytes of events for %d of output", name, got, size)
		}
		answer.Body.Close()
	}
	id := p.run(fields{"command": fmt.Sprintf("head -c %d /dev/zero", size), "background": true}).id
	eventually(t, "the background command has ended", func() (bool, string) {
		var status struct{ Running bool }
		p.get("/command/status/"+id, &status)
		return !status.Running, ""
	})
	answer := p.open("GET", "/command/"+id+"/logs", nil)
	if got := received(answer.Body); got != size {
		t.Errorf("the log has %d bytes of %d", got, size)
	}
	answer.Body.Close()

	path := filepath.Join(t.TempDir(), "large")
	body, contentType := form(part{fmt.Sprintf(`{"path":%q}`, path), io.LimitReader(zeros{}, size)})
	if status, _, text := p.do("POST", "/files/upload", body, "Content-Type", contentType); status != 200 {
		t.Errorf("the upload: %d %s", status, text)
	}
	answer = p.open("GET", "/files/download?path="+path, nil)
	if got := received(answer.Body); got != size || answer.ContentLength != size {
		t.Errorf("%d bytes of %d came down", got, size)
	}
	answer.Body.Close()
	peak := mostMemory(t, p.cmd.Process.Pid)
	t.Logf("execd had at most %d MiB of memory", peak)
	if peak > 64 {
		t.Error("want at most 64")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLines(t *testing.T) {
	long := strings.Repeat("é", maxLine/2+10)
	for name, test := range map[string]struct {
		chunks []string
		want   []string
	}{
		"in pieces":                  {[]string{"a", "b\nc", "\n"}, []string{"ab", "c"}},
		"a return and then its line": {[]string{"a\r", "\nb\n"}, []string{"a", "b"}},
		"returns and empty lines":    {[]string{"\r\n\n\r\r"}, []string{"\n", "\n", "\n", "\n"}},
		"a return, text, a line":     {[]string{"a\r", "b", "\n", "\n"}, []string{"a", "b", "\n"}},
		"cut between characters":     {[]string{"x" + long, "\n"}, []string{"x" + long[:maxLine-2], long[maxLine-2:]}},
		"cut where it ends":          {[]string{long[:maxLine], "\n\n"}, []string{long[:maxLine], "\n"}},
	} {
		var l lines
		var got []string
		emit := func(line []byte) { got = append(got, string(line)) }
		for _, chunk := range test.chunks {
			l.split([]byte(chunk), emit)
		}
		l.rest(emit)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %.100q, want %.100q", name, got, test.want)
		}
	}
}

func TestBacklogInMemoryKeepsTheNewest(t *testing.T) {
	b := &backlog{}
	chunk := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 20 {
		b.append(chunk)
	}
	content, end := b.from(0, true)
	kept, err := io.ReadAll(content)
	if err != nil || end != 20<<20 || len(kept) < keptInMemory || len(b.memory) > keptInMemory*5/4 {
		t.Errorf("kept %d bytes of %d (%v), want the newest %d", len(kept), end, err, keptInMemory)
	}
}
