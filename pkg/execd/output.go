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
	"io"
	"os"
	"syscall"
	"time"
)

// pipe is what a command prints to. It needs no disk, and a reader that is slow slows the command down.
type pipe struct {
	read, write *os.File
}

// newPipe returns a pipe whose owner is the command's user: another could not open /dev/stdout again
// (https://github.com/moby/moby/issues/31243).
func newPipe(credential *syscall.Credential) (*pipe, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if credential != nil {
		_ = write.Chown(int(credential.Uid), int(credential.Gid))
	}
	return &pipe{read, write}, nil
}

// close is for a pipe that nobody uses; nil is none.
func (p *pipe) close() {
	if p != nil {
		p.read.Close()
		p.write.Close()
	}
}

// follow hands on what a command prints until it has ended, all of it, and not what others print to the same pipe later:
// a server that a command leaves in the background keeps the pipe open, and its caller would wait for ever. The pipe is
// read on for those, who would die of SIGPIPE else.
func (p *pipe) follow(ended <-chan struct{}, sink func([]byte)) {
	p.write.Close()
	over := make(chan struct{})
	go func() {
		select {
		case <-ended:
			_ = p.read.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	defer close(over)

	buffer := make([]byte, 16<<10)
	for {
		n, err := p.read.Read(buffer)
		if n > 0 {
			sink(buffer[:n])
		}
		if err == nil {
			continue
		}
		if !os.IsTimeout(err) {
			p.read.Close()
			return
		}
		break
	}
	p.rest(buffer, sink)
	go func() {
		_, _ = io.Copy(io.Discard, p.read)
		p.read.Close()
	}()
}

// rest hands on what is in the pipe: no more than there is room for, as somebody else may go on to write.
func (p *pipe) rest(buffer []byte, sink func([]byte)) {
	_ = p.read.SetReadDeadline(time.Time{})
	raw, err := p.read.SyscallConn()
	if err != nil {
		return
	}
	left := 64 << 10
	const getPipeSize = 1032 // F_GETPIPE_SZ of fcntl(2)
	_ = raw.Control(func(fd uintptr) {
		if size, _, failed := syscall.Syscall(syscall.SYS_FCNTL, fd, getPipeSize, 0); failed == 0 {
			left = int(size)
		}
	})
	for left > 0 {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), buffer[:min(left, len(buffer))])
			return true // also where there is nothing: the file does not block
		})
		if err != nil || n <= 0 {
			return
		}
		sink(buffer[:n])
		left -= n
	}
}
