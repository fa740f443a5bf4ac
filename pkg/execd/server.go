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

package execd

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// TokenHeader carries the token of TokenVariable.
const TokenHeader = "X-EXECD-ACCESS-TOKEN"

// maxBody limits bodies that are read whole; files are not.
const maxBody = 64 << 20

// daemon answers the SDKs.
type daemon struct {
	version  string
	token    string
	mux      *http.ServeMux
	commands *commands
	sessions *sessions
	metrics  *metrics
}

func newDaemon(version string, table *processes) *daemon {
	d := &daemon{
		version:  version,
		token:    os.Getenv(TokenVariable),
		mux:      http.NewServeMux(),
		commands: newCommands(table),
		sessions: newSessions(),
		metrics:  newMetrics("/"),
	}
	for path, methods := range d.routes() {
		d.mux.HandleFunc(path, methods.serve)
	}
	d.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { answer(w, d.noPath(r)) })
	return d
}

func (d *daemon) noPath(r *http.Request) error {
	return problem(http.StatusNotFound, codeNotSupported, "%s is no path of execd %s", r.URL.Path, d.version)
}

// methods are what can be done with a path.
type methods map[string]func(http.ResponseWriter, *http.Request) error

// routes is the protocol on a page.
func (d *daemon) routes() map[string]methods {
	return map[string]methods{
		"/ping": {"GET": func(http.ResponseWriter, *http.Request) error { return nil }},

		"/command":          {"POST": d.runCommand, "DELETE": d.interrupt},
		"/command/{a}/{b}":  {"GET": d.commandState}, // status/{id} and {id}/logs
		"/session":          {"POST": d.createSession},
		"/session/{id}":     {"DELETE": d.deleteSession},
		"/session/{id}/run": {"POST": d.runInSession},

		"/files":             {"DELETE": removeFiles},
		"/files/info":        {"GET": filesInfo},
		"/files/download":    {"GET": download, "HEAD": download},
		"/files/upload":      {"POST": upload},
		"/files/mv":          {"POST": moveFiles},
		"/files/permissions": {"POST": setPermissions},
		"/files/replace":     {"POST": replaceContents},
		"/files/search":      {"GET": searchFiles},
		"/directories":       {"POST": makeDirectories, "DELETE": removeDirectories},
		"/directories/list":  {"GET": listDirectory},

		"/metrics":       {"GET": d.currentMetrics},
		"/metrics/watch": {"GET": d.watchMetrics},
	}
}

func (m methods) serve(w http.ResponseWriter, r *http.Request) {
	do, known := m[r.Method]
	if !known {
		var allowed []string
		for method := range m {
			allowed = append(allowed, method)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		answer(w, problem(http.StatusMethodNotAllowed, codeNotSupported, "%s cannot be done with %s", r.Method, r.URL.Path))
		return
	}
	if err := do(w, r); err != nil {
		answer(w, err)
	}
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if id := r.Header.Get("X-Request-ID"); id != "" {
		w.Header().Set("X-Request-ID", id)
	}
	if browser(r) && fromHere(r) {
		answer(w, problem(http.StatusForbidden, codeNotSupported, "a page in a browser of this sandbox asks; whoever made it could run commands here. Use another program, or come through the gateway"))
		return
	}
	if d.token != "" && !same(r.Header.Get(TokenHeader), d.token) {
		answer(w, problem(http.StatusUnauthorized, "UNAUTHORIZED", "the header %s does not have the token of %s", TokenHeader, TokenVariable))
		return
	}
	d.mux.ServeHTTP(w, r)
}

// browser says whether a page asks. Programs send neither header.
func browser(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// fromHere says whether somebody in the sandbox asks, or comes by a port that is forwarded into it.
func fromHere(r *http.Request) bool {
	remote, _, _ := net.SplitHostPort(r.RemoteAddr)
	if address, err := netip.ParseAddr(remote); err == nil && address.Unmap().IsLoopback() {
		return true
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return false
	}
	own, _, _ := net.SplitHostPort(local.String())
	return own == remote
}

// same takes the same time whatever the texts are, and however long.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// readJSON reads a body. An empty one is an error unless it may be missing.
func readJSON(w http.ResponseWriter, r *http.Request, into any, mayBeMissing bool) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil, mayBeMissing && errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, codeInvalidBody, "the body has more than %d MiB; POST /files/upload takes files of any size", maxBody>>20)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return problem(http.StatusBadRequest, codeInvalidBody, "%s cannot be a JSON %s", wrongType.Field, wrongType.Value)
	default:
		return problem(http.StatusBadRequest, codeInvalidBody, "the body is not the JSON that is wanted here: %v", err)
	}
}

func writeJSON(w http.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body)
	return nil
}
