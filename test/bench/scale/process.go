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
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// process is a program that the bench runs and ends.
type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{}
	// wanted: it is to end.
	wanted atomic.Bool
}

// startProcess starts a program whose output goes to a file in dir. It ends with the bench,
// however that ends.
func startProcess(dir, name, exe string, args, env []string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	//nolint:noctx // it is ended by stop, gracefully, and not by a context
	cmd := exec.Command(exe, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log.Name(), cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	return p, nil
}

// await waits until check succeeds, for as long as the process runs.
func (p *process) await(ctx context.Context, check func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		select {
		case <-p.ended:
			return false, errors.New("it has ended")
		default:
		}
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w: %w\nthe end of %s:\n%s", p.name, err, last, p.log, lastLines(p.log, 15))
	}
	return nil
}

// stop asks the process to end, and makes it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// kill ends the process as a lack of memory would.
func (p *process) kill() {
	p.wanted.Store(true)
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// whenItEnds gives up when the process has ended by itself.
func (p *process) whenItEnds(giveUp context.CancelCauseFunc) {
	go func() {
		<-p.ended
		if !p.wanted.Load() {
			giveUp(fmt.Errorf("%s has ended; the end of %s:\n%s", p.name, p.log, lastLines(p.log, 5)))
		}
	}()
}

func lastLines(file string, count int) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// freeAddresses are loopback addresses that nobody listens on now.
func freeAddresses(count int) ([]string, error) {
	addresses := make([]string, count)
	var listeners []net.Listener
	defer func() {
		for _, listener := range listeners {
			listener.Close()
		}
	}()
	for i := range addresses {
		//nolint:noctx // a socket of this machine, closed at once
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, listener)
		addresses[i] = listener.Addr().String()
	}
	return addresses, nil
}
