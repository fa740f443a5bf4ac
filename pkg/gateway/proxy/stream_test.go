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
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

// BusyBox's wget closes its side behind its request: https://github.com/envoyproxy/envoy/issues/17160.
func TestHalfClosedRequests(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for _, c := range []struct {
		name, request string
		serve         http.HandlerFunc
		want          string
	}{
		{"that is answered later", w.head("GET", "/", "Connection: close"), func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(1500 * time.Millisecond):
				fmt.Fprint(w, "here it is")
			}
		}, "here it is"},
		{"with a body", w.head("POST", "/", "Connection: close", "Content-Length: 4") + "body", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			time.Sleep(200 * time.Millisecond)
			fmt.Fprintf(w, "got %q, %v", body, err)
		}, `got "body", <nil>`},
		{"that is answered while it is sent", w.head("POST", "/", "Connection: close", "Transfer-Encoding: chunked") + "4\r\nbody\r\n0\r\n\r\n",
			func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				_ = http.NewResponseController(w).Flush()
				body, err := io.ReadAll(r.Body)
				time.Sleep(200 * time.Millisecond)
				fmt.Fprintf(w, "got %q, %v", body, err)
			}, `got "body", <nil>`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.serves(c.serve)
			connection := w.raw()
			fmt.Fprint(connection, c.request)
			_ = connection.CloseWrite()
			if response, body := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusOK || body != c.want {
				t.Errorf("%s %q, want %q", response.Status, body, c.want)
			}
		})
	}
}

// A sandbox is told soon that nobody listens any more, though a client that has left looks like one that only has nothing
// more to send.
func TestClientsThatLeave(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for _, c := range []struct {
		name  string
		begin bool
	}{{"before the answer", false}, {"in the middle of the answer", true}} {
		t.Run(c.name, func(t *testing.T) {
			began, left := make(chan struct{}), make(chan struct{})
			w.serves(func(w http.ResponseWriter, r *http.Request) {
				if c.begin {
					fmt.Fprint(w, "something")
					_ = http.NewResponseController(w).Flush()
				}
				close(began)
				<-r.Context().Done()
				close(left)
			})
			connection := w.raw()
			fmt.Fprint(connection, w.head("GET", "/"))
			<-began
			if c.begin {
				// All that came is read: what closes with something unread sends a reset.
				_ = connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				if got, err := io.ReadAll(connection); !strings.Contains(string(got), "something") {
					t.Fatalf("%q, %v", got, err)
				}
			}
			since := time.Now()
			connection.Close()
			select {
			case <-left:
				t.Logf("told after %s", time.Since(since))
			case <-time.After(30 * time.Second):
				t.Fatal("the sandbox still answers nobody after 30 s")
			}
		})
	}
}

// Events arrive one by one, however long the next takes: https://github.com/incidentfox/incidentfox/pull/244,
// https://github.com/docker/sbx-releases/issues/480.
func TestServerSentEvents(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson", ""} {
		w := newWorld(t)
		w.sandbox("demo", nil)
		next := make(chan string)
		w.serves(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			_ = http.NewResponseController(rw).Flush()
			for event := range next {
				fmt.Fprintf(rw, "data: %s\n\n", event)
				_ = http.NewResponseController(rw).Flush()
			}
		})
		response, err := http.DefaultClient.Do(w.request("GET", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for i := range 3 {
			next <- fmt.Sprint(i) // the next is written only once this one has been read
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
				t.Fatalf("%s: %q, %v; want %q", kind, line, err, want)
			}
			_, _ = lines.ReadString('\n')
		}
		close(next)
		response.Body.Close()
	}
}

// A program may answer while it is still being sent to.
func TestBothWaysAtOnce(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_ = http.NewResponseController(rw).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(rw, "got", lines.Text())
			_ = http.NewResponseController(rw).Flush()
		}
	})
	in, out := io.Pipe()
	r := w.request("POST", "/", "")
	r.Body = in
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(out, word)
		if line, err := lines.ReadString('\n'); line != "got "+word+"\n" || err != nil {
			t.Fatalf("%q, %v", line, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// A refusal before the body has been sent reaches who waits for leave to send it.
func TestExpectContinue(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/full" {
			rw.WriteHeader(http.StatusInsufficientStorage)
			return
		}
		echo(rw, r)
	})
	connection := w.raw()
	fmt.Fprint(connection, w.head("PUT", "/full", "Expect: 100-continue", "Content-Length: 1000000", "Connection: close"))
	if response, _ := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("to a PUT that waits: %+v", response)
	}
	connection = w.raw()
	fmt.Fprint(connection, w.head("PUT", "/", "Expect: 100-continue", "Content-Length: 4", "Connection: close"))
	reader := bufio.NewReader(connection)
	if response, _ := next(t, reader); response.StatusCode != http.StatusContinue {
		t.Fatalf("to a PUT that waits: %+v", response)
	}
	fmt.Fprint(connection, "body")
	if response, body := next(t, reader); response.StatusCode != http.StatusOK || body != "body" {
		t.Errorf("%s %q", response.Status, body)
	}
}

