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
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What is large goes through as it comes: neither the gateway's memory nor its patience ends it.
func TestLargeBodies(t *testing.T) {
	size := int64(16 << 20)
	w := newWorld(t)
	w.sandbox("demo", nil)
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			if r.URL.Path == "/known" {
				rw.Header().Set("Content-Length", fmt.Sprint(size))
			}
			_, _ = io.Copy(rw, newEndless(size))
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(rw, "%d %x %v", n, sum.Sum(nil), err)
	})
	var want string
	for _, path := range []string{"/known", "/chunked"} {
		body := newEndless(size)
		r := w.request("POST", path, "")
		r.Body = io.NopCloser(body)
		if path == "/known" {
			r.ContentLength = size
		}
		_, got := do(t, r)
		want = fmt.Sprintf("%x", body.sum.Sum(nil))
		if got != fmt.Sprintf("%d %s <nil>", size, want) {
			t.Errorf("up, %s: %s, want %s", path, got, want)
		}
		response, err := http.DefaultClient.Do(w.request("GET", path, ""))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if n, err := io.Copy(sum, response.Body); n != size || err != nil || fmt.Sprintf("%x", sum.Sum(nil)) != want {
			t.Errorf("down, %s: %d bytes, %x, %v; want %s", path, n, sum.Sum(nil), err, want)
		}
		response.Body.Close()
	}
}

// What has come with the headers, and what the kernel moves after it, are one body, wherever in a buffer that begins.
func TestWhereALargeBodyBegins(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	body := make([]byte, spliceFrom+5)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(body)
	w.speaks(func(connection *net.TCPConn) {
		reader := bufio.NewReader(connection)
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			var padding, apart int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d/%d", &padding, &apart)
			head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Padding: %s\r\n\r\n", len(body), strings.Repeat("x", padding))
			_, _ = connection.Write(append([]byte(head), body[:apart]...))
			if apart < transportBuffer {
				time.Sleep(time.Millisecond) // so that it is likely read by itself
			}
			_, _ = connection.Write(body[apart:])
		}
	})
	for _, padding := range []int{0, 1, 1000, 3900, 4000, 4020, 4040, 5000, 9000} {
		for _, apart := range []int{0, 1, 100, len(body)} {
			response, got := do(t, w.request("GET", fmt.Sprintf("/%d/%d", padding, apart), ""))
			if response.StatusCode != http.StatusOK || got != string(body) {
				t.Errorf("%d bytes of padding, %d bytes of the body with the headers: %s, %d bytes", padding, apart, response.Status, len(got))
			}
		}
	}
}

// A download that the sandbox breaks off is not called whole.
func TestBrokenOffDownloads(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	for name, begun := range map[string]string{
		"chunked":           "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"of a known length": "Content-Length: 8\r\n\r\nhalf",
		"large":             fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 4*spliceFrom, strings.Repeat("half", spliceFrom/2)),
	} {
		w.speaks(func(connection *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(connection))
			fmt.Fprint(connection, "HTTP/1.1 200 OK\r\n"+begun)
			_ = connection.CloseWrite()
			_, _ = io.Copy(io.Discard, connection)
		})
		response, err := http.DefaultClient.Do(w.request("POST", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); err == nil || len(body)%4 != 0 || len(body) == 0 {
			t.Errorf("%s: %d bytes are told to be everything: %v", name, len(body), err)
		}
		response.Body.Close()
	}
}
