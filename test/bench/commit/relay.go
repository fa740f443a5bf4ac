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
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay is before the registry and counts what is sent there, as the network would: it reads no HTTP, and the kernel copies.
type relay struct {
	listener net.Listener
	// sent counts bytes of connections that have ended.
	sent, connections atomic.Int64
}

func relayTo(ctx context.Context, address string) (*relay, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			r.connections.Add(1)
			go func() {
				defer r.connections.Add(-1)
				r.pass(ctx, client.(*net.TCPConn), address)
			}()
		}
	}()
	return r, nil
}

func (r *relay) pass(ctx context.Context, client *net.TCPConn, address string) {
	defer func() { _ = client.Close() }()
	dialed, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return // whose client sees a connection that is closed
	}
	registry := dialed.(*net.TCPConn)
	defer func() { _ = registry.Close() }()
	var there sync.WaitGroup
	there.Go(func() {
		n, _ := io.Copy(registry, client)
		r.sent.Add(n)
		_ = registry.CloseWrite()
	})
	_, _ = io.Copy(client, registry)
	_ = client.Close() // the registry has closed it: nobody reads what would still come
	there.Wait()
}
