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

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

const (
	namespace = "k8s.io"
	baseImage = "node.local/inside:1"
	podUID    = "5d2c7f8e-0000-4000-8000-000000000001"
	// soon is for what takes fractions of a second on an idle machine.
	soon = 60 * time.Second
)

// stage is a containerd with a registry, and a Pod's containers on it.
type stage struct {
	t        *testing.T
	runtime  string // the path of its program
	dir      string
	socket   string
	registry string
	// containerd is its process.
	containerd *exec.Cmd
	// before is called with each request to the registry.
	before func(*http.Request)
	mu     sync.Mutex
}

// programs is where they are; PROGRAMS says it where there is no compiler.
var programs = sync.OnceValues(func() (dir string, err error) {
	if dir := os.Getenv("PROGRAMS"); dir != "" {
		return dir, nil
	}
	if dir, err = os.MkdirTemp("", "node-programs-"); err != nil {
		return "", err
	}
	for _, p := range []string{"./inside", "../../cmd/image-committer"} {
		cmd := exec.Command("go", "build", "-o", dir+"/", p)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w: %s", p, err, out)
		}
	}
	return dir, nil
})

// program is one of ours. IMAGE_COMMITTER names another build of it.
func program(t *testing.T, name string) string {
	t.Helper()
	if other := os.Getenv("IMAGE_COMMITTER"); name == "image-committer" && other != "" {
		return other
	}
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// newStage starts all of it. The runtime is a program like runc.
func newStage(t *testing.T, runtime string) *stage {
	t.Helper()
	// Sockets have short names.
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, runtime: runtime, dir: dir, socket: filepath.Join(dir, "c.sock")}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "containerd.log"))
			t.Logf("containerd's log ends with\n%s", log[max(0, len(log)-4000):])
		}
		if err := errors.Join(unmountBelow(dir), os.RemoveAll(dir), removeCgroups(filepath.Dir("/sys/fs/cgroup"+s.pod()))); err != nil {
			t.Error(err)
		}
	})
	inner := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		before := s.before
		s.mu.Unlock()
		if before != nil {
			before(r)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.registry = strings.TrimPrefix(server.URL, "http://")
	s.startContainerd()
	s.importImage()
	return s
}

func (s *stage) startContainerd() {
	s.t.Helper()
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(s.dir, "root"), filepath.Join(s.dir, "state"), s.socket, s.socket+".ttrpc")
	file := filepath.Join(s.dir, "containerd.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		s.t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(s.dir, "containerd.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(bin("containerd"), "--config", file)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin("containerd"))+":"+os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if s.containerd == nil {
		// Whichever runs then, and after all containers.
		s.t.Cleanup(func() {
			_ = s.containerd.Process.Signal(syscall.SIGTERM)
			_ = s.containerd.Wait() // it was told to end
		})
	}
	s.containerd = cmd
	s.until("containerd answers", func() (string, bool) {
		out, err := s.try("version")
		return out, err == nil
	})
}

func (s *stage) importImage() {
	s.t.Helper()
	inside := program(s.t, "inside")
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		out, err := exec.Command("tar", "--create", "--numeric-owner", "--owner=0", "--group=0", "--directory", filepath.Dir(inside), "inside").Output()
		return io.NopCloser(bytes.NewReader(out)), err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		s.t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, withConfig(image))
	if err != nil {
		s.t.Fatal(err)
	}
	tag, err := name.NewTag(baseImage)
	if err != nil {
		s.t.Fatal(err)
	}
	archive := filepath.Join(s.dir, "image.tar")
	if err := tarball.WriteToFile(archive, tag, image); err != nil {
		s.t.Fatal(err)
	}
	s.ctr("images", "import", archive)
}

func withConfig(image v1.Image) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		panic(err)
	}
	config.Architecture, config.OS = "amd64", "linux"
	config.Config.Entrypoint = []string{"/inside"}
	return config
}

// ctr is containerd's own client.
func (s *stage) ctr(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *stage) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin("ctr"), append([]string{"--address", s.socket, "--namespace", namespace}, args...)...).CombinedOutput()
	return string(out), err
}

// container is one of the Pod's.
type container struct {
	s        *stage
	name, id string
	pid      string
}

// run starts a container of the Pod, with the labels that Kubernetes' runtime gives it. Its command
// is what test/node/inside does.
func (s *stage) run(name string, flags []string, jobs ...string) *container {
	s.t.Helper()
	c := &container{s: s, name: name, id: fmt.Sprintf("%s-%d-%s", filepath.Base(s.dir), os.Getpid(), name)}
	args := []string{"run", "--detach", "--null-io", "--runc-binary", s.runtime, "--cpu-shares", "0", "--cgroup", c.cgroupsPath()}
	if systemd() {
		args = append(args, "--runc-systemd-cgroup")
	}
	for _, label := range []string{"io.kubernetes.pod.uid=" + podUID, "io.kubernetes.container.name=" + name, "io.cri-containerd.kind=container"} {
		args = append(args, "--label", label)
	}
	args = append(append(args, flags...), baseImage, c.id, "/inside")
	s.ctr(append(args, jobs...)...)
	s.t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(c.cgroup(), "cgroup.freeze"), []byte("0"), 0)
		_ = os.WriteFile(filepath.Join(c.cgroup(), "cgroup.kill"), []byte("1"), 0)
		_, _ = s.try("tasks", "resume", c.id) // as far as the test left it frozen
		if out, err := s.try("tasks", "delete", "--force", c.id); err != nil && !strings.Contains(out, "not found") {
			s.t.Errorf("deleting container %s: %v: %s", name, err, out)
		}
	})
	for line := range strings.Lines(s.ctr("tasks", "list")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == c.id {
			c.pid = f[1]
		}
	}
	return c
}

