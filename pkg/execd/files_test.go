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
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func decode(t *testing.T, content []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(content, into); err != nil {
		t.Errorf("%q is not the JSON that is wanted: %v", content, err)
	}
}

// part is a file to upload.
type part struct {
	metadata string
	content  io.Reader
}

// form is a body as the SDKs send it.
func form(parts ...part) (body io.Reader, contentType string) {
	read, write := io.Pipe()
	w := multipart.NewWriter(write)
	go func() {
		var err error
		for _, p := range parts {
			for _, field := range []struct {
				name    string
				content io.Reader
			}{{"metadata", strings.NewReader(p.metadata)}, {"file", p.content}} {
				var to io.Writer
				to, err = w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + field.name + `"; filename="` + field.name + `"`}})
				if err == nil {
					_, err = io.Copy(to, field.content)
				}
				if err != nil {
					write.CloseWithError(err)
					return
				}
			}
		}
		write.CloseWithError(w.Close())
	}()
	return read, w.FormDataContentType()
}

func (c client) upload(metadata, content string) (int, []byte) {
	c.t.Helper()
	body, contentType := form(part{metadata, strings.NewReader(content)})
	status, _, answer := c.do("POST", "/files/upload", body, "Content-Type", contentType)
	return status, answer
}

func quoted(path string) string { return url.QueryEscape(path) }

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if content, err := os.ReadFile(path); err != nil || string(content) != want {
		t.Errorf("%s has %.100q (%v), want %.100q", path, content, err, want)
	}
}

func modeOf(t *testing.T, path string) uint32 {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Mode & 0o7777
}

func TestUpload(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	at := func(name string) string { return filepath.Join(dir, name) }

	body, contentType := form(
		part{fmt.Sprintf(`{"path":%q}`, at("new/a b")), strings.NewReader("one")},
		part{fmt.Sprintf(`{"path":%q,"mode":4640,"owner":"0","group":"0"}`, at("new/../é\"$x")), strings.NewReader("")},
		part{`{"path":"~/home"}`, strings.NewReader("three")},
	)
	if status, header, answer := c.do("POST", "/files/upload", body, "Content-Type", contentType); status != 200 || len(answer) > 0 || header.Get("Content-Length") != "0" {
		t.Fatalf("%d %s", status, answer)
	}
	wantContent(t, at("new/a b"), "one")
	wantContent(t, at("é\"$x"), "")
	wantContent(t, at("home"), "three")
	if got := modeOf(t, at("new/a b")); got != 0o755 {
		t.Errorf("a new file has mode %o", got)
	}
	if got := modeOf(t, at("é\"$x")); got != 0o4640 {
		t.Errorf("the mode is %o", got)
	}

	// What is there keeps its owner and mode, and a link its place.
	there := write(t, at("there"), "old")
	if err := os.Chmod(there, 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("there", at("link")); err != nil {
		t.Fatal(err)
	}
	if status, answer := c.upload(fmt.Sprintf(`{"path":%q}`, at("link")), "new"); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	wantContent(t, there, "new")
	if link, err := os.Readlink(at("link")); err != nil || link != "there" || modeOf(t, there) != 0o604 {
		t.Errorf("the link leads to %q (%v), the file has mode %o", link, err, modeOf(t, there))
	}

	if err := os.Symlink("later/there", at("early")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", at("loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("later"), 0o755); err != nil {
		t.Fatal(err)
	}
	if status, answer := c.upload(fmt.Sprintf(`{"path":%q}`, at("early")), "new"); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	wantContent(t, at("later/there"), "new")
	if status, answer := c.upload(fmt.Sprintf(`{"path":%q}`, at("loop")), "new"); status != 400 {
		t.Errorf("a link to itself: %d %s", status, answer)
	}

	// Names that the JavaScript SDK writes into a header as they are.
	raw := "--b\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"metadata\"\r\n\r\n" + fmt.Sprintf(`{"path":%q}`, at(`q"; x=é`)) +
		"\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q\"; x=é\"\r\n\r\nraw\r\n--b--\r\n"
	if status, _, answer := c.do("POST", "/files/upload", raw, "Content-Type", "multipart/form-data; boundary=b"); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	wantContent(t, at(`q"; x=é`), "raw")
}

// A broken upload leaves what was there, and nothing else.
func TestABrokenUploadLeavesTheOldFile(t *testing.T) {
	c := here(t)
	path := write(t, filepath.Join(t.TempDir(), "file"), "old")
	body := "--b\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n" + fmt.Sprintf(`{"path":%q}`, path) +
		"\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf of the"
	status, _, answer := c.do("POST", "/files/upload", body, "Content-Type", "multipart/form-data; boundary=b")
	if status != 400 || !strings.Contains(string(answer), codeInvalidContent) {
		t.Errorf("%d %s", status, answer)
	}
	wantContent(t, path, "old")
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestAFileThatCannotBeReplacedIsWrittenInPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to mount wants root")
	}
	c := here(t)
	dir := t.TempDir()
	source, path := write(t, filepath.Join(dir, "source"), "a longer content"), write(t, filepath.Join(dir, "mounted"), "")
	if err := syscall.Mount(source, path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, 0) })
	if status, answer := c.upload(fmt.Sprintf(`{"path":%q,"mode":600}`, path), "short"); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	wantContent(t, source, "short")
	if got := modeOf(t, source); got != 0o600 {
		t.Errorf("mode %o", got)
	}
}

