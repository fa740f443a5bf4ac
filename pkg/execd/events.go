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
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// event is one line of a stream. The SDKs know the types init, stdout, stderr, error, execution_complete and ping.
type event struct {
	Type          string     `json:"type"`
	Text          string     `json:"text,omitempty"`
	ExecutionTime *int64     `json:"execution_time,omitempty"` // ms
	Timestamp     int64      `json:"timestamp"`                // ms since 1970
	Error         *execError `json:"error,omitempty"`
}

// execError tells of a command that did not end well.
type execError struct {
	Name      string   `json:"ename"`
	Value     string   `json:"evalue"` // the exit code; a text where it never ran
	Traceback []string `json:"traceback"`
}

// stream writes events as they come, each a JSON object on a line of its own and an empty line after it: the reference's
// form, which its SDKs read in place of "data:" lines. What cannot be written any more is dropped.
type stream struct {
	mu     sync.Mutex
	w      http.ResponseWriter
	flush  func() error
	buffer []byte
	gone   bool
}

func newStream(w http.ResponseWriter) *stream {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	return &stream{w: w, flush: http.NewResponseController(w).Flush}
}

func (s *stream) send(e event) {
	e.Timestamp = time.Now().UnixMilli()
	line, _ := json.Marshal(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer = append(append(s.buffer, line...), "\n\n"...)
	s.write()
}

// output sends what the lines are that a chunk ends. All of a chunk goes out at once.
func (s *stream) output(kind string, l *lines, chunk []byte, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	end := `,"timestamp":` + timestamp() + "}\n\n"
	emit := func(line []byte) {
		s.buffer = append(append(s.buffer, `{"type":"`...), kind...)
		s.buffer = appendJSON(append(s.buffer, `","text":`...), line)
		s.buffer = append(s.buffer, end...)
	}
	l.split(chunk, emit)
	if last {
		l.rest(emit)
	}
	s.write()
}

func timestamp() string {
	text, _ := json.Marshal(time.Now().UnixMilli())
	return string(text)
}

// write sends the buffer. The lock is held.
func (s *stream) write() {
	if len(s.buffer) > 0 && !s.gone {
		_, err := s.w.Write(s.buffer)
		if err == nil {
			err = s.flush()
		}
		s.gone = err != nil
	}
	s.buffer = s.buffer[:0]
}

// keepAlive sends pings, so that nobody between takes a silent command for a dead connection, until stop is called: after
// that nothing is written any more.
func (s *stream) keepAlive() (stop func()) {
	over := make(chan struct{})
	var pings sync.WaitGroup
	pings.Go(func() {
		ticker := time.NewTicker(3 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-over:
				return
			case <-ticker.C:
				s.send(event{Type: "ping", Text: "pong"})
			}
		}
	})
	return func() {
		close(over)
		pings.Wait()
	}
}

// maxLine is where a line is cut, so that one without an end takes no memory.
const maxLine = 64 << 10

// lines cuts output as the reference does: a line without its end is an event, whether it ends by a newline, a carriage
// return (a progress bar) or both; an empty one is an event that says "\n".
type lines struct {
	limit    int // of bytes in an event; 0 is maxLine
	begun    []byte
	carriage bool // the last one ended by a carriage return
}

func (l *lines) split(chunk []byte, emit func([]byte)) {
	for len(chunk) > 0 {
		end := -1
		for i, b := range chunk {
			if b == '\n' || b == '\r' {
				end = i
				break
			}
		}
		if end < 0 {
			l.begin(chunk, emit)
			return
		}
		l.begin(chunk[:end], emit)
		terminator := chunk[end]
		chunk = chunk[end+1:]
		switch {
		case len(l.begun) > 0:
			l.rest(emit)
		case end == 0 && terminator == '\n' && l.carriage: // of "\r\n", also where the two come in two chunks
		default:
			emit([]byte{'\n'})
		}
		l.carriage = terminator == '\r'
	}
}

// begin takes text without an end of line.
func (l *lines) begin(text []byte, emit func([]byte)) {
	if len(text) > 0 {
		l.carriage = false
	}
	l.begun = append(l.begun, text...)
	for limit := cmp.Or(l.limit, maxLine); len(l.begun) > limit; {
		cut := wholeRunes(l.begun[:limit])
		emit(l.begun[:cut])
		l.begun = append(l.begun[:0], l.begun[cut:]...)
	}
}

// rest is what has no end of line.
func (l *lines) rest(emit func([]byte)) {
	if len(l.begun) > 0 {
		emit(l.begun)
		l.begun = l.begun[:0]
	}
}

// wholeRunes returns how much of the text there is before a character that is not complete.
func wholeRunes(text []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
		at := len(text) - back
		if utf8.RuneStart(text[at]) {
			if !utf8.FullRune(text[at:]) {
				return at
			}
			break
		}
	}
	return len(text)
}

// appendJSON appends a text as a JSON string. What is no UTF-8 becomes U+FFFD.
func appendJSON(to, text []byte) []byte {
	for _, b := range text {
		if b < ' ' || b == '"' || b == '\\' || b >= utf8.RuneSelf {
			quoted, _ := json.Marshal(strings.ToValidUTF8(string(text), "\uFFFD"))
			return append(to, quoted...)
		}
	}
	return append(append(append(to, '"'), text...), '"')
}
