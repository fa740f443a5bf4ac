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
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// net/http ends a request's context when a client's side of the connection ends, be it gone or only done with sending:
// BusyBox's wget, for one, closes its side behind each request (https://github.com/envoyproxy/envoy/issues/17160). The
// two look alike until something is sent. Here a client that has closed its side before its answer began, or at the end of
// what it sent while the answer was coming already, waits for the rest; one that closes at any other time has left.
const (
	// leavingTick is how often a connection whose client has closed its side is looked at.
	leavingTick = time.Second
	// silence is how long such a client may wait for the beginning of its answer before it is sent an interim response,
	// which a client that has left refuses, and any other skips.
	silence = 3 * time.Second
	// lastWord is how soon after the end of its request a client that is being answered already closes its side, if it
	// does so because it has nothing more to send.
	lastWord = time.Second
	// skipping is for how long what is left of a body is skipped when the request has been answered.
	skipping = time.Second
)

var interim = []byte("HTTP/1.1 100 Continue\r\n\r\n")

type connectionKey struct{}

// ConnContext is to be the http.Server's: by it the proxy finds a request's connection.
func ConnContext(ctx context.Context, connection net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, connection)
}

// client is the other end of a request, for as long as it is answered.
type client struct {
	http.ResponseWriter
	request    *http.Request
	connection net.Conn
	body       *readBody // nil: the request has none

	mu       sync.Mutex // held where something is sent that is not the answer
	answered bool       // the answer has begun
}

// newClient returns the client of a request, and the request with a context that ends when the client has left. When it has
// been answered, leave must be called.
func newClient(w http.ResponseWriter, r *http.Request) (c *client, out *http.Request, leave context.CancelFunc) {
	c = &client{ResponseWriter: w, request: r}
	c.connection, _ = r.Context().Value(connectionKey{}).(net.Conn)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	stop := context.AfterFunc(r.Context(), func() {
		c.awaitLeaving(ctx)
		cancel()
	})
	out = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		c.body = &readBody{ReadCloser: r.Body}
		out.Body = c.body
	}
	return c, out, func() {
		stop()
		cancel()
		c.body.stop(w)
	}
}

// awaitLeaving returns when a client whose side has ended has left, or the context has ended.
func (c *client) awaitLeaving(ctx context.Context) {
	if !c.onlyDoneSending() {
		return
	}
	tick := time.NewTicker(leavingTick)
	defer tick.Stop()
	for since := time.Now(); halfClosed(c.connection); {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !since.IsZero() && now.Sub(since) >= silence {
				c.ask()
				since = time.Time{}
			}
		}
	}
}

func (c *client) onlyDoneSending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connection == nil || !halfClosed(c.connection) {
		return false
	}
	if !c.answered {
		return true
	}
	return c.body != nil && c.body.endedWithin(lastWord)
}

// ask sends what is not the answer, where that may be.
func (c *client) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.answered && c.request.ProtoAtLeast(1, 1) {
		_, _ = c.connection.Write(interim)
	}
}

func (c *client) beginAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
}

// WriteHeader implements http.ResponseWriter.
func (c *client) WriteHeader(status int) {
	if status >= http.StatusOK {
		c.beginAnswer()
		if c.body != nil && c.body.ended.Load() == 0 {
			// With both ways open at once net/http would take what is left of a body for the next request, or panic
			// where it has skipped it.
			c.Header().Set("Connection", "close")
		}
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.mu.Lock() // not into the middle of it
	defer c.mu.Unlock()
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (c *client) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Hijack implements http.Hijacker. The connection has what the client sent before it was told that protocols are switched:
// httputil.ReverseProxy would lose that (https://github.com/golang/go/issues/80875).
func (c *client) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c.beginAnswer()
	connection, buffered, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil || buffered.Reader.Buffered() == 0 {
		return connection, buffered, err
	}
	return &hijacked{Conn: connection, early: buffered.Reader}, buffered, nil
}

// hijacked is a connection of which some has been read already.
type hijacked struct {
	net.Conn
	early *bufio.Reader
}

func (h *hijacked) Read(p []byte) (int, error) {
	if n := h.early.Buffered(); n > 0 {
		return h.early.Read(p[:min(len(p), n)])
	}
	return h.Conn.Read(p)
}

// CloseWrite is what tells the client that the sandbox has nothing more to send.
func (h *hijacked) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// readBody is a request's body, of which is known when it had been read, and which the Transport, which may still be at it
// when its request has been answered, does not read any more then.
type readBody struct {
	io.ReadCloser
	over  atomic.Bool
	ended atomic.Int64 // in Unix nanoseconds; 0: not yet
	mu    sync.Mutex   // held while it is read
}

func (b *readBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.CompareAndSwap(0, time.Now().UnixNano())
	}
	return n, err
}

func (b *readBody) endedWithin(d time.Duration) bool {
	ended := b.ended.Load()
	return ended != 0 && time.Since(time.Unix(0, ended)) < d
}

// stop returns when nobody but the server reads it, nor will; and that not for long.
func (b *readBody) stop(w http.ResponseWriter) {
	if b == nil {
		return
	}
	b.over.Store(true)
	if !b.mu.TryLock() {
		// Whoever reads waits for a client that may never send it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		b.mu.Lock()
	}
	b.mu.Unlock()
	if b.ended.Load() == 0 {
		// For the server to skip some of it: a client that is still sending would else lose its answer to a reset.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(skipping))
	}
}

// plain is the TCP connection below TLS.
func plain(connection net.Conn) (*net.TCPConn, bool) {
	if secure, ok := connection.(*tls.Conn); ok {
		connection = secure.NetConn()
	}
	tcp, ok := connection.(*net.TCPConn)
	return tcp, ok
}