func TestUploadRefusals(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		metadata string
		status   int
		says     string
	}{
		"no JSON":      {"{", 400, codeInvalidMetadata},
		"no path":      {"{}", 400, "has no path"},
		"a NUL":        {`{"path":"/a\u0000"}`, 400, "NUL"},
		"a directory":  {fmt.Sprintf(`{"path":%q}`, dir), 400, "is a directory"},
		"a pipe":       {fmt.Sprintf(`{"path":%q}`, dir+"/pipe"), 400, "no regular file"},
		"below a file": {`{"path":"/etc/passwd/x"}`, 400, codeInvalidFile},
		"a long name":  {fmt.Sprintf(`{"path":%q}`, dir+"/"+strings.Repeat("x", 300)), 400, "too long"},
		"no mode":      {fmt.Sprintf(`{"path":%q,"mode":888}`, dir+"/x"), 400, "octal"},
		"a mode below": {fmt.Sprintf(`{"path":%q,"mode":-1}`, dir+"/x"), 400, "octal"},
		"no owner":     {fmt.Sprintf(`{"path":%q,"owner":"no-such"}`, dir+"/x"), 400, `owner \"no-such\"`},
		"no group":     {fmt.Sprintf(`{"path":%q,"group":"no-such"}`, dir+"/x"), 400, `group \"no-such\"`},
	} {
		if status, answer := c.upload(test.metadata, "x"); status != test.status || !strings.Contains(string(answer), test.says) {
			t.Errorf("%s: %d %s, want %d %s", name, status, answer, test.status, test.says)
		}
	}
	refused(t, c, "POST", "/files/upload", "x", 400, codeInvalidFile, "multipart/form-data")
	for body, says := range map[string]string{
		"--b--\r\n": "neither",
		"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n":                                          "comes before",
		"--b\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{\"path\":\"/tmp/execd-no-such-file\"}\r\n--b--\r\n": "is missing",
	} {
		status, _, answer := c.do("POST", "/files/upload", body, "Content-Type", "multipart/form-data; boundary=b")
		if status != 400 || !strings.Contains(string(answer), says) {
			t.Errorf("%d %s, want 400 that says %q", status, answer, says)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestDownload(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	path := write(t, dir+"/ünd \"x\"", "0123456789")
	lines := write(t, filepath.Join(dir, "lines"), "1\n2\n"+strings.Repeat("3", 100_000)+"\n4")
	for _, test := range []struct {
		query, rang string
		status      int
		want        string
	}{
		{quoted(path), "", 200, "0123456789"},
		{quoted(dir + "/x/../" + filepath.Base(path)), "", 200, "0123456789"},
		{quoted(path), "bytes=2-4", 206, "234"},
		{quoted(path), "bytes=8-", 206, "89"},
		{quoted(path), "bytes=-3", 206, "789"},
		{quoted(path), "bytes=0-100", 206, "0123456789"},
		{quoted(path), "bytes=10-", 416, ""},
		{quoted(path), "bytes=5-4", 416, ""},
		{quoted(path), "bytes=x", 416, ""},
		{quoted(path), "lines=1-2", 416, ""},
		{quoted(lines) + "&offset=2&limit=1", "", 200, "2\n"},
		{quoted(lines) + "&offset=4", "", 200, "4"},
		{quoted(lines) + "&limit=2", "", 200, "1\n2\n"},
		{quoted(lines) + "&offset=3&limit=9", "", 200, strings.Repeat("3", 100_000) + "\n4"},
		{quoted(lines) + "&offset=9", "", 200, ""},
		{quoted(lines) + "&offset=0", "", 400, ""},
		{quoted(lines) + "&offset=x", "", 400, ""},
		{quoted(lines) + "&limit=-1", "", 400, ""},
		{quoted(lines) + "&offset=1", "bytes=0-1", 400, ""},
		{"", "", 400, ""},
		{quoted(dir), "", 400, ""},
		{quoted("/dev/zero"), "", 400, ""},
		{quoted("/no/such"), "", 404, ""},
		{quoted("/etc/passwd/x"), "", 400, ""},
		{quoted("a\x00"), "", 400, ""},
	} {
		var header []string
		if test.rang != "" {
			header = []string{"Range", test.rang}
		}
		status, got, body := c.do("GET", "/files/download?path="+test.query, nil, header...)
		if status != test.status {
			t.Errorf("%s %s: %d %.100s, want %d", test.query, test.rang, status, body, test.status)
			continue
		}
		if status < 300 && string(body) != test.want {
			t.Errorf("%s %s: %.100q, want %.100q", test.query, test.rang, body, test.want)
		}
		if status >= 300 {
			var answer struct{ Code, Message string }
			decode(t, body, &answer)
			if answer.Code == "" || answer.Message == "" || got.Get("Content-Disposition") != "" {
				t.Errorf("%s %s: %s and %q, want a code and a message alone", test.query, test.rang, body, got)
			}
		}
	}
	_, header, _ := c.do("GET", "/files/download?path="+quoted(path), nil)
	if got := header.Get("Content-Disposition"); !strings.HasPrefix(got, "attachment; ") || !strings.Contains(got, "%C3%BCnd") || header.Get("Content-Length") != "10" {
		t.Errorf("the header: %q", header)
	}
	// The kernel says that its files are empty.
	if status, _, body := c.do("GET", "/files/download?path=/proc/self/status", nil); status != 200 || !strings.Contains(string(body), "VmRSS") {
		t.Errorf("a file of /proc: %d %.100q", status, body)
	}
	// A named pipe would not open until somebody writes to it.
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, c, "GET", "/files/download?path="+quoted(pipe), nil, 400, codeInvalidFile, "no regular file")
}

func TestInfoListAndSearch(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	for _, name := range []string{"b/two.txt", "b/deep/three.txt", "b/deep/four.md", "a.txt", ".hidden", "[x].txt", "é.txt"} {
		write(t, filepath.Join(dir, name), "12345")
	}
	if err := os.Symlink("b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", dir+"/b/up.txt"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chmod(filepath.Join(dir, "b"), 0o1750); err != nil {
		t.Fatal(err)
	}

	var info map[string]fileInfo
	given := dir + "/b/../a.txt"
	c.get("/files/info?path="+quoted(given)+"&path="+quoted(dir+"/b")+"&path="+quoted(dir+"/link"), &info)
	a, b, link := info[given], info[dir+"/b"], info[dir+"/link"]
	if a.Path != dir+"/a.txt" || a.Type != "file" || a.Size != 5 || a.Mode != 644 || a.Owner == "" || a.Group == "" ||
		time.Since(a.Modified) > time.Hour || time.Since(a.Created) > time.Hour {
		t.Errorf("a file: %+v", a)
	}
	if b.Type != "directory" || b.Mode != 1750 || link.Type != "symlink" || len(info) != 3 {
		t.Errorf("got %+v", info)
	}
	refused(t, c, "GET", "/files/info?path=/no/such&path="+quoted(given), nil, 404, codeFileNotFound, "/no/such")
	if _, _, body := c.do("GET", "/files/info", nil); string(body) != "{}" {
		t.Errorf("of no path: %s", body)
	}

	names := func(path string) (names []string) {
		var files []fileInfo
		c.get(path, &files)
		for _, f := range files {
			names = append(names, strings.TrimPrefix(f.Path, dir+"/"))
		}
		return names
	}
	for _, test := range []struct {
		path string
		want []string
	}{
		{"/directories/list?path=" + quoted(dir), []string{".hidden", "[x].txt", "a.txt", "b", "link", "é.txt"}},
		{"/directories/list?depth=2&path=" + quoted(dir+"/"), []string{".hidden", "[x].txt", "a.txt", "b", "b/deep", "b/two.txt", "b/up.txt", "link", "é.txt"}},
		{"/directories/list?depth=9&path=" + quoted(dir+"/b"), []string{"b/deep", "b/deep/four.md", "b/deep/three.txt", "b/two.txt", "b/up.txt"}},
		{"/directories/list?depth=0&path=" + quoted(dir), nil},
		{"/files/search?pattern=*.txt&path=" + quoted(dir), []string{"[x].txt", "a.txt", "b/deep/three.txt", "b/two.txt", "b/up.txt", "é.txt"}},
		{"/files/search?pattern=t*.txt&path=" + quoted(dir+"/link"), []string{"b/deep/three.txt", "b/two.txt"}},
		{"/files/search?pattern=b/**/*.txt&path=" + quoted(dir), []string{"b/deep/three.txt", "b/two.txt", "b/up.txt"}},
		{"/files/search?pattern=b/*.txt&path=" + quoted(dir), []string{"b/two.txt", "b/up.txt"}},
		{"/files/search?pattern=**/deep/**&path=" + quoted(dir), []string{"b/deep/four.md", "b/deep/three.txt"}},
		{"/files/search?pattern=" + quoted("*.{md,hidden}") + "&path=" + quoted(dir), []string{".hidden", "b/deep/four.md"}},
		{"/files/search?pattern=" + quoted("[!a-z.é]*.txt") + "&path=" + quoted(dir), []string{"[x].txt"}},
		{"/files/search?pattern=" + quoted(`\[x].txt`) + "&path=" + quoted(dir), []string{"[x].txt"}},
		{"/files/search?pattern=%3F.txt&path=" + quoted(dir), []string{"a.txt", "é.txt"}},
		{"/files/search?path=" + quoted(dir+"/b/deep"), []string{"b/deep/four.md", "b/deep/three.txt"}},
		{"/files/search?pattern=a*&path=" + quoted(dir+"/a.txt"), []string{"a.txt"}},
		{"/files/search?pattern=nothing&path=" + quoted(dir), nil},
	} {
		if got := names(test.path); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %q, want %q", test.path, got, test.want)
		}
	}
	if _, _, body := c.do("GET", "/files/search?pattern=nothing&path="+quoted(dir), nil); string(body) != "[]" {
		t.Errorf("nothing found: %s, want an empty list", body)
	}
	refused(t, c, "GET", "/files/search?path="+quoted(dir)+"&pattern="+quoted("[a"), nil, 400, codeInvalidBody, "pattern")
	refused(t, c, "GET", "/files/search?path=/no/such", nil, 404, codeFileNotFound, "/no/such")
	refused(t, c, "GET", "/files/search", nil, 400, codeMissingQuery, "no path")
	refused(t, c, "GET", "/directories/list", nil, 400, codeMissingQuery, "no path")
	refused(t, c, "GET", "/directories/list?depth=x&path=/", nil, 400, codeInvalidBody, "depth")
	refused(t, c, "GET", "/directories/list?path=/no/such", nil, 404, codeFileNotFound, "/no/such")
	refused(t, c, "GET", "/directories/list?path="+quoted(dir+"/link"), nil, 400, codeInvalidBody, "symbolic link")
	refused(t, c, "GET", "/directories/list?path="+quoted(dir+"/a.txt"), nil, 400, codeInvalidBody, "not a directory")
}

func TestDirectories(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	ok := func(method, path string, body any) {
		t.Helper()
		if status, _, answer := c.do(method, path, body); status != 200 || len(answer) > 0 {
			t.Errorf("%s %s: %d %s", method, path, status, answer)
		}
	}
	ok("POST", "/directories", fields{dir + "/a/b": fields{"mode": 2750}, dir + "/a": fields{}, dir + "/zero": fields{"mode": 0}})
	if modeOf(t, dir+"/a/b") != 0o2750 || modeOf(t, dir+"/a") != 0o755 || modeOf(t, dir+"/zero") != 0o755 {
		t.Errorf("modes %o, %o and %o", modeOf(t, dir+"/a/b"), modeOf(t, dir+"/a"), modeOf(t, dir+"/zero"))
	}
	write(t, dir+"/a/b/file", "x")
	refused(t, c, "POST", "/directories", fields{dir + "/a/b/file": fields{}}, 400, codeInvalidFile, "not a directory")
	refused(t, c, "POST", "/directories", fields{dir + "/c": fields{"mode": 9}}, 400, codeInvalidBody, "octal")
	refused(t, c, "POST", "/directories", fields{"": fields{}}, 400, codeInvalidBody, "empty")
	refused(t, c, "DELETE", "/files?path="+quoted(dir+"/a"), nil, 400, codeInvalidFile, "is a directory")
	refused(t, c, "DELETE", "/directories?path="+quoted(dir+"/a/.././../../../../../../.."), nil, 400, codeInvalidFile, "root")
	if err := os.Symlink(dir+"/a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	ok("DELETE", "/directories?path="+quoted(dir+"/link")+"&path="+quoted(dir+"/never"), nil)
	wantContent(t, dir+"/a/b/file", "x")
	ok("DELETE", "/files?path="+quoted(dir+"/a/b/file")+"&path="+quoted(dir+"/never"), nil)
	ok("DELETE", "/directories?path="+quoted(dir+"/a")+"&path="+quoted(dir+"/zero"), nil)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}

func TestPermissionsAndReplace(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	file := write(t, dir+"/file", "a.b.c.a")
	status, _, body := c.do("POST", "/files/permissions", fields{file: fields{"mode": 600}})
	if status != 200 || len(body) > 0 || modeOf(t, file) != 0o600 {
		t.Errorf("%d %s, mode %o", status, body, modeOf(t, file))
	}
	if os.Geteuid() == 0 {
		// The owner first: a change of it takes setuid away.
		c.do("POST", "/files/permissions", fields{file: fields{"mode": 4755, "owner": "nobody", "group": "12345"}})
		var info map[string]fileInfo
		c.get("/files/info?path="+quoted(file), &info)
		if got := info[file]; got.Mode != 4755 || got.Owner != "nobody" || got.Group != "12345" {
			t.Errorf("got %+v", got)
		}
	}
	refused(t, c, "POST", "/files/permissions", fields{file: fields{"mode": 644}, dir + "/never": fields{"mode": 644}}, 404, codeFileNotFound, "never")
	refused(t, c, "POST", "/files/permissions", fields{file: fields{"mode": 80}}, 400, codeInvalidBody, "octal")
	refused(t, c, "POST", "/files/permissions", fields{file: fields{"mode": "755"}}, 400, codeInvalidBody, "JSON")
	if modeOf(t, file)&0o777 == 0o644 {
		t.Error("a refused request has changed a file")
	}

	hard := dir + "/hard"
	if err := os.Link(file, hard); err != nil {
		t.Fatal(err)
	}
	mode := modeOf(t, file)
	if status, _, body := c.do("POST", "/files/replace", fields{file: fields{"old": "a", "new": "xx"}}); status != 200 || len(body) > 0 {
		t.Errorf("%d %s", status, body)
	}
	wantContent(t, hard, "xx.b.c.xx")
	if _, _, body := c.do("POST", "/files/replace?verbose=true", fields{file: fields{"old": "xx", "new": ""}, hard: fields{"old": "nothing", "new": "x"}}); !bytes.Contains(body, []byte(`"replacedCount":2`)) || !bytes.Contains(body, []byte(`"replacedCount":0`)) {
		t.Errorf("%s", body)
	}
	wantContent(t, file, ".b.c.")
	if modeOf(t, file)&0o777 != mode&0o777 {
		t.Errorf("mode %o became %o", mode, modeOf(t, file))
	}
	refused(t, c, "POST", "/files/replace", fields{file: fields{"old": "b", "new": ""}, hard: fields{"old": "", "new": "x"}}, 400, codeInvalidBody, "old is empty")
	refused(t, c, "POST", "/files/replace", fields{file: fields{"old": "b"}, dir + "/never": fields{"old": "x"}}, 404, codeFileNotFound, "never")
	refused(t, c, "POST", "/files/replace", fields{dir: fields{"old": "x"}}, 400, codeInvalidFile, "no regular file")
	wantContent(t, file, ".b.c.")
}

func TestMove(t *testing.T) {
	c := here(t)
	dir := t.TempDir()
	move := func(from, to string) (int, []byte) {
		status, _, body := c.do("POST", "/files/mv", []fields{{"src": from, "dest": to}})
		return status, body
	}
	file := write(t, dir+"/file", "x")
	if status, body := move(file, dir+"/new/place"); status != 200 || len(body) > 0 {
		t.Errorf("%d %s", status, body)
	}
	wantContent(t, dir+"/new/place", "x")
	write(t, file, "y")
	refused(t, c, "POST", "/files/mv", []fields{{"src": file, "dest": dir + "/new/place"}}, 409, codeRuntime, "is there already")
	refused(t, c, "POST", "/files/mv", []fields{{"src": dir + "/never", "dest": dir + "/x"}}, 404, codeFileNotFound, "never")
	refused(t, c, "POST", "/files/mv", []fields{{"src": dir + "/new", "dest": dir + "/new/in/itself"}}, 400, codeInvalidFile, "itself")
	refused(t, c, "POST", "/files/mv", []fields{{"src": file}}, 400, codeInvalidBody, "empty")
	refused(t, c, "POST", "/files/mv", fields{"src": file, "dest": "x"}, 400, codeInvalidBody, "JSON")
	wantContent(t, dir+"/new/place", "x")
}

// rename(2) does not lead to another volume, nor moves a directory that the image has.
func TestMoveToAnotherFileSystem(t *testing.T) {
	c := here(t)
	other, err := os.MkdirTemp("/dev/shm", "execd-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	dir := t.TempDir()
	if err := syscall.Rename(write(t, dir+"/probe", ""), other+"/probe"); err != syscall.EXDEV {
		t.Skipf("%s and %s are on one file system (%v)", dir, other, err)
	}
	from := dir + "/from"
	write(t, from+"/sub/file", "content")
	if err := os.Symlink("sub/file", from+"/link"); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]uint32{from + "/sub/file": 0o4711, from + "/sub": 0o550, from: 0o750} {
		if err := syscall.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(from+"/sub", long, long); err != nil {
		t.Fatal(err)
	}
	if status, _, body := c.do("POST", "/files/mv", []fields{{"src": from, "dest": other + "/to"}}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	wantContent(t, other+"/to/link", "content")
	if modeOf(t, other+"/to/sub/file") != 0o4711 || modeOf(t, other+"/to/sub") != 0o550 || modeOf(t, other+"/to") != 0o750 {
		t.Error("the modes have changed")
	}
	if info, err := os.Stat(other + "/to/sub"); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("the time has changed: %v (%v)", info.ModTime(), err)
	}
	if _, err := os.Lstat(from); !os.IsNotExist(err) {
		t.Errorf("the source is there: %v", err)
	}
}
