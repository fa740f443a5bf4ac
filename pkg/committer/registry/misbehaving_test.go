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

package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// misbehaving is a registry that can be made to do what registries, proxies before them and
// networks do.
type misbehaving struct {
	*httptest.Server
	t     *testing.T
	inner http.Handler
	// ended is closed at the end of the test: what hangs ends then.
	ended chan struct{}

	mu       sync.Mutex
	faults   []*fault
	requests []string
}

type fault struct {
	// method and path are a request's, the path in part. After how many such requests it
	// comes and for how many; zero is all of them.
	method, path string
	after, times int
	do           http.HandlerFunc
	// late is that the registry has done what was asked before.
	late bool
}

func misbehave(t *testing.T, faults ...fault) *misbehaving {
	return startMisbehaving(t, func(s *httptest.Server) { s.Start() }, faults...)
}

func startMisbehaving(t *testing.T, start func(*httptest.Server), faults ...fault) *misbehaving {
	t.Helper()
	m := &misbehaving{t: t, inner: inMemory(), ended: make(chan struct{})}
	m.with(faults...)
	m.Server = httptest.NewUnstartedServer(m)
	start(m.Server)
	t.Cleanup(func() {
		close(m.ended)
		m.Server.CloseClientConnections()
		m.Server.Close()
	})
	return m
}

func (m *misbehaving) with(faults ...fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range faults {
		m.faults = append(m.faults, &faults[i])
	}
}

// count is how many requests of the method had this in their path.
func (m *misbehaving) count(method, path string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, request := range m.requests {
		if strings.HasPrefix(request, method+" ") && strings.Contains(request, path) {
			n++
		}
	}
	return n
}

func (m *misbehaving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if found := m.find(r); found != nil {
		if found.late {
			m.inner.ServeHTTP(httptest.NewRecorder(), r)
		}
		found.do(w, r)
		return
	}
	m.inner.ServeHTTP(w, r)
}

func (m *misbehaving) find(r *http.Request) *fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, r.Method+" "+r.URL.Path)
	for _, f := range m.faults {
		if f.method != r.Method || !strings.Contains(r.URL.Path, f.path) {
			continue
		}
		if f.after > 0 {
			f.after--
			continue
		}
		switch {
		case f.times == 0:
			return f
		case f.times > 0:
			if f.times--; f.times == 0 {
				f.times = -1
			}
			return f
		}
	}
	return nil
}

// hang never answers.
func (m *misbehaving) hang(http.ResponseWriter, *http.Request) { <-m.ended }

// answer answers with a status and a body.
func answer(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

// cut ends the connection.
func cut(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = c.Close()
	}
}
