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
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// metadata comes before the file that it is about.
type metadata struct {
	Path string `json:"path"`
	permission
}

// maxMetadata limits a part that is read whole.
const maxMetadata = 1 << 20

// upload is POST /files/upload: parts "metadata" and "file", any number of them, each metadata before its file. Files are
// written as they come, whatever their size.
func upload(_ http.ResponseWriter, r *http.Request) error {
	parts, err := r.MultipartReader()
	if err != nil {
		return problem(http.StatusBadRequest, codeInvalidFile, "the body is not multipart/form-data: %v", err)
	}
	known := newNames()
	var waiting []*target
	files := 0
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return problem(http.StatusBadRequest, codeInvalidFile, "the body ends before its last part does: %v", err)
		}
		switch field(part) {
		case "metadata":
			to, err := readMetadata(part, known)
			if err != nil {
				return err
			}
			waiting = append(waiting, to)
		case "file":
			if len(waiting) == 0 {
				return problem(http.StatusBadRequest, codeInvalidMetadata, "a part \"file\" comes before its part \"metadata\", which says where it goes")
			}
			if err := waiting[0].receive(part); err != nil {
				return err
			}
			waiting = waiting[1:]
			files++
		}
	}
	switch {
	case len(waiting) > 0:
		return problem(http.StatusBadRequest, codeInvalidContent, "the part \"file\" of %s is missing", waiting[0].path)
	case files == 0:
		return problem(http.StatusBadRequest, codeInvalidMetadata, "there is neither a part \"metadata\" nor a part \"file\"")
	}
	return nil
}

// field is the name of a part. It is looked for by hand: the JavaScript SDK writes file names as they are into the same
// header, quotes and all, which no parser takes.
func field(part *multipart.Part) string {
	header := part.Header.Get("Content-Disposition")
	for _, name := range []string{"metadata", "file"} {
		if strings.Contains(header, `; name="`+name+`"`) || strings.Contains(header, ";name="+name) || strings.Contains(header, "; name="+name) {
			return name
		}
	}
	return part.FormName()
}

// target is where a file goes.
type target struct {
	given, path string
	rights      rights
}

func readMetadata(part io.Reader, known *names) (*target, error) {
	content, err := io.ReadAll(io.LimitReader(part, maxMetadata))
	if err != nil {
		return nil, problem(http.StatusBadRequest, codeInvalidMetadata, "read the part \"metadata\": %v", err)
	}
	var m metadata
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, problem(http.StatusBadRequest, codeInvalidMetadata, "the part \"metadata\" is not {\"path\", \"mode\", \"owner\", \"group\"}: %v", err)
	}
	if m.Path == "" {
		return nil, problem(http.StatusBadRequest, codeInvalidMetadata, "the part \"metadata\" has no path")
	}
	path, err := absolute(m.Path)
	if err != nil {
		return nil, err
	}
	rights, err := m.understand(m.Path, known)
	return &target{m.Path, path, rights}, err
}

// receive writes the file beside its place and renames it, so that a broken upload leaves what was there, and nobody
// sees half a file. Where that cannot be (a file that is a mount of its own, a directory that may not be written to) it is
// written in place.
func (t *target) receive(content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
		return err
	}
	t.path = linked(t.path)
	existing, err := os.Stat(t.path)
	switch {
	case err == nil && existing.IsDir():
		return problem(http.StatusBadRequest, codeInvalidFile, "%s is a directory", t.given)
	case err == nil && !existing.Mode().IsRegular():
		return problem(http.StatusBadRequest, codeInvalidFile, "%s is no regular file", t.given)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		existing = nil
	}
	part, err := besides(t.path, existing)
	if err != nil {
		if existing == nil {
			return err
		}
		return t.overwrite(content)
	}
	defer func() { _ = os.Remove(part.Name()) }() // it is not there any more where all went well
	defer part.Close()
	if _, err := io.Copy(part, content); err != nil {
		return received(err)
	}
	if err := t.rights.apply(part.Name()); err != nil {
		return err
	}
	err = os.Rename(part.Name(), t.path)
	if errors.Is(err, syscall.EBUSY) {
		if _, err := part.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return t.overwrite(part)
	}
	return err
}

// linked is where a link leads, also to what is not there yet; one that leads to itself is returned as it is, and refused
// by whoever opens it.
func linked(path string) string {
	there := path
	for range 40 { // as the kernel counts them
		link, err := os.Readlink(there)
		if err != nil {
			return there
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(there), link)
		}
		there = link
	}
	return path
}

// besides makes a file with the owner and mode of the one that it will replace, or of a new one. The reference makes new
// ones that can be run.
func besides(path string, existing fs.FileInfo) (*os.File, error) {
	part, err := os.CreateTemp(filepath.Dir(path), ".execd-upload-")
	if err != nil {
		return nil, err
	}
	mode := uint32(0o755)
	if existing != nil {
		if stat, ok := existing.Sys().(*syscall.Stat_t); ok {
			mode = stat.Mode & 0o7777
			err = part.Chown(int(stat.Uid), int(stat.Gid))
		}
	}
	if err == nil {
		err = syscall.Fchmod(int(part.Fd()), mode)
	}
	if err != nil {
		part.Close()
		return nil, errors.Join(err, os.Remove(part.Name()))
	}
	return part, nil
}

func (t *target) overwrite(content io.Reader) error {
	file, err := os.OpenFile(t.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(received(err), file.Close()); err != nil {
		return err
	}
	return t.rights.apply(t.path)
}

// received tells a body that ended early from a file that cannot be written.
func received(err error) error {
	var of *fs.PathError
	if err == nil || errors.As(err, &of) {
		return err
	}
	return problem(http.StatusBadRequest, codeInvalidContent, "the part \"file\" ends before its boundary: %v", err)
}
