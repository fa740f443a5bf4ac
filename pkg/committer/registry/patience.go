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
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a registry may be silent: from the request to the answer, and
	// between any two pieces of an upload or an answer. Containers may be frozen meanwhile.
	patience = 30 * time.Second

	// digestRate is how much of a blob a registry is given a second for, before it has to
	// answer: nothing comes until it has read the blob again for its digest and moved it to
	// its place, which is a copy where the storage is an object store (distribution with S3,
	// and all that is built on it). Slow disks read no slower than this; ten gigabytes have
	// nine minutes, and a small blob has the same time as any request.
	digestRate = 20 << 20

	// piece is how much of an upload is given to the connection at once: it has moved when the
	// connection has taken it.
	piece = 256 << 10
)

// silentError is what a request fails with whose other side went silent.
type silentError struct {
	host, what string
	after      time.Duration
}

func (e *silentError) Error() string {
	return fmt.Sprintf("%s %s for %s", e.host, e.what, e.after.Round(time.Millisecond))
}

// Timeout and Temporary make it a net.Error.
func (e *silentError) Timeout() bool   { return true }
func (e *silentError) Temporary() bool { return true }

// connectionError is a failure of the connection itself, whatever type net/http gives it.
type connectionError struct{ err error }

func (e *connectionError) Error() string { return e.err.Error() }
func (e *connectionError) Unwrap() error { return e.err }

// sentKey finds the *atomic.Int64 in a context that counts what was uploaded with it.
type sentKey struct{}

// counting returns a context for the requests of one blob: the last of them, which has no
// body, is answered when the registry has read all that the others have sent.
func counting(ctx context.Context) context.Context {
	return context.WithValue(ctx, sentKey{}, new(atomic.Int64))
}

// patient gives a request up when the other side has been silent for too long, be it a
// registry, its token server or a blob store. It never counts the time that we take
// ourselves: to make the next piece of an upload, or to read the next one of an answer.
type patient struct {
	inner    *http.Transport
	patience time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t patient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	w := &watch{host: r.URL.Host, patience: t.patience, cancel: cancel}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Int64); ok {
		w.sent = sent
	} else {
		w.sent = new(atomic.Int64)
	}
	w.expect("did not answer", w.answerTime())
	watched := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		watched.Body = &sending{ReadCloser: r.Body, watch: w}
		if again := r.GetBody; again != nil {
			watched.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				if err != nil {
					return nil, err
				}
				return &sending{ReadCloser: body, watch: w}, nil
			}
		}
	}
	answer, err := t.inner.RoundTrip(watched)
	if err != nil {
		w.end()
		if w.silent() != nil {
			// What is idle may be as dead: the next request is to have a connection of its own.
			t.inner.CloseIdleConnections()
		}
		return nil, w.explain(r.Context(), err)
	}
	w.answered()
	answer.Body = &receiving{ReadCloser: answer.Body, watch: w, refusal: answer.StatusCode >= http.StatusBadRequest}
	return answer, nil
}

// watch is over one request.
type watch struct {
	host     string
	patience time.Duration
	cancel   context.CancelCauseFunc
	sent     *atomic.Int64

	mu sync.Mutex
	// timer runs while the other side is to do something, which is what.
	timer *time.Timer
	turn  int // tells a timer that fires that it is not the last one
	// headers is that the answer has begun, or that there is none: the rest of the upload does
	// not matter then.
	headers bool
	// own is what failed at our side: reading the upload's content.
	own    error
	failed *silentError
}

func (w *watch) answerTime() time.Duration {
	return w.patience + time.Duration(float64(w.sent.Load())/digestRate*float64(time.Second))
}

// expect gives the other side time for what it is to do next.
func (w *watch) expect(what string, time time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start(what, time)
}

func (w *watch) start(what string, after time.Duration) {
	w.stop()
	turn := w.turn
	w.timer = time.AfterFunc(after, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.turn == turn && w.failed == nil {
			w.failed = &silentError{host: w.host, what: what, after: after}
			w.cancel(w.failed)
		}
	})
}

func (w *watch) stop() {
	w.turn++
	if w.timer != nil {
		w.timer.Stop()
	}
}

// during and after are around what we do ourselves for the upload: nothing is expected
// meanwhile, and what was given is the other side's to take then. After the end of the
// upload (err) it is to answer.
func (w *watch) during() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.headers {
		w.stop()
	}
}

func (w *watch) after(given int, err error) {
	w.sent.Add(int64(given))
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) && w.own == nil {
		w.own = err
	}
	switch {
	case w.headers:
	case err != nil:
		w.start("did not answer", w.answerTime())
	default:
		w.start("took nothing more of an upload", w.patience)
	}
}

func (w *watch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.headers = true
	w.stop()
}

// pause ends what was expected.
func (w *watch) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop()
}

func (w *watch) end() {
	w.answered()
	w.cancel(nil)
}

func (w *watch) silent() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		return nil
	}
	return w.failed
}

// explain tells why a request has failed: the silence, our side, its context, or the network.
func (w *watch) explain(ctx context.Context, err error) error {
	if silent := w.silent(); silent != nil {
		return silent
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.own != nil || ctx.Err() != nil {
		return err
	}
	return &connectionError{err}
}

// sending is the body of a request.
type sending struct {
	io.ReadCloser
	watch *watch
}

// Read implements io.Reader. What it returned last has been taken when it is called again.
func (s *sending) Read(p []byte) (int, error) {
	s.watch.during()
	n, err := s.ReadCloser.Read(p)
	s.watch.after(n, err)
	return n, err
}

// WriteTo implements io.WriterTo, which layers have reason to be sent by.
func (s *sending) WriteTo(w io.Writer) (int64, error) {
	s.watch.during()
	to := &taking{Writer: w, watch: s.watch}
	var n int64
	var err error
	if source, ok := s.ReadCloser.(io.WriterTo); ok {
		n, err = source.WriteTo(to)
	} else {
		n, err = io.Copy(to, struct{ io.Reader }{s.ReadCloser})
	}
	switch {
	case err == nil:
		s.watch.after(0, io.EOF)
	case !to.failed:
		s.watch.after(0, err)
	}
	return n, err
}

// Close implements io.Closer. A body may be closed before its end was read, when its length
// is known.
func (s *sending) Close() error {
	s.watch.during()
	defer s.watch.after(0, io.EOF)
	return s.ReadCloser.Close()
}

// taking is where a body writes itself to.
type taking struct {
	io.Writer
	watch  *watch
	failed bool
}

func (t *taking) Write(p []byte) (written int, err error) {
	for err == nil && written < len(p) {
		next := p[written:min(written+piece, len(p))]
		t.watch.after(len(next), nil)
		var n int
		n, err = t.Writer.Write(next)
		written += n
		t.watch.during()
	}
	t.failed = t.failed || err != nil
	return written, err
}

// receiving is the body of an answer.
type receiving struct {
	io.ReadCloser
	watch *watch
	// refusal is that the status tells already what matters, whatever becomes of the words.
	refusal bool
}

func (r *receiving) Read(p []byte) (int, error) {
	r.watch.expect("sent nothing more of its answer", r.watch.patience)
	n, err := r.ReadCloser.Read(p)
	r.watch.pause()
	switch {
	case err == nil:
	case r.refusal:
		err = io.EOF
	default:
		if silent := r.watch.silent(); silent != nil {
			err = silent
		}
	}
	return n, err
}

func (r *receiving) Close() error {
	defer r.watch.end()
	return r.ReadCloser.Close()
}
