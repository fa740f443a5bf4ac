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

// Command inside is what runs in the containers of these tests.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	// What a test starts beside it is told to end by its stage.
	signal.Ignore(syscall.SIGHUP)
	for _, job := range os.Args[1:] {
		switch {
		case job == "fuse":
			go serve(mountFuse(), 0)
		case job == "slowfuse":
			go serve(mountFuse(), 20*time.Millisecond)
		case len(job) > 6 && job[:6] == "count:":
			go count(job[6:], 300*time.Microsecond)
		case len(job) > 8 && job[:8] == "process:":
			start(job[8:])
		default:
			panic("what is " + job + "?")
		}
	}
	select {}
}

// start runs count in a process of its own.
func start(file string) {
	if _, err := os.StartProcess("/inside", []string{"inside", "count:" + file}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}); err != nil {
		panic(err)
	}
}

// count writes how often it has, with a system call for each.
func count(file string, pause time.Duration) {
	runtime.LockOSThread()
	var f *os.File
	for f == nil {
		var err error
		if f, err = os.OpenFile(file, os.O_WRONLY, 0); errors.Is(err, os.ErrNotExist) {
			f, err = os.Create(file)
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // somebody is about to mount it
		}
	}
	for n := 1; ; n++ {
		if _, err := f.WriteAt([]byte(fmt.Sprintf("%010d", n)), 0); err != nil {
			panic(err)
		}
		time.Sleep(pause)
	}
}

const fuseFile = "/shared/fuse"

// mountFuse mounts a file system in user space that is one file.
func mountFuse() int {
	if err := os.WriteFile(fuseFile, nil, 0o644); err != nil {
		panic(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	if err := unix.Mount("inside", fuseFile, "fuse", 0, "fd="+strconv.Itoa(fd)+",rootmode=100000,user_id=0,group_id=0,allow_other"); err != nil {
		panic(err)
	}
	return fd
}

// Of the kernel's protocol, as far as one file needs it.
// https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h
const (
	opGetattr, opSetattr, opOpen, opWrite, opInit = 3, 4, 14, 16, 26
	opRelease, opFlush                            = 18, 25
	opForget, opInterrupt                         = 2, 36
)

// serve answers requests, one after the other. Who waits for one that has been read cannot be interrupted.
func serve(fd int, takes time.Duration) {
	le := binary.LittleEndian
	request := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, request)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			panic(err)
		}
		time.Sleep(takes)
		op, id, in := le.Uint32(request[4:]), request[8:16], request[40:n]
		var out []byte
		var fault unix.Errno
		switch op {
		case opForget, opInterrupt:
			continue
		case opInit:
			out = make([]byte, 64)
			le.PutUint32(out, 7)
			le.PutUint32(out[4:], 31)
			le.PutUint32(out[20:], 4096) // the largest write
		case opGetattr, opSetattr:
			out = make([]byte, 16+88)
			le.PutUint64(out[16:], 1)           // inode
			le.PutUint64(out[24:], 10)          // size
			le.PutUint32(out[16+60:], 0o100644) // mode
			le.PutUint32(out[16+64:], 1)        // links
		case opOpen:
			out = make([]byte, 16)
			le.PutUint32(out[8:], 1) // past the page cache
		case opWrite:
			out = make([]byte, 8)
			le.PutUint32(out, le.Uint32(in[16:]))
		case opRelease, opFlush:
		default:
			fault = unix.ENOSYS
		}
		answer := make([]byte, 16, 16+len(out))
		le.PutUint32(answer, uint32(16+len(out)))       //nolint:gosec // a hundred bytes
		le.PutUint32(answer[4:], uint32(-int32(fault))) //nolint:gosec // the kernel's way to say it
		copy(answer[8:], id)
		if _, err := unix.Write(fd, append(answer, out...)); err != nil && !errors.Is(err, unix.ENOENT) {
			panic(err)
		}
	}
}
