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

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

const (
	headerRequestID = "X-Request-ID"
	// base is what the document's paths are below of, or not.
	base = "/v1"
)

// withRequest gives every request its id, which every answer carries.
func withRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := inbound.Request{ID: r.Header.Get(headerRequestID), Host: r.Host}
		if !validRequestID(request.ID) {
			request.ID = uuid.NewString()
		}
		if r.URL.Path == base || strings.HasPrefix(r.URL.Path, base+"/") {
			request.Base = base
		}
		w.Header().Set(headerRequestID, request.ID)
		next.ServeHTTP(w, r.WithContext(inbound.With(r.Context(), request)))
	})
}

// validRequestID is whether a client's id may be written into headers and logs.
func validRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	return !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// recovered has a panic answered as any error is, unless the answer has begun already.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := &begun{ResponseWriter: w}
		//nolint:contextcheck // The request has it.
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if err, ok := reason.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(http.ErrAbortHandler)
			}
			klog.FromContext(r.Context()).Error(nil, "A request ended in a panic", "request", inbound.From(r.Context()).ID,
				"method", r.Method, "panic", fmt.Sprint(reason), "stack", string(debug.Stack()))
			if watched.yes {
				panic(http.ErrAbortHandler)
			}
			answer.Write(w, r, errors.New("panic"))
		}()
		next.ServeHTTP(watched, r)
	})
}

// begun knows whether an answer has begun.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) WriteHeader(status int) {
	b.yes = b.yes || status >= http.StatusOK
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(data []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(data)
}

func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// bounded is for requests that are answered from the document: none is large, and none takes long.
func bounded(next http.Handler, maxBody int64, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBody {
			w.Header().Set("Connection", "close")
			answer.Write(w, r, answer.Errorf(http.StatusRequestEntityTooLarge, answer.CodeBodyTooLarge,
				"the request's body has %d bytes, and may have %d", r.ContentLength, maxBody))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		r = r.WithContext(ctx)
		if r.Body != nil && r.Body != http.NoBody {
			// A body that does not come is not waited for, either.
			connection := http.NewResponseController(w)
			_ = connection.SetReadDeadline(time.Now().Add(timeout))
			r.Body = &timely{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), connection: connection}
		}
		next.ServeHTTP(w, r)
	})
}

// timely is a body whose connection has a deadline until it is read. Beyond that the server reads on, to see whether the client is
// still there, and takes a deadline that passes for the client's end: of this request, and of every later one of the connection.
type timely struct {
	io.ReadCloser
	connection *http.ResponseController
}

func (b *timely) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.connection.SetReadDeadline(time.Time{})
	}
	return n, err
}

// unprefixed leads requests below /v1 to the document's paths. What else it mends is what clients leave out, or call
// otherwise.
func unprefixed(next http.Handler) http.Handler {
	strip := http.StripPrefix(base, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if media := r.Header.Get("Content-Type"); media == "" || strings.HasPrefix(media, "application/merge-patch+json") {
			r.Header.Set("Content-Type", "application/json")
		}
		if inbound.From(r.Context()).Base == base {
			strip.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func notFound(w http.ResponseWriter, r *http.Request) {
	answer.Write(w, r, answer.Errorf(http.StatusNotFound, answer.CodePathNotFound, "there is no path %q; /openapi.json has those that are", path(r)))
}

func notAllowed(w http.ResponseWriter, r *http.Request, allowed string) {
	allowed = strings.ReplaceAll(allowed, ",", ", ")
	w.Header().Set("Allow", allowed)
	answer.Write(w, r, answer.Errorf(http.StatusMethodNotAllowed, answer.CodeMethodNotAllowed, "%s is not for path %q: %s", r.Method, path(r), allowed))
}

// path is a request's as the client has written it.
func path(r *http.Request) string { return inbound.From(r.Context()).Base + r.URL.Path }
