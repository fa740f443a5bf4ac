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
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// moveFiles is POST /files/mv [{src, dest}]. What is at dest is never replaced.
func moveFiles(w http.ResponseWriter, r *http.Request) error {
	var request []struct {
		Source      string `json:"src"`
		Destination string `json:"dest"`
	}
	if err := readJSON(w, r, &request, false); err != nil {
		return err
	}
	for _, item := range request {
		source, err := absolute(item.Source)
		if err != nil {
			return err
		}
		destination, err := absolute(item.Destination)
		if err != nil {
			return err
		}
		if err := move(source, destination); err != nil {
			return err
		}
	}
	return nil
}

func move(source, destination string) error {
	if _, err := os.Lstat(source); err != nil {
		return err
	}
	if strings.HasPrefix(destination, strings.TrimSuffix(source, "/")+"/") {
		return problem(http.StatusBadRequest, codeInvalidFile, "%s cannot be moved into itself, to %s", source, destination)
	}
	if _, err := os.Lstat(destination); err == nil {
		return problem(http.StatusConflict, codeRuntime, "%s is there already; remove it first", destination)
	}
	if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
		return err
	}
	err := os.Rename(source, destination)
	// Between volumes, and of a directory that the image has (overlayfs without redirect_dir), only a copy moves.
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := copyTree(source, destination); err != nil {
		return errors.Join(err, os.RemoveAll(destination))
	}
	return os.RemoveAll(source)
}

// copyTree copies files, directories and links with owners, modes and times.
func copyTree(source, destination string) error {
	var directories []func() error
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(destination, relative)
		switch mode := info.Mode(); {
		case mode.IsDir():
			// Times change and writing may be forbidden once it is as its original: after its content.
			directories = append(directories, func() error { return likeOriginal(to, info) })
			return os.Mkdir(to, 0o700)
		case mode&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, to); err != nil {
				return err
			}
			stat := info.Sys().(*syscall.Stat_t)
			return os.Lchown(to, int(stat.Uid), int(stat.Gid))
		case mode.IsRegular():
			if err := copyFile(path, to); err != nil {
				return err
			}
			return likeOriginal(to, info)
		default:
			return problem(http.StatusBadRequest, codeInvalidFile, "%s is neither file, directory nor link, and cannot be moved to another file system", path)
		}
	})
	for i := len(directories) - 1; i >= 0 && err == nil; i-- {
		err = directories[i]()
	}
	return err
}

func copyFile(source, destination string) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(destination, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

func likeOriginal(path string, info fs.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := syscall.Chmod(path, stat.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return os.Chtimes(path, time.Unix(stat.Atim.Unix()), info.ModTime())
}
