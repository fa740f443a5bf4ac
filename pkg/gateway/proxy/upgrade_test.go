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
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	upgrader := websocket.Upgrader{Subprotocols: []string{"two", "three"}} // checks that Origin is Host
	w.serves(func(rw http.ResponseWriter, r *http.Request) {
		connection, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer connection.Close()
		for {
			kind, message, err := connection.ReadMessage()
			if err != nil {
				return
			}
			if err := connection.WriteMessage(kind, message); err != nil {
				return
			}
		}
	})
	header := http.Header{identity.HeaderKey: {goodKey}, "Origin": {w.url}}
	dialer := websocket.Dialer{Subprotocols: []string{"one", "two"}, HandshakeTimeout: time.Minute}
	connection, response, err := dialer.Dial(strings.Replace(w.url, "http", "ws", 1)+"/sandboxes/demo/proxy/8080/ws?x=y", header) //nolint:bodyclose // the WebSocket has the connection
	if err != nil {
		t.Fatalf("%v (%+v)", err, response)
	}
	defer connection.Close()
	// A subprotocol is the program's choice: https://github.com/jupyterhub/jupyter-server-proxy/issues/442.
	if got := connection.Subprotocol(); got != "two" {
		t.Errorf("subprotocol %q", got)
	}
	for _, size := range []int{0, 1, 125, 70_000, 3 << 20} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if err := connection.WriteMessage(websocket.BinaryMessage, sent); err != nil {
			t.Fatal(err)
		}
		_, got, err := connection.ReadMessage()
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("message of %d bytes: %d bytes came back, %v", size, len(got), err)
		}
	}
	_ = connection.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(time.Minute))
	var closed *websocket.CloseError
	if _, _, err := connection.ReadMessage(); !errors.As(err, &closed) || closed.Code != 4001 {
		t.Errorf("after a close with 4001: %v", err)
	}
}

// switched answers an upgrade on a raw connection.
func switched(connection *net.TCPConn) *bufio.Reader {
	reader := bufio.NewReader(connection)
	if _, err := http.ReadRequest(reader); err != nil {
		return nil
	}
	fmt.Fprint(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
	return reader
}

func upgrade(t *testing.T, w *world, early string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	connection := w.raw()
	fmt.Fprint(connection, w.head("GET", "/", "Connection: Upgrade", "Upgrade: raw")+early)
	reader := bufio.NewReader(connection)
	if response, body := next(t, reader); response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != "raw" {
		t.Fatalf("upgrade: %+v, %s", response, body)
	}
	return connection, reader
}

// Either side may end while the other goes on: https://github.com/golang/go/issues/35892,
// https://github.com/caddyserver/caddy/issues/8026.
func TestHalfClosedUpgrades(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	t.Run("by the client", func(t *testing.T) {
		w.speaks(func(connection *net.TCPConn) {
			all, err := io.ReadAll(switched(connection))
			fmt.Fprintf(connection, "got %q, %v", all, err)
		})
		connection, reader := upgrade(t, w, "")
		fmt.Fprint(connection, "everything")
		_ = connection.CloseWrite()
		if got, err := io.ReadAll(reader); string(got) != `got "everything", <nil>` || err != nil {
			t.Errorf("after the client closed its side: %q, %v", got, err)
		}
	})
	t.Run("by the sandbox", func(t *testing.T) {
		got := make(chan string, 1)
		w.speaks(func(connection *net.TCPConn) {
			reader := switched(connection)
			fmt.Fprint(connection, "all that I say")
			_ = connection.CloseWrite()
			all, err := io.ReadAll(reader)
			got <- fmt.Sprintf("%q, %v", all, err)
		})
		connection, reader := upgrade(t, w, "")
		if said, err := io.ReadAll(reader); string(said) != "all that I say" || err != nil {
			t.Errorf("the sandbox said %q, %v", said, err)
		}
		fmt.Fprint(connection, "still here")
		_ = connection.CloseWrite()
		if got := <-got; got != `"still here", <nil>` {
			t.Errorf("after the sandbox closed its side it got %s", got)
		}
	})
	// https://github.com/golang/go/issues/80875
	t.Run("by a client that did not wait", func(t *testing.T) {
		w.speaks(func(connection *net.TCPConn) {
			all, err := io.ReadAll(switched(connection))
			fmt.Fprintf(connection, "got %q, %v", all, err)
		})
		connection := w.raw()
		fmt.Fprint(connection, w.head("GET", "/", "Connection: Upgrade", "Upgrade: raw")+"sent before it was told")
		_ = connection.CloseWrite()
		got, err := io.ReadAll(connection)
		if !strings.HasPrefix(string(got), "HTTP/1.1 101 ") || !strings.HasSuffix(string(got), `got "sent before it was told", <nil>`) || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A program that switches to what nobody asked for is no way around HTTP.
func TestUnaskedUpgrades(t *testing.T) {
	w := newWorld(t)
	w.sandbox("demo", nil)
	ended := make(chan error, 2)
	w.speaks(func(connection *net.TCPConn) {
		_, err := io.ReadAll(switched(connection))
		ended <- err
	})
	mustRefuse(t, w.request("GET", "/", ""), http.StatusBadGateway, answer.CodeBackendConnectionFailed, "switched protocols")
	r := w.request("GET", "/", "")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	mustRefuse(t, r, http.StatusBadGateway, answer.CodeBackendConnectionFailed, "switched protocols")
	for range 2 {
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatal("the connection to the sandbox is kept")
		}
	}
}
