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

// Package writers are processes that write without pause and tell an observer outside, through a Unix socket, what they
// have written; and what tells afterwards how much of it is there.
package writers

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds are the ways to write. Each has a process of its own, a child of a child of the first.
var Kinds = []string{"append", "mapped", "rename", "in-place"}

// pace is how long a writer rests between two writes.
const pace = 200 * time.Microsecond

// Start starts one process of each kind, and another between it and this one, that write below dir and tell the socket.
// It returns when all have ended, which they do not by themselves.
func Start(ctx context.Context, self, dir, socket string) error {
	var children []*exec.Cmd
	for _, kind := range Kinds {
		child := exec.CommandContext(ctx, self, "parent", kind, dir, socket)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return err
		}
		children = append(children, child)
	}
	var failed error
	for _, child := range children {
		failed = errors.Join(failed, child.Wait())
	}
	return failed
}

// Parent starts the process that writes.
func Parent(ctx context.Context, self, kind, dir, socket string) error {
	child := exec.CommandContext(ctx, self, "write", kind, dir, socket)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	return child.Run()
}

// Write writes 1, 2, 3 and so on, and acknowledges each to the socket after it was written.
func Write(ctx context.Context, kind, dir, socket string) error {
	path := filepath.Join(dir, kind)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	var write func(n uint64) error
	switch kind {
	case "append":
		write = func(n uint64) error {
			_, err := fmt.Fprintln(file, n)
			return err
		}
	case "mapped":
		if err := file.Truncate(8); err != nil {
			return err
		}
		memory, err := unix.Mmap(int(file.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		write = func(n uint64) error {
			binary.LittleEndian.PutUint64(memory, n)
			return nil
		}
	case "rename":
		write = func(n uint64) error {
			if err := os.WriteFile(path+".next", []byte(strconv.FormatUint(n, 10)), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".next", path)
		}
	case "in-place":
		write = func(n uint64) error {
			_, err := file.WriteAt(binary.LittleEndian.AppendUint64(nil, n), 0)
			return err
		}
	default:
		return fmt.Errorf("no kind %q: there are %q", kind, Kinds)
	}
	observer, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer observer.Close()
	for n := uint64(1); ; n++ {
		if err := write(n); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(observer, "%s %d\n", kind, n); err != nil {
			return err
		}
		time.Sleep(pace)
	}
}

// Written is the last number that each kind has left below dir. Of those that were appended none may be missing.
func Written(dir string) (map[string]uint64, error) {
	last := map[string]uint64{}
	for _, kind := range Kinds {
		content, err := os.ReadFile(filepath.Join(dir, kind))
		if err != nil {
			return nil, err
		}
		switch kind {
		case "append":
			last[kind], err = count(string(content))
		case "rename":
			last[kind], err = strconv.ParseUint(string(content), 10, 64)
		default:
			if len(content) != 8 {
				return nil, fmt.Errorf("%s has %d bytes", kind, len(content))
			}
			last[kind] = binary.LittleEndian.Uint64(content)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
	}
	return last, nil
}

// count checks that the lines are numbered without a gap. The last may be half written.
func count(content string) (uint64, error) {
	lines := strings.Split(content, "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != strconv.Itoa(i+1) {
			return 0, fmt.Errorf("line %d is %q", i+1, line)
		}
	}
	return uint64(len(lines) - 1), nil
}

// Observe calls acknowledged with what one writer tells, until it ends.
func Observe(writer io.Reader, acknowledged func(kind string, n uint64)) {
	for lines := bufio.NewScanner(writer); lines.Scan(); {
		kind, number, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			acknowledged(kind, n)
		}
	}
}
