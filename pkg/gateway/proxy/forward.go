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
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// connectTimeout bounds how long a Pod may take to accept a connection. Nothing else has a limit.
	connectTimeout = 10 * time.Second
	// idleConnections are kept to a Pod's port for what may be asked twice, for less than programs keep them: Node and
	// uvicorn end idle ones after 5 s, gunicorn after 2 s.
	idleConnections, idleTime = 32, 1500 * time.Millisecond
	// copyBuffer is what is moved at a time.
	copyBuffer = 32 << 10
	// transportBuffer is what is read of an answer at a time until its body is; copyBuffer is no less.
	transportBuffer = 4 << 10
)

// DialFunc connects to a Pod.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// forwarder sends requests to Pods.
type forwarder struct {
	cluster *cluster
	dial    DialFunc
	// again is for requests that may be sent again where the program has just ended the idle connection that they went out
	// on: net/http does that. Others get a connection of their own, for nobody could say whether they were received.
	again, once *http.Transport
}

func newForwarder(c *cluster, dial DialFunc) *forwarder {
	f := &forwarder{cluster: c, dial: dial}
	f.again = &http.Transport{
		DialContext: f.connect, MaxIdleConnsPerHost: idleConnections, MaxIdleConns: 16 * idleConnections, IdleConnTimeout: idleTime,
		DisableCompression: true, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 1 << 20,
		ReadBufferSize: transportBuffer,
	}
	f.once = f.again.Clone()
	f.once.DisableKeepAlives = true
	return f
}

func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	safe := r.Body == nil && verbOf(r.Method) == verbGet
	if safe {
		return f.again.RoundTrip(r)
	}
	return f.once.RoundTrip(r)
}

// connect dials a Pod that is named by its UID. Connections are kept by that name, so none to a Pod that is gone is ever
// used for another which has got its address; and the address is looked up, and looked at, when it is dialled.
func (f *forwarder) connect(ctx context.Context, network, address string) (net.Conn, error) {
	uid, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	pod := f.cluster.podByUID(types.UID(uid))
	if pod == nil {
		return nil, errPodGone
	}
	ip, err := addressOf(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return f.dial(ctx, network, netip.AddrPortFrom(ip, uint16(number)).String())
}

var buffers = bufferPool{sync.Pool{New: func() any { return new([copyBuffer]byte) }}}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte  { return p.Pool.Get().(*[copyBuffer]byte)[:] }
func (p *bufferPool) Put(b []byte) { p.Pool.Put((*[copyBuffer]byte)(b)) }

// forward has a Pod answer a request. Where it cannot, failed gets why.
func (f *forwarder) forward(w http.ResponseWriter, r *http.Request, route route, pod *corev1.Pod, failed func(http.ResponseWriter, error)) {
	control := http.NewResponseController(w)
	// What a server has for requests of its own must not end a stream. Not every writer has these; http.Server's has.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	// A program may answer while it is still being sent to; without this net/http reads a request to its end first.
	_ = control.EnableFullDuplex()

	client, r, leave := newClient(w, r)
	defer leave()
	life := f.cluster.life(pod.UID)
	defer context.AfterFunc(life, leave)()

	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	var connection net.Conn
	r = connectionOf(r, &connection)
	proxy := httputil.ReverseProxy{
		Transport: f, FlushInterval: -1, BufferPool: &buffers, ErrorLog: errorLog,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", net.JoinHostPort(string(pod.UID), strconv.Itoa(int(route.port)))
			setPath(p.Out, route.rest)
			p.Out.URL.RawQuery, p.Out.URL.ForceQuery = p.In.URL.RawQuery, p.In.URL.ForceQuery
			// Programs compare Origin with Host, and write Host into what they answer.
			p.Out.Host = p.In.Host
			setRequestHeaders(p.Out.Header, p.In.Header, p.In.TLS != nil, remote, p.In.Host, route)
			if id := w.Header().Get("X-Request-Id"); id != "" {
				p.Out.Header.Set("X-Request-Id", id)
			}
		},
		ModifyResponse: func(response *http.Response) error {
			if err := checkSwitch(response); err != nil {
				return err
			}
			setResponseHeaders(response.Header, w.Header(), r.Host, route)
			splice(response, connection, client)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			switch {
			case life.Err() != nil:
				err = errPodGone
			case r.Context().Err() != nil: // nobody is there to be told
				panic(http.ErrAbortHandler)
			}
			failed(w, err)
		},
	}
	proxy.ServeHTTP(client, r)
}

// setPath sets a path as it is. URL.RawPath would have some characters escaped that need not be.
func setPath(r *http.Request, escaped string) {
	if !strings.HasPrefix(escaped, "//") {
		r.URL.Opaque = escaped
		return
	}
	// As Opaque it would be taken for a host.
	r.URL.Opaque, r.URL.RawPath = "", escaped
	if path, err := r.URL.Parse(escaped[1:]); err == nil {
		r.URL.Path = "/" + path.Path
	}
}

// checkSwitch finds an answer that switches protocols where none was asked for, or to another. ReverseProxy does so as
// well, but keeps the connection to the Pod.
func checkSwitch(response *http.Response) error {
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	wanted := response.Request.Header.Get("Upgrade")
	if got := response.Header.Get("Upgrade"); wanted == "" || !strings.EqualFold(wanted, got) {
		return fmt.Errorf("%w to %q, asked for %q", errSwitched, got, wanted)
	}
	return nil
}

var errSwitched = errors.New("the program in the sandbox switched protocols")

// errorLog is for what ReverseProxy says: of streams that end early, which is nobody's fault here.
var errorLog = log.New(logged{}, "", 0)

type logged struct{}

var _ io.Writer = logged{}

func (logged) Write(line []byte) (int, error) {
	klog.V(4).InfoS("The proxy of a sandbox", "message", strings.TrimSpace(string(line)))
	return len(line), nil
}
