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

package overlay

import (
	"hash/maphash"
	"io"
)

// Lender is a writer whose buffer can be filled in place: a file's content is
// read to where it is needed, without a copy.
type Lender interface {
	io.Writer
	// Lend returns room for at least one byte, which is the caller's until Fill.
	Lend() ([]byte, error)
	// Fill takes the first n bytes of what was lent.
	Fill(n int)
}

// lenderOf makes one of any writer. flush writes what is still in its buffer.
func lenderOf(w io.Writer) (l Lender, flush func() error) {
	if l, ok := w.(Lender); ok {
		return l, func() error { return nil }
	}
	b := &buffered{w: w, buf: make([]byte, 0, 256<<10)}
	return b, b.flush
}

type buffered struct {
	w   io.Writer
	buf []byte
}

func (b *buffered) Lend() ([]byte, error) {
	if len(b.buf) == cap(b.buf) {
		if err := b.flush(); err != nil {
			return nil, err
		}
	}
	return b.buf[len(b.buf):cap(b.buf)], nil
}

func (b *buffered) Fill(n int) { b.buf = b.buf[:len(b.buf)+n] }

func (b *buffered) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		room, err := b.Lend()
		if err != nil {
			return len(p) - len(rest), err
		}
		n := copy(room, rest)
		b.Fill(n)
		rest = rest[n:]
	}
	return len(p), nil
}

func (b *buffered) flush() error {
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

// sink marks the errors of a writer, to tell them from those of reading.
type sink struct {
	to Lender
	// sum takes in all that is written, where there is one; lent is what it has to see.
	sum  *maphash.Hash
	lent []byte
}

type sinkError struct{ error }

func (e *sinkError) Unwrap() error { return e.error }

func (s *sink) Lend() ([]byte, error) {
	room, err := s.to.Lend()
	if err != nil {
		err = &sinkError{err}
	}
	s.lent = room
	return room, err
}

func (s *sink) Fill(n int) {
	if s.sum != nil {
		_, _ = s.sum.Write(s.lent[:n]) // never fails
	}
	s.to.Fill(n)
}

func (s *sink) Write(p []byte) (int, error) {
	if s.sum != nil {
		_, _ = s.sum.Write(p) // never fails
	}
	n, err := s.to.Write(p)
	if err != nil {
		err = &sinkError{err}
	}
	return n, err
}

// nowhere is a Lender that keeps nothing.
type nowhere struct{ buf []byte }

func (n nowhere) Lend() ([]byte, error)       { return n.buf, nil }
func (n nowhere) Fill(int)                    {}
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
