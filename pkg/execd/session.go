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
	"bytes"
	"net/http"
	"os"
	"strings"
	"sync"
)

// session is a place and variables that outlive the commands run in it, one after the other. Each has a shell of its own,
// that writes down both at its end: so a command that ends its shell, or has a syntax error, ends no session.
type session struct {
	id   string
	turn chan struct{} // has an element while a command runs

	mu        sync.Mutex
	directory string
	exports   string // as `export -p` prints them; empty: those of the daemon
	running   *command
	deleted   bool
}

type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

func newSessions() *sessions { return &sessions{byID: map[string]*session{}} }

func (s *sessions) get(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func noSession(id string) error {
	return problem(http.StatusNotFound, codeContextNotFound, "there is no session %q; those of before a pause are forgotten", id)
}

// createSession is POST /session {cwd}. A directory that is not there is made.
func (d *daemon) createSession(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		Directory string `json:"cwd"`
	}
	if err := readJSON(w, r, &request, true); err != nil {
		return err
	}
	if _, err := shell(environment()); err != nil {
		return problem(http.StatusNotImplemented, codeNotSupported, "%v", err)
	}
	s := &session{id: newID(), turn: make(chan struct{}, 1)}
	if request.Directory != "" {
		directory, err := absolute(request.Directory)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
		s.directory = directory
	}
	d.sessions.mu.Lock()
	d.sessions.byID[s.id] = s
	d.sessions.mu.Unlock()
	return writeJSON(w, map[string]string{"session_id": s.id})
}

// runInSession is POST /session/{id}/run {command, cwd, timeout}. A second command waits for the first.
func (d *daemon) runInSession(w http.ResponseWriter, r *http.Request) error {
	s := d.sessions.get(r.PathValue("id"))
	if s == nil {
		return noSession(r.PathValue("id"))
	}
	var t task
	if err := readJSON(w, r, &t, false); err != nil {
		return err
	}
	if err := t.validate(); err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	defer func() { <-s.turn }()

	own := t.Directory == "" // else the place is for this command alone
	s.mu.Lock()
	if s.deleted {
		s.mu.Unlock()
		return noSession(s.id)
	}
	if own {
		t.Directory = s.directory
	}
	exports := s.exports
	cmd := newCommand(s.id, t.Command)
	s.running = cmd
	s.mu.Unlock()

	l, err := t.prepare()
	var state *pipe
	if err == nil {
		state, err = newPipe(l.credential)
	}
	if err == nil {
		l.extra = append(l.extra, state.write)
		if exports != "" {
			l.env = []string{"PWD=" + l.directory}
			// The exports name the last command's place.
			exports += "\nPWD=" + quote(l.directory)
		}
		err = l.script(sessionScript(exports, t.Command))
	}
	saved := d.foreground(w, &t, cmd, l, err, state)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	if directory, exports, complete := savedState(saved); complete {
		s.exports = exports
		if own {
			s.directory = directory
		}
	}
	return nil
}

// sessionScript runs a command between what the last one left and what it leaves itself, which goes to file 3. The command
// is a word for eval, so that a quote or here-document that it does not end swallows nothing of what follows.
func sessionScript(exports, command string) string {
	return `__execd_state() { printf '%s\0' "$PWD" >&3; export -p >&3; printf '\0' >&3; }
trap __execd_state EXIT
` + exports + `
eval ` + quote(command+"\n") + `
__execd_code=$?
__execd_state
exit "$__execd_code"
`
}

// quote makes one word of any text.
func quote(text string) string { return `'` + strings.ReplaceAll(text, `'`, `'\''`) + `'` }

// savedState reads the last that __execd_state wrote whole: a shell may be killed while it writes.
func savedState(saved []byte) (directory, exports string, complete bool) {
	parts := bytes.Split(saved, []byte{0}) // the last is what no NUL ends
	if whole := (len(parts) - 1) / 2 * 2; whole >= 2 {
		return string(parts[whole-2]), string(parts[whole-1]), true
	}
	return "", "", false
}

func (s *session) interrupt() {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if running != nil {
		running.stop()
	}
}

// deleteSession is DELETE /session/{id}. What runs in it is ended.
func (d *daemon) deleteSession(_ http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	d.sessions.mu.Lock()
	s := d.sessions.byID[id]
	delete(d.sessions.byID, id)
	d.sessions.mu.Unlock()
	if s == nil {
		return noSession(id)
	}
	s.mu.Lock()
	s.deleted = true
	s.mu.Unlock()
	s.interrupt()
	return nil
}
