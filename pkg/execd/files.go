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
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fileInfo tells of a file, as the SDKs read it.
type fileInfo struct {
	Path     string    `json:"path"`
	Type     string    `json:"type"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified_at"`
	Created  time.Time `json:"created_at"` // of the last change of its owner, mode or content: the kernel's ctime
	Owner    string    `json:"owner"`
	Group    string    `json:"group"`
	Mode     int       `json:"mode"` // its octal digits as a decimal number: 755
}

func describe(path string, info fs.FileInfo, known *names) fileInfo {
	f := fileInfo{Path: path, Type: "other", Size: info.Size(), Modified: info.ModTime(), Created: info.ModTime()}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		f.Type = "file"
	case mode.IsDir():
		f.Type = "directory"
	case mode&fs.ModeSymlink != 0:
		f.Type = "symlink"
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.Created = time.Unix(stat.Ctim.Unix())
		f.Owner, f.Group = known.user(stat.Uid), known.group(stat.Gid)
		f.Mode, _ = strconv.Atoi(strconv.FormatUint(uint64(stat.Mode&0o7777), 8))
	}
	f.Modified, f.Created = f.Modified.UTC(), f.Created.UTC()
	return f
}

// leading is a variable that a path begins with.
var leading = regexp.MustCompile(`^\$(?:\{(\w+)\}|(\w+))(/|$)`)

// absolute returns the path that is meant: from the container's working directory where it is relative, from the home
// directory where it begins with "~", from a variable's where it begins with one that is set. A `$` elsewhere is a `$`.
func absolute(path string) (string, error) {
	if path == "" {
		return "", problem(http.StatusBadRequest, codeInvalidBody, "a path is empty")
	}
	if strings.Contains(path, "\x00") {
		return "", problem(http.StatusBadRequest, codeInvalidBody, "the path %q holds a NUL, which no path can", path)
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", problem(http.StatusBadRequest, codeInvalidBody, "the path %q: %v", path, err)
		}
		path = filepath.Join(home, path[1:])
	} else if at := leading.FindStringSubmatch(path); at != nil {
		if value := os.Getenv(at[1] + at[2]); value != "" {
			path = value + path[len(at[0])-len(at[3]):]
		}
	}
	return filepath.Abs(path)
}

// queryPath is the one path of a query.
func queryPath(r *http.Request) (string, error) {
	path := r.URL.Query().Get("path")
	if path == "" {
		return "", problem(http.StatusBadRequest, codeMissingQuery, "the query has no path")
	}
	return absolute(path)
}

// queryPaths are all that a query has, each as it was given and as it is meant.
func queryPaths(r *http.Request) (given, meant []string, err error) {
	given = r.URL.Query()["path"]
	for _, path := range given {
		path, err := absolute(path)
		if err != nil {
			return nil, nil, err
		}
		meant = append(meant, path)
	}
	return given, meant, nil
}

// filesInfo is GET /files/info?path=…&path=…: what is known of each, by the path that was given.
func filesInfo(w http.ResponseWriter, r *http.Request) error {
	given, meant, err := queryPaths(r)
	if err != nil {
		return err
	}
	found := map[string]fileInfo{}
	known := newNames()
	for i, path := range meant {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		found[given[i]] = describe(path, info, known)
	}
	return writeJSON(w, found)
}

// removeFiles is DELETE /files?path=…: what is not there is removed already.
func removeFiles(_ http.ResponseWriter, r *http.Request) error {
	given, meant, err := queryPaths(r)
	if err != nil {
		return err
	}
	for i, path := range meant {
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			return problem(http.StatusBadRequest, codeInvalidFile, "%s is a directory; DELETE /directories removes those", given[i])
		}
	}
	for _, path := range meant {
		if err := syscall.Unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "remove", Path: path, Err: err}
		}
	}
	return nil
}

// permission is a mode and an owner; what is left out stays as it is.
type permission struct {
	Mode  *int   `json:"mode"`
	Owner string `json:"owner"`
	Group string `json:"group"`
}

// rights is a permission that was understood.
type rights struct {
	mode     uint32 // of chmod(2)
	changes  bool   // whether the mode is given
	uid, gid int    // -1: as it is
}

// understand refuses what names nobody, before anything is changed.
func (p permission) understand(path string, known *names) (rights, error) {
	r := rights{uid: -1, gid: -1}
	invalid := func(format string, args ...any) (rights, error) {
		return r, problem(http.StatusBadRequest, codeInvalidBody, "%s: %s", path, fmt.Sprintf(format, args...))
	}
	// 0 has always meant "not given".
	if p.Mode != nil && *p.Mode != 0 {
		mode, err := strconv.ParseUint(strconv.Itoa(*p.Mode), 8, 32)
		if err != nil || mode > 0o7777 {
			return invalid("mode %d is not octal digits as a number, such as 755", *p.Mode)
		}
		r.mode, r.changes = uint32(mode), true
	}
	var found bool
	if p.Owner != "" {
		if r.uid, found = known.uid(p.Owner); !found {
			return invalid("owner %q is no user of this image; a number is taken as it is", p.Owner)
		}
	}
	if p.Group != "" {
		if r.gid, found = known.gid(p.Group); !found {
			return invalid("group %q is no group of this image; a number is taken as it is", p.Group)
		}
	}
	return r, nil
}

// apply changes the owner first: that takes setuid bits away.
func (r rights) apply(path string) error {
	if r.uid >= 0 || r.gid >= 0 {
		if err := os.Chown(path, r.uid, r.gid); err != nil {
			return err
		}
	}
	if r.changes {
		if err := syscall.Chmod(path, r.mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	return nil
}

// change is a path and what it is to have.
type change struct {
	given, path string
	rights      rights
}

// readChanges reads a map of paths to permissions, in the order of the paths.
func readChanges(w http.ResponseWriter, r *http.Request) ([]change, error) {
	var request map[string]permission
	if err := readJSON(w, r, &request, false); err != nil {
		return nil, err
	}
	known := newNames()
	var changes []change
	for _, given := range slices.Sorted(maps.Keys(request)) {
		path, err := absolute(given)
		if err != nil {
			return nil, err
		}
		rights, err := request[given].understand(given, known)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change{given, path, rights})
	}
	return changes, nil
}

// setPermissions is POST /files/permissions {path: {mode, owner, group}}.
func setPermissions(w http.ResponseWriter, r *http.Request) error {
	changes, err := readChanges(w, r)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if _, err := os.Stat(c.path); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := c.rights.apply(c.path); err != nil {
			return err
		}
	}
	return nil
}
