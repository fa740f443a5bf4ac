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
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// makeDirectories is POST /directories {path: {mode, owner, group}}: with what is above them, which is left as it is where
// it is there.
func makeDirectories(w http.ResponseWriter, r *http.Request) error {
	changes, err := readChanges(w, r)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := os.MkdirAll(c.path, 0o755); err != nil {
			return err
		}
		if err := c.rights.apply(c.path); err != nil {
			return err
		}
	}
	return nil
}

// removeDirectories is DELETE /directories?path=…, with all that is in them, as by rm -rf.
func removeDirectories(_ http.ResponseWriter, r *http.Request) error {
	given, meant, err := queryPaths(r)
	if err != nil {
		return err
	}
	for i, path := range meant {
		if path == "/" {
			return problem(http.StatusBadRequest, codeInvalidFile, "%s is the root, which is not removed", given[i])
		}
	}
	for _, path := range meant {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// listDirectory is GET /directories/list?path=&depth=: what is in it, depth levels deep, in the order of the names, each
// directory before what is in it. Links are listed and not followed.
func listDirectory(w http.ResponseWriter, r *http.Request) error {
	root, err := queryPath(r)
	if err != nil {
		return err
	}
	depth := 1
	if text := r.URL.Query().Get("depth"); text != "" {
		if depth, err = strconv.Atoi(text); err != nil || depth < 0 {
			return problem(http.StatusBadRequest, codeInvalidBody, "depth %q is not a number from 0 on", text)
		}
	}
	info, err := os.Lstat(root)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return problem(http.StatusBadRequest, codeInvalidBody, "%s is a symbolic link, which is not followed; list what it leads to", root)
	case !info.IsDir():
		return problem(http.StatusBadRequest, codeInvalidBody, "%s is not a directory", root)
	}
	if depth == 0 {
		return writeJSON(w, []fileInfo{})
	}
	list := newList(w)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if path == root {
			return err
		}
		if err != nil {
			return fs.SkipDir // it is listed, and may not be read
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = list.add(path, info)
		}
		if err == nil && entry.IsDir() && strings.Count(path[len(strings.TrimSuffix(root, "/")):], "/") >= depth {
			return fs.SkipDir
		}
		return err
	})
	return list.end(err)
}

// list writes files as a JSON array while they are found: there may be millions.
type list struct {
	w       http.ResponseWriter
	buffer  *bufio.Writer
	encoder *json.Encoder
	known   *names
	count   int
}

func newList(w http.ResponseWriter) *list {
	buffer := bufio.NewWriterSize(w, 64<<10)
	return &list{w: w, buffer: buffer, encoder: json.NewEncoder(buffer), known: newNames()}
}

func (l *list) add(path string, info fs.FileInfo) error {
	before := byte(',')
	if l.count == 0 {
		l.w.Header().Set("Content-Type", "application/json")
		before = '['
	}
	l.count++
	_ = l.buffer.WriteByte(before)
	return l.encoder.Encode(describe(path, info, l.known))
}

// end closes the array, or returns the error while there is no array yet.
func (l *list) end(err error) error {
	if l.count == 0 {
		if err != nil {
			return err
		}
		return writeJSON(l.w, []fileInfo{})
	}
	if err != nil {
		panic(http.ErrAbortHandler) // a list that is cut must not look whole
	}
	_ = l.buffer.WriteByte(']')
	_ = l.buffer.Flush()
	return nil
}
