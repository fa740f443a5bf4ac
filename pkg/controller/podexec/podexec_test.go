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

package podexec

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

var pod = types.NamespacedName{Namespace: "sandbox-system", Name: "demo-gen1-commit-x"}

// says is what the container's program writes, and how it ends.
type says struct {
	stdout, stderr string
	exit           string // empty: well
}

func (s says) status() []byte {
	status := metav1.Status{Status: metav1.StatusSuccess}
	if s.exit != "" {
		status = metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason, Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: s.exit}},
		}}
	}
	line, _ := json.Marshal(status)
	return line
}

// overWebSocket is what a kube-apiserver does today.
func overWebSocket(t *testing.T, said says) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		connection, err := (&websocket.Upgrader{Subprotocols: []string{remotecommand.StreamProtocolV5Name}}).Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("no WebSocket: %v", err)
			return
		}
		defer connection.Close()
		for _, message := range [][]byte{
			append([]byte{remotecommand.StreamStdOut}, said.stdout...), append([]byte{remotecommand.StreamStdErr}, said.stderr...),
			append([]byte{remotecommand.StreamErr}, said.status()...),
		} {
			if err := connection.WriteMessage(websocket.BinaryMessage, message); err != nil {
				t.Error(err)
			}
		}
		if err := connection.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")); err != nil {
			t.Error(err)
		}
	}
}

// overSPDY is what all of them did before.
func overSPDY(t *testing.T, said says) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{remotecommand.StreamProtocolV4Name}); err != nil {
			t.Errorf("no protocol: %v", err)
			return
		}
		streams := make(chan httpstream.Stream, 3)
		connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
			streams <- stream
			return nil
		})
		if connection == nil {
			return
		}
		defer connection.Close()
		for range 3 {
			stream := <-streams
			content := map[string][]byte{corev1.StreamTypeStdout: []byte(said.stdout), corev1.StreamTypeStderr: []byte(said.stderr), corev1.StreamTypeError: said.status()}
			if _, err := stream.Write(content[stream.Headers().Get(corev1.StreamType)]); err != nil {
				t.Error(err)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		}
		<-connection.CloseChan()
	}
}

func answers(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// hangs until the client, or the test, has ended.
func hangs(t *testing.T) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-t.Context().Done():
		}
	}
}

// upgradesAndHangs until the client has ended.
func upgradesAndHangs(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		connection, err := (&websocket.Upgrader{Subprotocols: []string{remotecommand.StreamProtocolV5Name}}).Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("no WebSocket: %v", err)
			return
		}
		defer connection.Close()
		_, _, _ = connection.ReadMessage()
	}
}

func TestExec(t *testing.T) {
	well := says{stdout: `{"thawed":true}` + "\n", stderr: "level=INFO msg=done\n"}
	badly := says{stdout: `{"error":{}}` + "\n", exit: "1"}
	long := says{stdout: strings.Repeat("x", 3*maxOutput), stderr: strings.Repeat("y", 3*maxOutput)}
	const forbidden = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"no kills here"}`
	cut := errors.New("no answer came in time")
	tests := map[string]struct {
		// byMethod is what is answered to GET, as which a WebSocket begins, and to POST.
		get, post http.HandlerFunc
		// within is how long it may take; 0: as long as it likes.
		within         time.Duration
		stdout, stderr string
		// says is a part of the error.
		says    string
		methods []string
	}{
		"over a WebSocket":                 {get: overWebSocket(t, well), stdout: well.stdout, stderr: well.stderr, methods: []string{"GET"}},
		"ends badly":                       {get: overWebSocket(t, badly), stdout: badly.stdout, says: "exit code 1", methods: []string{"GET"}},
		"writes too much":                  {get: overWebSocket(t, long), stdout: long.stdout[:maxOutput], stderr: long.stderr[:maxOutput], methods: []string{"GET"}},
		"over SPDY":                        {get: answers(400, "no WebSockets here"), post: overSPDY(t, well), stdout: well.stdout, stderr: well.stderr, methods: []string{"GET", "POST"}},
		"ends badly over SPDY":             {get: answers(400, "no WebSockets here"), post: overSPDY(t, badly), stdout: badly.stdout, says: "exit code 1", methods: []string{"GET", "POST"}},
		"the API refuses it":               {get: answers(403, forbidden), says: "no kills here", methods: []string{"GET"}},
		"somebody on the way refuses it":   {get: answers(403, "no"), post: answers(403, "neither"), says: "neither", methods: []string{"GET", "POST"}},
		"there is no container":            {get: answers(404, strings.NewReplacer("Forbidden", "NotFound", "403", "404").Replace(forbidden)), says: "no kills here", methods: []string{"GET"}},
		"nobody answers":                   {get: hangs(t), within: 100 * time.Millisecond, says: cut.Error(), methods: []string{"GET"}},
		"nobody answers over SPDY":         {get: answers(400, "no WebSockets here"), post: hangs(t), within: 300 * time.Millisecond, says: cut.Error(), methods: []string{"GET", "POST"}},
		"nobody answers after the upgrade": {get: upgradesAndHangs(t), within: 300 * time.Millisecond, says: cut.Error(), methods: []string{"GET"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var mutex sync.Mutex
			var methods []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mutex.Lock()
				methods = append(methods, r.Method)
				mutex.Unlock()
				query := r.URL.Query()
				if want := []string{"/image-committer", "kill", "--pod-uid=pod 1"}; r.URL.Path != "/api/v1/namespaces/sandbox-system/pods/demo-gen1-commit-x/exec" ||
					query.Get("container") != "kill" || !slices.Equal(query["command"], want) || query.Get("stdin") != "" || query.Get("tty") != "" {
					t.Errorf("asked for %s", r.URL)
				}
				if got := r.Header.Get("Authorization"); got != "Bearer secret" {
					t.Errorf("asked by %q", got)
				}
				map[string]http.HandlerFunc{"GET": test.get, "POST": test.post}[r.Method](w, r)
			}))
			t.Cleanup(server.CloseClientConnections) // before Close, which waits for them
			client, err := New(&rest.Config{Host: server.URL, BearerToken: "secret"})
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if test.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, test.within, cut)
				defer cancel()
			}
			began := time.Now()
			stdout, stderr, err := client.Exec(ctx, pod, "kill", []string{"/image-committer", "kill", "--pod-uid=pod 1"})
			if took := time.Since(began); test.within > 0 && took > test.within+5*time.Second {
				t.Errorf("it took %s", took)
			}
			if stdout != test.stdout || stderr != test.stderr {
				t.Errorf("it says %.100q and %.100q", stdout, stderr)
			}
			if (err != nil) != (test.says != "") || err != nil && (!strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "container kill of Pod "+pod.String())) {
				t.Errorf("it fails with %v, want %q", err, test.says)
			}
			mutex.Lock()
			defer mutex.Unlock()
			if !slices.Equal(methods, test.methods) {
				t.Errorf("asked by %q, want %q", methods, test.methods)
			}
		})
	}
}

func TestNobodyIsThere(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	client, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Exec(t.Context(), pod, "kill", nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("it fails with %v", err)
	}
}
