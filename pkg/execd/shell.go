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
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errNoShell says what commands need. Everything else works without.
var errNoShell = errors.New("this image has neither bash nor sh, in PATH or /bin, and a command is a line for a shell: " +
	"files and directories can be used all the same; for commands take an image that has a shell")

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// task is a command line and how it is to be run.
type task struct {
	Command    string            `json:"command"`
	Directory  string            `json:"cwd"`
	Background bool              `json:"background"`
	Timeout    int64             `json:"timeout"` // ms; 0 is none
	UID        *int64            `json:"uid"`
	GID        *int64            `json:"gid"`
	Variables  map[string]string `json:"envs"`
}

func (t *task) validate() error {
	invalid := func(format string, args ...any) error { return problem(400, codeInvalidBody, format, args...) }
	const maxID = 1<<32 - 2
	switch {
	case strings.TrimSpace(t.Command) == "":
		return invalid("command is empty")
	case strings.Contains(t.Command, "\x00"):
		return invalid("command holds a NUL, which no program can be given")
	case strings.Contains(t.Directory, "\x00"):
		return invalid("cwd holds a NUL, which no path can")
	case t.Timeout < 0:
		return invalid("timeout is %d; it is in milliseconds, and 0 is no limit", t.Timeout)
	case t.GID != nil && t.UID == nil:
		return invalid("gid is given without uid")
	case t.UID != nil && (*t.UID < 0 || *t.UID > maxID):
		return invalid("uid %d is no user", *t.UID)
	case t.GID != nil && (*t.GID < 0 || *t.GID > maxID):
		return invalid("gid %d is no group", *t.GID)
	}
	for name, value := range t.Variables {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return invalid("envs has %q, which cannot be a variable", name)
		}
	}
	return nil
}

// credential is the user that the task runs as; nil is the daemon's own.
func (t *task) credential() *syscall.Credential {
	if t.UID == nil {
		return nil
	}
	c := &syscall.Credential{Uid: uint32(*t.UID)}
	if account, err := user.LookupId(strconv.FormatInt(*t.UID, 10)); err == nil {
		c.Gid = number(account.Gid)
		if groups, err := account.GroupIds(); err == nil {
			for _, group := range groups {
				c.Groups = append(c.Groups, number(group))
			}
		}
	}
	if t.GID != nil {
		c.Gid = uint32(*t.GID)
	}
	if int(c.Uid) == syscall.Geteuid() && (t.GID == nil || int(c.Gid) == syscall.Getegid()) {
		return nil // what it is already, and only root may ask for
	}
	return c
}

func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}

// environment is the container's, without the token, and with a PATH.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, TokenVariable+"=") })
	if pathOf(env) == "" {
		env = append(env, "PATH="+defaultPath)
	}
	return env
}

func pathOf(env []string) string { return valueOf(env, "PATH") }

func valueOf(env []string, name string) string {
	for _, entry := range slices.Backward(env) {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}

// with sets variables.
func with(env []string, variables map[string]string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := variables[name]
		return replaced
	})
	for name, value := range variables {
		env = append(env, name+"="+value)
	}
	return env
}

// variables is the environment of the task.
func (t *task) environment(c *syscall.Credential) []string {
	env := with(environment(), fileVariables())
	if c != nil && int(c.Uid) != syscall.Geteuid() {
		home := map[string]string{"HOME": "/"}
		if account, err := user.LookupId(strconv.FormatUint(uint64(c.Uid), 10)); err == nil {
			home = map[string]string{"HOME": account.HomeDir, "USER": account.Username, "LOGNAME": account.Username}
		}
		env = with(env, home)
	}
	return with(env, t.Variables)
}

// fileVariables are the lines NAME=value of the file that EXECD_ENVS names; it is read for each command.
func fileVariables() map[string]string {
	path := os.Getenv("EXECD_ENVS")
	if path == "" {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	variables := map[string]string{}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		name, value, found := strings.Cut(line, "=")
		if found && name != "" && !strings.HasPrefix(line, "#") {
			variables[name] = os.ExpandEnv(value)
		}
	}
	return variables
}

// shell finds bash, or sh where there is none, as the reference does.
func shell(env []string) (string, error) {
	for _, name := range []string{"bash", "sh"} {
		for _, candidate := range []string{name, "/bin/" + name} {
			if path, err := lookPath(candidate, env); err == nil {
				return path, nil
			}
		}
	}
	return "", errNoShell
}

// maxArgument is what the kernel takes as one argument, less the NUL (MAX_ARG_STRLEN).
const maxArgument = 128<<10 - 1

// launch is a program that is about to be started. Its files after standard input, output and error are extra.
type launch struct {
	path       string
	argv       []string
	env        []string
	directory  string
	credential *syscall.Credential
	extra      []*os.File // closed by start
}

// prepare finds what the task needs. The script is to be set.
func (t *task) prepare() (*launch, error) {
	l := &launch{credential: t.credential()}
	l.env = t.environment(l.credential)
	path, err := shell(l.env)
	if err != nil {
		return nil, err
	}
	l.path, l.argv = path, []string{path, "-c", ""}
	if t.Directory != "" {
		if l.directory, err = absolute(t.Directory); err != nil {
			return nil, err
		}
		if info, err := os.Stat(l.directory); err != nil {
			return nil, fmt.Errorf("cwd: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("cwd: %s is not a directory", l.directory)
		}
	}
	return l, nil
}

// script sets it. One that is longer than an argument may be is read by the shell from a pipe.
func (l *launch) script(script string) error {
	l.argv[2] = script
	if len(script) <= maxArgument {
		return nil
	}
	p, err := newPipe(l.credential)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.WriteString(p.write, script)
		p.write.Close()
	}()
	l.extra = append(l.extra, p.read)
	l.argv[2] = fmt.Sprintf(". /proc/self/fd/%d", 2+len(l.extra))
	return nil
}

// start runs it, with nothing to read.
func (l *launch) start(table *processes, stdout, stderr *os.File) (*process, error) {
	defer l.close()
	input, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer input.Close()
	files := []uintptr{input.Fd(), stdout.Fd(), stderr.Fd()}
	for _, file := range l.extra {
		files = append(files, file.Fd())
	}
	p, err := table.start(l.path, l.argv, &syscall.ProcAttr{
		Dir: l.directory, Env: l.env, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true, Credential: l.credential},
	})
	if err == nil {
		return p, nil
	}
	as := ""
	if l.credential != nil {
		as = fmt.Sprintf(" as user %d, group %d (execd runs as user %d)", l.credential.Uid, l.credential.Gid, syscall.Geteuid())
	}
	in := ""
	if l.directory != "" {
		in = " in " + l.directory
	}
	return nil, fmt.Errorf("start %s%s%s: %w", l.path, in, as, err)
}

func (l *launch) close() {
	for _, file := range l.extra {
		file.Close()
	}
	l.extra = nil
}