// An answer that comes before the request has ended ends it: the rest of the body is not waited for, and nobody reads it at
// the same time as the next request.
func TestAnswersBeforeTheEndOfTheRequest(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.speaks(func(connection *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(connection))
		fmt.Fprint(connection, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\nenough!")
		_ = connection.CloseWrite()
		_, _ = io.Copy(io.Discard, connection)
	})
	for i := range 20 {
		connection := w.raw()
		fmt.Fprint(connection, w.head("POST", "/", "Content-Length: 1000000")+strings.Repeat("x", i*100))
		if response, body := next(t, bufio.NewReader(connection)); response.StatusCode != http.StatusRequestEntityTooLarge || body != "enough!" {
			t.Fatalf("%s %q", response.Status, body)
		}
		connection.Close()
	}
	client := http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	for range 300 { // on one connection, as far as it is kept
		response, err := client.Do(w.request("POST", "/", "a body that is sent while it is refused"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}

func TestTrailersAndInterimResponses(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "1")
	})
	connection := w.raw()
	fmt.Fprint(connection, w.head("GET", "/", "Connection: close", "TE: trailers"))
	reader := bufio.NewReader(connection)
	if response, _ := next(t, reader); response.StatusCode != http.StatusEarlyHints || response.Header.Get("Link") == "" {
		t.Fatalf("%+v", response)
	}
	if response, body := next(t, reader); body != "body" || response.Trailer.Get("X-Sum") != "1" {
		t.Errorf("%q, trailer %v", body, response.Trailer)
	}
}

// A program that has just ended an idle connection does not cost a request: that one gets a connection of its own, or is
// sent again where nothing can have happened.
func TestConnectionsThatEndWhileIdle(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	var answered atomic.Int32
	w.speaks(func(connection *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(connection))
		if err != nil {
			return
		}
		_, _ = io.ReadAll(r.Body)
		answered.Add(1)
		fmt.Fprint(connection, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		// Says nothing of closing, and closes.
	})
	const rounds = 200
	for i := range rounds {
		method := []string{"GET", "POST", "PUT", "DELETE"}[i%4]
		body := map[string]string{"POST": "x", "PUT": "x"}[method]
		if response, got := do(t, w.request(method, "/", body)); response.StatusCode != http.StatusOK || got != "ok" {
			t.Fatalf("request %d, %s: %s %q", i, method, response.Status, got)
		}
	}
	if answered.Load() != rounds {
		t.Errorf("%d requests were received as %d", rounds, answered.Load())
	}
}

// endless is pseudo-random, and known by its sum.
type endless struct {
	source *rand.ChaCha8
	left   int64
	sum    hash.Hash
}

func newEndless(size int64) *endless {
	return &endless{source: rand.NewChaCha8([32]byte{1}), left: size, sum: sha256.New()}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.left)]
	_, _ = e.source.Read(p)
	e.left -= int64(len(p))
	e.sum.Write(p)
	return len(p), nil
}

// Nobody would hear for minutes that a Pod is gone: its address is silent.
func TestStreamsEndWithThePod(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	began := make(chan struct{}, 2)
	w.speaks(func(connection *net.TCPConn) {
		reader := bufio.NewReader(connection)
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") != "" {
			fmt.Fprint(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
		} else {
			fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n\r\nsomething")
		}
		began <- struct{}{}
		_, _ = io.ReadAll(reader) // until the gateway closes
	})
	_, switchedReader := upgrade(t, w, "")
	stream, err := http.DefaultClient.Do(w.request("GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	<-began
	<-began
	if err := w.kube.CoreV1().Pods(tenant).Delete(context.Background(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var ends sync.WaitGroup
	ends.Go(func() { _, _ = io.ReadAll(switchedReader) })
	ends.Go(func() {
		if _, err := io.ReadAll(stream.Body); err == nil {
			t.Error("what there was of the stream is told to be everything")
		}
	})
	done := make(chan struct{})
	go func() { ends.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(25 * time.Second):
		t.Fatal("25 s after its Pod was deleted a stream goes on")
	}
	mustRefuse(t, w.request("GET", "/", ""), http.StatusServiceUnavailable, answer.CodePodIPNotAvailable, "Running")
	if len(w.cluster.lives.uids) > 0 {
		t.Errorf("kept: %v", w.cluster.lives.uids)
	}
}
