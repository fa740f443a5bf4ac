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
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestTheEntrypointsExitCodeIsOurs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name       string
		entrypoint []string
		code       int
		says       string
	}{
		{"success", []string{"true"}, 0, ""},
		{"code", []string{"sh", "-c", "exit 3"}, 3, ""},
		{"signal", []string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{"no such program", []string{"no-such-program"}, 127, `"no-such-program" was not found in PATH (`},
		{"no such path", []string{"/no/such/program"}, 127, `"/no/such/program" was not found`},
		{"not executable", []string{write("text", "text", 0o644)}, 126, "permission denied"},
		{"directory", []string{dir}, 126, "is a directory"},
		{"no interpreter", []string{write("script", "#!/no/such/shell\n", 0o755)}, 127, "interpreter"},
		{"no program", []string{write("garbage", "garbage", 0o755)}, 126, "no program for this machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := started(t, nil, c.entrypoint...)
			if code := p.exit(t); code != c.code || !strings.Contains(p.stderr.String(), c.says) {
				t.Errorf("exit code %d and %q, want %d and %q", code, p.stderr, c.code, c.says)
			}
			if c.says == "" && p.stderr.Len() > 0 {
				t.Errorf("execd prints %q between what its entrypoint prints", p.stderr)
			}
		})
	}
}

// A shell waits for what it runs before it looks at a signal, so the group is told.
// https://github.com/Yelp/dumb-init/pull/53: what an entrypoint has started never learned that the container ends.
func TestSignalsReachTheEntrypointAndItsGroup(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "ready")
			// sleep dies of USR1 and HUP as well; the trap then ends the shell.
			p := started(t, nil, "sh", "-c", fmt.Sprintf("trap 'exit 42' %d; : >%s; sleep 1000; sleep 1000", int(sig), ready))
			eventually(t, "the entrypoint runs", func() (bool, string) {
				_, err := os.Stat(ready)
				return err == nil, fmt.Sprint(err)
			})
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := p.exit(t); code != 42 {
				t.Errorf("exit code %d, want the trap's 42; stderr %q", code, p.stderr)
			}
		})
	}
}

// Who reads from a terminal and is not in its foreground is stopped.
func TestTheEntrypointHasTheTerminal(t *testing.T) {
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(script, "-qec", fmt.Sprintf(`'%s' run --port %d -- sh -c 'read x && echo got $x; exit 5'`, os.Args[0], freePort(t)), "/dev/null")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdin = strings.NewReader("hello\n")
	output, _ := cmd.CombinedOutput()
	if !strings.Contains(string(output), "got hello") || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("%v: %q", cmd.ProcessState, output)
	}
}

func TestCommandsAreToldThatTheContainerEnds(t *testing.T) {
	dir := t.TempDir()
	told := filepath.Join(dir, "told")
	p := started(t, nil, "sh", "-c", fmt.Sprintf("trap 'while ! [ -e %s ]; do sleep 0.1; done; exit 0' TERM; while :; do sleep 0.1; done", told))
	p.run(map[string]any{"command": fmt.Sprintf("trap ': >%s' TERM; : >%s/ready; sleep 1000", told, dir), "background": true})
	eventually(t, "the command runs", func() (bool, string) {
		_, err := os.Stat(filepath.Join(dir, "ready"))
		return err == nil, fmt.Sprint(err)
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d; stderr %q", code, p.stderr)
	}
	if _, err := os.Stat(told); err != nil {
		t.Errorf("the command has not seen SIGTERM: %v", err)
	}
}

// Orphans are reaped, and no command loses its exit code to whoever reaps them.
// https://github.com/ahmetb/rundev/issues/4: "waitid: no child processes" since a reaper ran beside os/exec.
func TestReapingTakesNoExitCodeAway(t *testing.T) {
	p := started(t, nil, "sleep", "1000")
	var all sync.WaitGroup
	slots := make(chan struct{}, 20)
	for i := range 200 {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			// Two processes that lose their parent, one of them with a code of its own, and a code to find.
			got := p.run(map[string]any{"command": fmt.Sprintf("(sh -c 'exit 9' &); (setsid true &); exit %d", i%200)})
			if want := fmt.Sprint(i % 200); got.code() != want {
				t.Errorf("command %d: exit code %s, want %s; %+v", i, got.code(), want, got.failure)
			}
		})
	}
	all.Wait()
	eventually(t, "no zombie is left", func() (bool, string) {
		states := fmt.Sprint(children(t, p.cmd.Process.Pid))
		return !strings.Contains(states, "Z"), states
	})
}

// Any user, no shell, no writable directory, nothing in the image but the entrypoint, and not even /proc or /dev.
func TestItNeedsNothingOfTheImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot wants root")
	}
	root := t.TempDir()
	for directory := root; directory != "/"; directory = filepath.Dir(directory) {
		if info, err := os.Stat(directory); err == nil && info.Mode().Perm()&0o5 != 0o5 && strings.HasPrefix(directory, os.TempDir()+"/") {
			_ = os.Chmod(directory, 0o755)
		}
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "execd"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	inner := freePort(t)
	p := started(t, func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = "/execd", "/"
		cmd.Env = []string{asProgram + "=1"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 12345, Gid: 54321}}
	}, "/execd", "serve", "--port", fmt.Sprint(inner))

	var listed []fileInfo
	p.get("/directories/list?path=/", &listed)
	if len(listed) != 1 || listed[0].Path != "/execd" || listed[0].Owner != "0" {
		t.Errorf("/ holds %+v, want the program alone, of user 0 who has no name here", listed)
	}
	if status, _, body := p.do("GET", "/files/download?path=/execd", nil, "Range", "bytes=1-3"); status != 206 || string(body) != "ELF" {
		t.Errorf("a range of the program: %d %q", status, body)
	}
	for _, background := range []bool{false, true} {
		got := p.run(map[string]any{"command": "true", "background": background})
		if got.complete || !strings.Contains(got.code(), "neither bash nor sh") {
			t.Errorf("a command without a shell (background %v): %+v %+v, want an error that says what it needs", background, got, got.failure)
		}
		var status struct {
			Running bool
			Code    int `json:"exit_code"`
			Error   string
		}
		p.get("/command/status/"+got.id, &status)
		if status.Running || status.Code != codeNotFound || status.Error == "" {
			t.Errorf("its status: %+v", status)
		}
	}
	if status, _, body := p.do("POST", "/session", nil); status != 501 || !strings.Contains(string(body), "neither bash nor sh") {
		t.Errorf("a session without a shell: %d %s", status, body)
	}
	if status, _, body := p.do("POST", "/directories", `{"/new": {}}`); status != 403 || !strings.Contains(string(body), "execd runs as user 12345") {
		t.Errorf("a directory where nothing may be written: %d %s", status, body)
	}
	eventually(t, "the entrypoint serves", func() (bool, string) {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ping", inner))
		if err != nil {
			return false, err.Error()
		}
		answer.Body.Close()
		return true, ""
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d; stderr %q", code, p.stderr)
	}
}
