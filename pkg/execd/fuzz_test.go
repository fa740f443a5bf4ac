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
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// However output comes in pieces, the events are the same, and nothing but ends of lines is lost.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{"", "a\nb", "\r\n\r\n", "1%\r2%\r\n", "é\n\n", strings.Repeat("é", 20)} {
		f.Add([]byte(seed), uint(3))
	}
	f.Fuzz(func(t *testing.T, output []byte, size uint) {
		events := func(size int) (events []string) {
			l := lines{limit: 16}
			emit := func(line []byte) { events = append(events, string(line)) }
			for rest := output; len(rest) > 0; {
				n := min(size, len(rest))
				l.split(rest[:n], emit)
				rest = rest[n:]
			}
			l.rest(emit)
			return events
		}
		whole, pieces := events(len(output)), events(int(size%64)+1)
		if !reflect.DeepEqual(whole, pieces) {
			t.Errorf("in one piece %q, in pieces of %d %q", whole, size%64+1, pieces)
		}
		text := func(s string) string { return strings.NewReplacer("\n", "", "\r", "").Replace(s) }
		if got, want := text(strings.Join(whole, "")), text(string(output)); got != want {
			t.Errorf("the events have %q of %q", got, want)
		}
		for _, line := range whole {
			if len(line) > 16 {
				t.Errorf("an event of %d bytes", len(line))
			}
		}
	})
}

// A pattern is refused or answered; one without anything special finds exactly itself.
func FuzzGlob(f *testing.F) {
	for _, seed := range []string{"**", "*.txt", "a/**/b", "[!a-c]?", "{a,b}", `\*`, "[", "{", "[^]", "[]]", "é"} {
		f.Add(seed, "dir/file.txt")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		fits, err := glob(pattern)
		if err != nil {
			return
		}
		fits(name)
		plain := name != "" && !strings.ContainsAny(name, `*?[]{}\,`) && filepath.Clean("/"+name) == "/"+name && utf8.ValidString(name)
		if !plain {
			return
		}
		itself, err := glob(name)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if !itself(name) || itself(name+"x") {
			t.Errorf("%q finds itself: %v, and another: %v", name, itself(name), itself(name+"x"))
		}
	})
}

// Whatever is asked, the answer is one of ours.
func FuzzPaths(f *testing.F) {
	d := newDaemon("test", table())
	for _, seed := range []string{"/files/info", "/command//logs", "/command/status/", "/session/%2e%2e/run", "/files/download", "/../x", "//"} {
		f.Add(seed, "/no/such/../a\x00", "bytes=0-", "1")
	}
	f.Fuzz(func(t *testing.T, path, file, bytes, n string) {
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "watch") || strings.HasPrefix(file, "/sys") || strings.HasPrefix(file, "/proc") {
			return
		}
		target := (&url.URL{Path: path, RawQuery: url.Values{"path": {"/no/such/x", file}, "offset": {n}, "depth": {"1"}}.Encode()}).String()
		status, body, ok := ask(d, target, bytes)
		if ok && status >= 400 && !strings.HasPrefix(body, `{"code":"`) {
			t.Errorf("GET %q: %d %q", target, status, body)
		}
	})
}
