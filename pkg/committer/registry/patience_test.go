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
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// short is a patience for tests: longer than a busy machine may pause, and short enough to be waited for.
const short = 700 * time.Millisecond

// noise is content that no compression makes smaller.
func noise(n int) layer.Source {
	return func(ctx context.Context, w io.Writer) error {
		state, piece := uint64(88172645463325252), make([]byte, 64<<10)
		for left := n; left > 0; left -= len(piece) {
			for i := range piece {
				state ^= state << 13
				state ^= state >> 7
				state ^= state << 17
				piece[i] = byte(state)
			}
			if _, err := w.Write(piece); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	}
}

// TestSilence has registries that stop answering, at every step of a commit and in every way:
// each is given up, and known to be the registry's fault.
func TestSilence(t *testing.T) {
	ctx := context.Background()
	push := func(to *Target) error { return to.Upload(ctx, layer.New(ctx, noise(32<<20))) }
	begin := func(to *Target) error { _, err := to.Begin(ctx); return err }
	token := func(w http.ResponseWriter, r *http.Request) {
		answer(http.StatusUnauthorized, "", "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)(w, r)
	}
	tests := map[string]struct {
		do           func(*Target) error
		method, path string
		fault        http.HandlerFunc // before it hangs
		says         string
	}{
		"greeting":             {begin, http.MethodGet, "/v2/", nil, "did not answer"},
		"token":                {begin, http.MethodGet, "/token", nil, "did not answer"},
		"begin of an upload":   {begin, http.MethodPost, "/uploads/", nil, "did not answer"},
		"content is not taken": {push, http.MethodPatch, "/uploads/", nil, "took nothing more of an upload"},
		"content is taken in part": {push, http.MethodPatch, "/uploads/", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 3<<20)
		}, "took nothing more of an upload"},
		"no answer to the content": {push, http.MethodPatch, "/uploads/", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		}, "did not answer"},
		"end of an upload": {push, http.MethodPut, "/uploads/", nil, "did not answer"},
		"small blob": {func(to *Target) error {
			u, err := to.Begin(ctx)
			if err != nil {
				return err
			}
			return u.Put(ctx, []byte("{}"))
		}, http.MethodPut, "/uploads/", nil, "did not answer"},
		"manifest":                        {func(to *Target) error { return to.Publish(ctx, []byte("{}")) }, http.MethodPut, "/manifests/", nil, "did not answer"},
		"manifest, and what looks for it": {func(to *Target) error { return to.Publish(ctx, []byte("{}")) }, http.MethodPut, "/manifests/", nil, "did not answer"},
		"is an image there": {func(to *Target) error {
			_, err := to.client.Look(ctx, to.String(), "sha256:"+strings.Repeat("0", 64))
			return err
		}, http.MethodGet, "/manifests/", nil, "did not answer"},
		"deletion": {func(to *Target) error {
			return to.client.Delete(ctx, to.String(), "sha256:"+strings.Repeat("0", 64))
		}, http.MethodDelete, "/manifests/", nil, "did not answer"},
		"layer of the base": {func(to *Target) error {
			hash, _ := v1.NewHash("sha256:" + strings.Repeat("0", 64))
			content, err := to.client.pull(ctx, to.tag.Repository.Name(), hash)
			if err == nil {
				_, err = io.Copy(io.Discard, content)
			}
			return to.fault("reading", err)
		}, http.MethodGet, "/blobs/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(make([]byte, 10))
			w.(http.Flusher).Flush()
		}, "sent nothing more of its answer"},
		"blob store that it leads to": {func(to *Target) error {
			hash, _ := v1.NewHash("sha256:" + strings.Repeat("0", 64))
			_, err := to.has(ctx, hash)
			return to.fault("looking for a layer of", err)
		}, http.MethodGet, "/store", nil, "did not answer"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := misbehave(t)
			m.with(fault{method: test.method, path: test.path, do: func(w http.ResponseWriter, r *http.Request) {
				if test.fault != nil {
					test.fault(w, r)
				}
				<-m.ended
			}})
			switch test.path {
			case "/token":
				m.with(fault{method: http.MethodGet, path: "/v2/", do: token})
			case "/store":
				m.with(fault{method: http.MethodGet, path: "/blobs/", do: answer(http.StatusTemporaryRedirect, "", "Location", "/store")})
			}
			if strings.Contains(name, "looks for it") {
				m.with(fault{method: http.MethodGet, path: "/manifests/", do: m.hang})
			}
			began := time.Now()
			err := test.do(target(t, Options{Insecure: true, Patience: short}, host(m.Server)+"/a/b:t"))
			if reasonOf(err) != result.RegistryUnavailable || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v (%s) after %s, want it to say %q", err, reasonOf(err), time.Since(began), test.says)
			}
		})
	}
}

// TestSilentAddresses has what is no registry: connections that nobody greets.
func TestSilentAddresses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for _, insecure := range []bool{true, false} {
		_, err := target(t, Options{Insecure: insecure, Patience: short}, listener.Addr().String()+"/a/b:t").Begin(context.Background())
		if reasonOf(err) != result.RegistryUnavailable || !strings.Contains(err.Error(), "did not answer") {
			t.Errorf("insecure %v: got %v (%s)", insecure, err, reasonOf(err))
		}
	}
}

