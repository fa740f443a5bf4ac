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

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	namespace     = "bench-commit"
	imageName     = "bench.local/base:1"
	containerName = "main"

	baseRepository = "base"
)

// stage is a containerd with a running container, and a registry.
type stage struct {
	o          *options
	dir        string
	containerd *exec.Cmd
	socket     string
	relay      *relay
	registry   string // the relay's host:port
	layers     []layer
	second     bool // no repository has the layers
	main       *container
	beside     *container // of a case with a volume
	stops      []func() error
}

type container struct {
	id, podUID string
	root       string // its root directory, as it sees it
	upper      string // what it changed
}

// open starts everything for one case, with nothing left of an earlier one.
func open(ctx context.Context, o *options, c testCase) (_ *stage, err error) {
	if err := removeDir(o.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	s := &stage{o: o, dir: o.dir, second: c.second}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.startContainerd(ctx); err != nil {
		return nil, err
	}
	if err := s.startRegistry(ctx); err != nil {
		return nil, err
	}
	archive := filepath.Join(s.dir, "base.tar")
	if s.layers, err = writeImage(archive, imageName, c); err != nil {
		return nil, err
	}
	if _, err := s.ctr(ctx, "images", "import", archive); err != nil {
		return nil, err
	}
	if !c.second {
		for _, l := range s.layers {
			p := &pipeline{}
			p.add(ctx, "cat", l.path)
			if err := p.push(ctx, s.registry, baseRepository); err != nil {
				return nil, err
			}
		}
	}
	if s.main, err = s.startContainer(ctx, "bench", c.volume); err != nil {
		return nil, err
	}
	if err := s.main.change(c); err != nil || c.volume == "" {
		return s, err
	}
	if s.beside, err = s.startContainer(ctx, "bench-beside", ""); err != nil {
		return nil, err
	}
	return s, s.beside.change(c)
}

func (s *stage) startContainerd(ctx context.Context) error {
	s.socket = filepath.Join(s.dir, "containerd.sock")
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
		return err
	}
	var err error
	if s.containerd, err = s.start("containerd", "--config", file); err != nil {
		return err
	}
	return s.await(ctx, "containerd", func() error {
		_, err := s.ctr(ctx, "version")
		return err
	})
}

func (s *stage) startRegistry(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	config := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", filepath.Join(s.dir, "registry"), address)
	file := filepath.Join(s.dir, "registry.yml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	if _, err := s.start("registry", "serve", file); err != nil {
		return err
	}
	if s.relay, err = relayTo(ctx, address); err != nil {
		return err
	}
	s.stops = append(s.stops, s.relay.listener.Close)
	s.registry = s.relay.listener.Addr().String()
	return s.await(ctx, "the registry", func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
}

// startContainer runs it with the labels of a Pod's, for image-committer asks for those, and what the image declares as a
// volume mounted from where containerd's CRI plugin has it.
func (s *stage) startContainer(ctx context.Context, name, volume string) (*container, error) {
	c := &container{id: fmt.Sprintf("%s-%d", name, os.Getpid()), podUID: name + "-pod"}
	args := []string{"run", "--detach", "--null-io"}
	for _, label := range []string{"io.kubernetes.pod.uid=" + c.podUID, "io.kubernetes.container.name=" + containerName, "io.cri-containerd.kind=container"} {
		args = append(args, "--label", label)
	}
	if volume != "" {
		source := filepath.Join(s.dir, "root", "io.containerd.grpc.v1.cri", "containers", c.id, "volumes", "bench")
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, err
		}
		args = append(args, "--mount", fmt.Sprintf("type=bind,src=%s,dst=%s,options=rbind:rw", source, volume))
	}
	args = append(args, imageName, c.id, "/bench", sandboxCommand)
	if _, err := s.ctr(ctx, args...); err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_, _ = s.ctr(ctx, "tasks", "resume", c.id) // as far as an interrupted run left it frozen
		_, err := s.ctr(ctx, "tasks", "delete", "--force", c.id)
		return err
	})
	list, err := s.ctr(ctx, "tasks", "list")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == c.id {
			c.root = "/proc/" + f[1] + "/root"
		}
	}
	mounts, err := s.ctr(ctx, "snapshots", "mounts", "/x", c.id)
	if err != nil {
		return nil, err
	}
	for option := range strings.FieldsFuncSeq(mounts, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			c.upper = upper
		}
	}
	if c.root == "" || c.upper == "" {
		return nil, fmt.Errorf("no process or no upper directory of the container in %q, %q", list, mounts)
	}
	return c, nil
}

// settling is more than what a commit takes for new (pkg/committer/overlay).
const settling = 7 * time.Second

// change makes the case's changes in the container.
func (c *container) change(of testCase) error {
	if of.fill != nil {
		if err := of.fill(filepath.Join(c.root, of.volume)); err != nil {
			return err
		}
	}
	if of.settled {
		time.Sleep(settling)
	}
	if of.busy {
		return os.WriteFile(c.root+"/busy", nil, 0o644)
	}
	return nil
}

// start starts a program of the directory of programs, which close ends again.
func (s *stage) start(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.o.bin, name), args...) //nolint:noctx // it is ended in order, by close
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+s.o.bin+":"+os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it was told to end
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-time.After(10 * time.Second):
			return cmd.Process.Kill()
		}
	})
	return cmd, nil
}

func (s *stage) await(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer (its log is in %s): %w", what, s.dir, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// close ends everything, the last first.
func (s *stage) close() error {
	var all []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		all = append(all, s.stops[i]())
	}
	s.stops = nil
	return errors.Join(all...)
}

// ctrArgs is a command line of containerd's own client.
func (s *stage) ctrArgs(args ...string) []string {
	return append([]string{filepath.Join(s.o.bin, "ctr"), "--address", s.socket, "--namespace", namespace}, args...)
}

func (s *stage) ctr(ctx context.Context, args ...string) (string, error) {
	line := s.ctrArgs(args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// removeDir removes what an earlier run left, with the mounts of its container.
func removeDir(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			if err := syscall.Unmount(f[1], syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", f[1], err)
			}
		}
	}
	return os.RemoveAll(dir)
}
