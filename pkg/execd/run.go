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
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Exit codes of a program that cannot be started, as a shell has them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// run serves and is the init of its container: it starts the entrypoint, sends on to it and its group what it is sent, reaps
// what loses its parent, and ends as the entrypoint does.
func run(version string, port int, entrypoint []string, stderr io.Writer) int {
	// Before anything is started: a signal that comes early is sent on as well.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	table := newProcesses(true)
	d := newDaemon(version, table)
	stop, err := d.listen(port)
	if err != nil {
		return fail(stderr, 1, err)
	}
	defer stop()

	p, code, err := startEntrypoint(table, entrypoint)
	if err != nil {
		return fail(stderr, code, err)
	}
	for {
		select {
		case <-p.ended:
			return exitCode(p.status)
		case got := <-signals:
			sig, known := got.(syscall.Signal)
			if !known || !sentOn(sig) {
				continue
			}
			_ = p.signal(sig)
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				d.commands.signalAll(sig)
			}
		}
	}
}

// sentOn leaves out what speaks of this process alone: SIGURG, by which Go's scheduler interrupts itself, SIGPIPE of
// connections, and the children that ended.
func sentOn(sig syscall.Signal) bool {
	return sig != syscall.SIGCHLD && sig != syscall.SIGURG && sig != syscall.SIGPIPE
}

// startEntrypoint starts it with this program's own input and output, or returns the exit code that tells why not.
func startEntrypoint(table *processes, argv []string) (*process, int, error) {
	env := environment()
	path, err := lookPath(argv[0], env)
	if errors.Is(err, os.ErrNotExist) {
		return nil, codeNotFound, fmt.Errorf("the entrypoint %q was not found%s: the image has no such program", argv[0], searched(argv[0], env))
	}
	if err != nil {
		return nil, codeNotExecutable, fmt.Errorf("the entrypoint %q cannot be run: %w", argv[0], err)
	}
	attributes := &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	// Who is not in the foreground of his terminal is stopped when he reads from it.
	attributes.Sys.Foreground = terminal(0)
	p, err := table.start(path, argv, attributes)
	if errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EPERM) && attributes.Sys.Foreground {
		attributes.Sys.Foreground = false // another's terminal
		p, err = table.start(path, argv, attributes)
	}
	switch {
	case err == nil:
		return p, 0, nil
	case errors.Is(err, syscall.ENOENT):
		return nil, codeNotFound, fmt.Errorf("the entrypoint %s is there, but not the interpreter or loader that it names", path)
	case errors.Is(err, syscall.ENOEXEC):
		return nil, codeNotExecutable, fmt.Errorf("the entrypoint %s is no program for this machine, and no script: those begin with #! and their interpreter", path)
	default:
		return nil, codeNotExecutable, fmt.Errorf("start the entrypoint %s: %w", path, err)
	}
}

func searched(name string, env []string) string {
	if strings.Contains(name, "/") {
		return ""
	}
	return fmt.Sprintf(" in PATH (%s)", pathOf(env))
}

// lookPath finds a program as a shell does, but never in an empty or relative part of PATH.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	refused := error(os.ErrNotExist)
	for _, directory := range filepath.SplitList(pathOf(env)) {
		if !filepath.IsAbs(directory) || name == "" {
			continue
		}
		path := filepath.Join(directory, name)
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			refused = fmt.Errorf("%s: %w", path, err)
		}
	}
	return "", refused
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return syscall.EISDIR
	}
	const execute = 1 // X_OK of access(2)
	return syscall.Access(path, execute)
}

// terminal says whether the file is one, by the kernel's list of devices: 4 and 5 are consoles, 136 to 143 pseudo terminals.
func terminal(fd int) bool {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFCHR {
		return false
	}
	major := stat.Rdev >> 8 & 0xfff
	return major == 4 || major == 5 || major >= 136 && major <= 143
}

// fail says why, also where `kubectl get pod -o yaml` shows it.
func fail(stderr io.Writer, code int, err error) int {
	fmt.Fprintln(stderr, "execd:", err)
	if file, failed := os.OpenFile("/dev/termination-log", os.O_WRONLY|os.O_TRUNC, 0); failed == nil {
		fmt.Fprintln(file, "execd:", err)
		file.Close()
	}
	return code
}