// TestSilenceOfHTTP2 is the same where requests share a connection, and where the connection
// itself is dead.
func TestSilenceOfHTTP2(t *testing.T) {
	ctx := context.Background()
	m := startMisbehaving(t, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() })
	var protocol atomic.Int32
	m.with(fault{method: http.MethodPatch, path: "/uploads/", do: func(w http.ResponseWriter, r *http.Request) {
		protocol.Store(int32(r.ProtoMajor))
		<-m.ended
	}})
	to := target(t, Options{CAFile: caFile(t, m.Server), Patience: short}, host(m.Server)+"/a:t")
	err := to.Upload(InAHurry(ctx), layer.New(ctx, noise(32<<20)))
	if reasonOf(err) != result.RegistryUnavailable || !strings.Contains(err.Error(), "took nothing more of an upload") || protocol.Load() != 2 {
		t.Errorf("HTTP/%d: got %v (%s)", protocol.Load(), err, reasonOf(err))
	}
	if n := m.count(http.MethodPatch, ""); n != readingsInAHurry {
		t.Errorf("the layer was read %d times, want %d", n, readingsInAHurry)
	}
}

// TestADeadConnectionIsNotTheRegistry has a network that has forgotten a connection: the
// request is answered on another one.
func TestADeadConnectionIsNotTheRegistry(t *testing.T) {
	m := misbehave(t)
	m.with(fault{method: http.MethodPut, path: "/manifests/", times: 1, do: m.hang})
	if err := target(t, Options{Insecure: true, Patience: short}, host(m.Server)+"/a/b:t").Publish(context.Background(), []byte("{}")); err != nil {
		t.Error(err)
	}
}

// TestSlowIsNotSilent has what takes longer than the patience, and goes on: a slow source, a
// slow network, and a registry that reads a large blob again before it answers.
func TestSlowIsNotSilent(t *testing.T) {
	ctx := context.Background()
	const short = 3 * time.Second // nothing may be taken for silence on a busy machine
	tests := map[string]struct {
		source layer.Source
		faults func(m *misbehaving) fault
	}{
		"source": {func(ctx context.Context, w io.Writer) error {
			for range 2 {
				time.Sleep(short) // in all twice as long
				if err := noise(2<<20)(ctx, w); err != nil {
					return err
				}
			}
			return nil
		}, nil},
		"network": {noise(32 << 20), func(m *misbehaving) fault {
			return fault{method: http.MethodPatch, path: "/uploads/", times: 1, do: func(w http.ResponseWriter, r *http.Request) {
				piece := make([]byte, 64<<10)
				var taken []byte
				for {
					n, err := io.ReadFull(r.Body, piece)
					if taken = append(taken, piece[:n]...); err != nil {
						break
					}
					time.Sleep(short / 300) // in all more than one and a half times as long
				}
				again := r.Clone(r.Context())
				again.Body = io.NopCloser(strings.NewReader(string(taken)))
				m.inner.ServeHTTP(w, again)
			}}
		}},
		"digest": {noise(100 << 20), func(m *misbehaving) fault {
			return fault{method: http.MethodPut, path: "/uploads/", do: func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(short + time.Second) // of the five for 100 MiB
				m.inner.ServeHTTP(w, r)
			}}
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := misbehave(t)
			if test.faults != nil {
				m.with(test.faults(m))
			}
			to := target(t, Options{Insecure: true, Patience: short}, host(m.Server)+"/a:t")
			if err := to.Upload(ctx, layer.New(ctx, test.source)); err != nil {
				t.Error(err)
			}
			if n := m.count(http.MethodPatch, ""); n != 1 {
				t.Errorf("the layer was uploaded %d times", n)
			}
		})
	}
}

// TestOurOwnFailureIsNotTheRegistrys has a source that fails: nothing is tried again for it. Its request may end before
// the registry has seen it.
func TestOurOwnFailureIsNotTheRegistrys(t *testing.T) {
	ctx := context.Background()
	broken := errors.New("the disk is broken")
	m := misbehave(t)
	l := layer.New(ctx, func(_ context.Context, w io.Writer) error {
		_, _ = w.Write(make([]byte, 4<<20))
		return broken
	})
	err := target(t, Options{Insecure: true}, host(m.Server)+"/a:t").Upload(ctx, l)
	if err == nil || reasonOf(err) == result.RegistryUnavailable || !errors.Is(l.Err(), broken) || m.count(http.MethodPatch, "") > 1 {
		t.Errorf("got %v (%s), of the layer %v, in %d uploads", err, reasonOf(err), l.Err(), m.count(http.MethodPatch, ""))
	}
}

// TestKnownBlobsAreNotSilent uploads what knows its size, whose body HTTP reads in another way.
func TestKnownBlobsAreNotSilent(t *testing.T) {
	m := misbehave(t)
	blob := static.NewLayer(make([]byte, 5<<20), types.OCILayer)
	if err := target(t, Options{Insecure: true, Patience: short}, host(m.Server)+"/a:t").Upload(context.Background(), blob); err != nil {
		t.Error(err)
	}
}
