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
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	c := here(t)
	status, header, body := c.do("GET", "/ping", nil, "X-Request-ID", "abc")
	if status != 200 || len(body) > 0 || header.Get("Content-Length") != "0" || header.Get("X-Request-ID") != "abc" {
		t.Errorf("%d %q %q; the SDK wants an empty answer to say that it is", status, header, body)
	}
}

// Every page that a browser in the sandbox shows could run commands, by a form or a name that resolves to 127.0.0.1.
func TestABrowserInTheSandboxIsRefused(t *testing.T) {
	d := newDaemon("test", table())
	for _, test := range []struct {
		remote, header, value string
		status                int
	}{
		{"127.0.0.1:1", "Origin", "https://example.com", 403},
		{"[::1]:1", "Origin", "null", 403},
		{"[::ffff:127.0.0.1]:1", "Sec-Fetch-Site", "same-origin", 403},
		{"10.0.0.5:1", "Sec-Fetch-Site", "cross-site", 403},  // by the Pod's own address
		{"10.0.0.6:1", "Origin", "https://example.com", 200}, // the SDK in a page, through the gateway
		{"127.0.0.1:1", "User-Agent", "curl", 200},
	} {
		r := httptest.NewRequest(http.MethodGet, "/ping", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: DefaultPort})))
		r.RemoteAddr = test.remote
		r.Header.Set(test.header, test.value)
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%+v: %d %s", test, w.Code, w.Body)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"version"}, 0, "v1.2.3"},
		{[]string{"run"}, 2, "usage:"},
		{[]string{"run", "--"}, 2, "usage:"},
		{[]string{"install"}, 2, "usage:"},
		{[]string{"install", "a", "b"}, 2, "usage:"},
		{[]string{"nonsense"}, 2, "usage:"},
		{[]string{"serve", "x"}, 2, "usage:"},
		{[]string{"--nonsense"}, 2, "usage:"},
		{[]string{"--help"}, 0, "usage:"},
		{[]string{"run", "--port", "65536", "--", "true"}, 2, "from 1 to 65535"},
		{[]string{"--port", "0"}, 2, "from 1 to 65535"},
		{[]string{"install", "/proc/nothing"}, 1, "install to /proc/nothing"},
	} {
		var out strings.Builder
		if code := Main("v1.2.3", test.args, &out, &out); code != test.code || !strings.Contains(out.String(), test.says) {
			t.Errorf("%q: %d %q, want %d and %q", test.args, code, out.String(), test.code, test.says)
		}
	}
	t.Setenv(portVariable, "x")
	var out strings.Builder
	if code := Main("", nil, &out, &out); code != 2 || !strings.Contains(out.String(), portVariable) {
		t.Errorf("a port that is none: %d %q", code, out.String())
	}
}

func TestAPortThatIsTakenIsSaid(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.Command(os.Args[0], "run", "--", "sleep", "1000")
	cmd.Env = append(os.Environ(), asProgram+"=1", fmt.Sprintf("%s=%d", portVariable, listener.Addr().(*net.TCPAddr).Port))
	output, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(output), "address already in use") || !strings.Contains(string(output), portVariable) {
		t.Errorf("%v %s", cmd.ProcessState, output)
	}
}

// Whatever the umask of the init container and its user are, every user can run the copy: one build of OpenSandbox's
// installed a script that others could not read (https://github.com/opensandbox-group/OpenSandbox/issues/1619).
func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	install := func() {
		t.Helper()
		cmd := exec.Command("sh", "-c", `umask 077; exec "$0" install "$1"`, os.Args[0], dir)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		if output, err := cmd.CombinedOutput(); err != nil || len(output) > 0 {
			t.Fatalf("%v: %s", err, output)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	install()
	program := filepath.Join(dir, "execd")
	if mode := modeOf(t, program); mode != 0o755 {
		t.Errorf("mode %o, want 755", mode)
	}
	// A container restarts while the copy runs.
	port := fmt.Sprint(freePort(t))
	running := exec.Command(program, "serve", "--port", port)
	running.Env = append(os.Environ(), asProgram+"=1")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Process.Kill(); _ = running.Wait() }()
	eventually(t, "the copy serves", func() (bool, string) {
		answer, err := http.Get("http://127.0.0.1:" + port + "/ping")
		if err != nil {
			return false, err.Error()
		}
		answer.Body.Close()
		return true, ""
	})
	install()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("the volume holds %v (%v), want the program alone", left, err)
	}
}

func TestInstallToAVolumeWhereNothingCanBeRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to mount wants root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("execd-test", dir, "tmpfs", syscall.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	if err := install(dir); err == nil || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("%v, want an error that says noexec", err)
	}
}

func TestMetrics(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  sample
	}{
		"cgroup v2 with limits": {map[string]string{
			"sys/fs/cgroup/cpu.max": "150000 100000\n", "sys/fs/cgroup/memory.max": "1073741824\n",
			"sys/fs/cgroup/memory.current": "104857600\n", "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 52428800\n",
			"sys/fs/cgroup/cpu.stat": "usage_usec 0\n",
		}, sample{CPUs: 1.5, CPUUsed: 50, Memory: 1024, MemUsed: 50}},
		"cgroup v2 without": {map[string]string{
			"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "1048576\n",
			"sys/fs/cgroup/cpu.stat": "usage_usec 0\n",
		}, sample{Memory: 2048, MemUsed: 1}},
		"cgroup v1": {map[string]string{
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "268435456\n",
			"sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_inactive_file 134217728\n",
		}, sample{CPUs: 3, Memory: 512, MemUsed: 128}},
		"cgroup v1 without limits": {map[string]string{
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1048576\n",
		}, sample{Memory: 2048, MemUsed: 1}},
		"nothing": {nil, sample{Memory: 2048, MemUsed: 1024}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root+"/proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n")
			for path, content := range test.files {
				write(t, filepath.Join(root, path), content)
			}
			m := newMetrics(root)
			m.last = cpuTime{time.Now().Add(-time.Hour), 0}
			if test.want.CPUUsed > 0 {
				write(t, root+"/sys/fs/cgroup/cpu.stat", fmt.Sprintf("usage_usec %d\n", int64(2700e6)))
			}
			got := m.read()
			if test.want.CPUs == 0 {
				test.want.CPUs = got.CPUs
			}
			if got.CPUUsed < test.want.CPUUsed-1 || got.CPUUsed > test.want.CPUUsed+1 {
				t.Errorf("%.1f per cent of the processors, want %.1f", got.CPUUsed, test.want.CPUUsed)
			}
			got.CPUUsed, test.want.CPUUsed, test.want.Measured = 0, 0, got.Measured
			if got != test.want || got.CPUs <= 0 {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	c := here(t)
	var now sample
	c.get("/metrics", &now)
	if now.Memory <= 0 || now.MemUsed <= 0 || now.MemUsed > now.Memory || time.Since(time.UnixMilli(now.Measured)) > time.Minute {
		t.Errorf("got %+v", now)
	}
}

// ask has a request that may be none answered.
func ask(d *daemon, target, bytes string) (status int, body string, ok bool) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return 0, "", false
	}
	r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Range": {bytes}}, Body: http.NoBody, RemoteAddr: "10.0.0.1:1"}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Code, w.Body.String(), true
}
