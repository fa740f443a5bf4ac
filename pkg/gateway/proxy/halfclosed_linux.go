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

package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// halfClosed says whether the other side of a connection has ended and may still read: Linux calls that CLOSE_WAIT, and
// leaves it when the other side answers something that it is sent with a reset.
func halfClosed(connection net.Conn) bool {
	tcp, ok := plain(connection)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		waits = err == nil && info.State == unix.BPF_TCP_CLOSE_WAIT
	})
	return err == nil && waits
}