// systemd is whether CGROUP_DRIVER says that systemd makes the cgroups.
func systemd() bool { return os.Getenv("CGROUP_DRIVER") == "systemd" }

// pod is the Pod's cgroup, as Kubernetes names it.
func (s *stage) pod() string {
	if systemd() {
		return "/" + s.top() + ".slice/" + s.slice()
	}
	return "/kubepods-" + s.top() + "/pod" + podUID
}

// top is the name of what all of the stage lies in. A dash in it would be one more slice.
func (s *stage) top() string { return strings.ReplaceAll(filepath.Base(s.dir), "-", "") }

func (s *stage) slice() string {
	return s.top() + "-pod" + strings.ReplaceAll(podUID, "-", "_") + ".slice"
}

// cgroupsPath is its cgroup as its runtime is told.
func (c *container) cgroupsPath() string {
	if systemd() {
		return c.s.slice() + ":cri-containerd:" + c.id
	}
	return c.group()
}

func (c *container) group() string {
	if systemd() {
		return c.s.pod() + "/cri-containerd-" + c.id + ".scope"
	}
	return c.s.pod() + "/" + c.id
}

// cgroup is what its runtime freezes of it. Where systemd makes a scope for it, crun has one in that.
func (c *container) cgroup() string {
	if systemd() && strings.Contains(filepath.Base(c.s.runtime), "crun") {
		return "/sys/fs/cgroup" + c.group() + "/container"
	}
	return "/sys/fs/cgroup" + c.group()
}

// podCgroup is the directory of the Pod's.
func (s *stage) podCgroup() string { return "/sys/fs/cgroup" + s.pod() }

// events is what the kernel says of a cgroup.
func events(t *testing.T, cgroup string) (asked, frozen bool) {
	t.Helper()
	freeze, err := os.ReadFile(filepath.Join(cgroup, "cgroup.freeze"))
	if errors.Is(err, fs.ErrNotExist) && systemd() {
		return false, false // systemd removes those whose processes have ended
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(freeze)) == "1", strings.Contains(string(data), "frozen 1")
}

// counter reads what a count in the container has written.
func (c *container) counter(file string) string {
	data, _ := os.ReadFile("/proc/" + c.pid + "/root" + file)
	return string(data)
}

// runs watches a counter move.
func (c *container) runs(file string) {
	c.s.t.Helper()
	before := c.counter(file)
	c.s.until(fmt.Sprintf("container %s counts on in %s", c.name, file), func() (string, bool) {
		now := c.counter(file)
		return now, now != before && now != ""
	})
}

// stands fails if the counter moves.
func (c *container) stands(file string) {
	c.s.t.Helper()
	before := c.counter(file)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if now := c.counter(file); now != before {
			c.s.t.Fatalf("container %s counts on in %s: %s after %s", c.name, file, now, before)
		}
	}
}

func (c *container) shim() string {
	for line := range strings.Lines(c.s.ctr("tasks", "list")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == c.id {
			return f[2]
		}
	}
	return "gone"
}

// upper is its upper directory.
func (c *container) upper() string {
	c.s.t.Helper()
	mounts := c.s.ctr("snapshots", "mounts", "/x", c.id)
	for option := range strings.FieldsFuncSeq(mounts, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper
		}
	}
	c.s.t.Fatalf("no upper directory in %q", mounts)
	return ""
}

func (s *stage) image(c *container) string { return s.registry + "/" + c.name + ":tag" }

// committer runs image-committer, and returns what it reports.
func (s *stage) committer(command string, containers []*container, args ...string) result.Result {
	s.t.Helper()
	r, log := s.committerSays(command, containers, args...)
	s.t.Logf("image-committer %s: %+v\n%s", command, r, log)
	return r
}

func (s *stage) committerSays(command string, containers []*container, args ...string) (result.Result, string) {
	s.t.Helper()
	line := []string{command, "--containerd-address=" + s.socket, "--pod-uid=" + podUID, "--termination-log=-", "--timeout=3m"}
	for _, c := range containers {
		arg := "--container=name=" + c.name + ",id=" + c.id
		if command == "commit" {
			arg += ",image=" + s.image(c)
		}
		line = append(line, arg)
	}
	if command == "commit" {
		line = append(line, "--registry-insecure", "--snapshot-uid=77ab")
	}
	cmd := exec.Command(program(s.t, "image-committer"), append(line, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var r result.Result
	if decodeErr := json.Unmarshal(stdout.Bytes(), &r); decodeErr != nil {
		s.t.Fatalf("image-committer %s: %v: %s\n%s", command, err, stdout.String(), stderr.String())
	}
	return r, stderr.String()
}

// until polls with a deadline, and fails with what it saw last.
func (s *stage) until(what string, done func() (saw string, ok bool)) {
	s.t.Helper()
	deadline := time.Now().Add(soon)
	for {
		saw, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %s; last seen: %s", what, soon, saw)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeCgroups removes a cgroup that is empty, and those below it.
func removeCgroups(top string) error {
	var all []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, dir := range slices.Backward(all) {
		err = errors.Join(err, unix.Rmdir(dir))
	}
	return err
}

func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", f[1], err)
			}
		}
	}
	return nil
}
